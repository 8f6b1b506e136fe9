# SPDX-License-Identifier: Apache-2.0
"""Rules: what cannot be is refused with a reason, and the kernel program does what they say."""

from __future__ import annotations

import contextlib
import random
import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from matcher import NAMES, Packet, first_match
from program import FlowProgram, settings
from rulesets import WITH_PORTS, crowded, inside, outside

from bench.rules import texts
from trapstream_vtap.errors import UsageError
from trapstream_vtap.probes.flows import wanted
from trapstream_vtap.probes.flows.program import source
from trapstream_vtap.probes.flows.rules import parse_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

ETHER = bytes(12)
HEADERS = {1: 8, 6: 20, 17: 8, 58: 8, 132: 12, 136: 8}

ERRORS = {
    "four words": (["- - - -"], "it has 4 words where five belong: source, .*"),
    "no words": ([""], "it has 0 words where five belong: .*"),
    "a list with a space": (["[10.0.0.1, 10.0.0.2] - - - -"], "it has 6 words where five .*"),
    "second rule": (["- - - - tcp", "x - - - -"], "source 'x': that is no IPv4 or IPv6 address.*"),
    "no address": (["- 10.0.0.256 - - -"], "destination '10.0.0.256': that is no IPv4 or IPv6 .*"),
    "host bits": (
        ["10.0.0.1/8 - - - -"],
        "source '10.0.0.1/8': it has bits set behind the prefix; the network is 10.0.0.0/8.",
    ),
    "host bits IPv6": (
        ["- 2001:db8::1/32 - - -"],
        "destination '2001:db8::1/32': it has bits .* the network is 2001:db8::/32.",
    ),
    "netmask": (["10.0.0.0/255.0.0.0 - - - -"], "source '10.0.0.0/255.0.0.0': behind the / .*"),
    "prefix too long": (["10.0.0.0/33 - - - -"], "source '10.0.0.0/33': that is no IPv4 or .*"),
    "zone": (["fe80::1%eth0 - - - -"], "source 'fe80::1%eth0': an address has no zone here; .*"),
    "open list": (["[10.0.0.1 - - - -"], r"source '\[10.0.0.1': a list begins with \[ and .*"),
    "empty list": (["[] - - - -"], r"source '\[\]': a value is missing in the list."),
    "gap in a list": (["- - [1,,2] - udp"], r"source port '\[1,,2\]': a value is missing .*"),
    "any in a list": (["- - [1,-] - udp"], r"source port '\[1,-\]': '-' \(any\) cannot stand .*"),
    "port too high": (["- - 65536 - udp"], "source port '65536': a port is a number from 0 to .*"),
    "port by name": (["- - - http tcp"], "destination port 'http': a port is a number from .*"),
    "open range": (["- - - 80- tcp"], "destination port '80-': a port is a number from 0 to .*"),
    "negative port": (["- - - -80 tcp"], "destination port '-80': a port is a number from 0 .*"),
    "empty range": (
        ["- - - 90-80 tcp"],
        "destination port '90-80': the range is empty, its first port is above its last.",
    ),
    "protocol": (
        ["- - - - http"],
        "protocol 'http': there is no such protocol; there are icmp, .*",
    ),
    "protocol 256": (["- - - - 256"], "protocol '256': there is no such protocol; .* 0 to 255."),
    "ports without": (
        ["- - - 80 icmp"],
        "it can never match: the protocol 'icmp' has no ports; write '-' for both, or one of .*",
    ),
    "versions": (
        ["10.0.0.0/8 2001:db8::/32 - - -"],
        "it can never match: the source '10.0.0.0/8' and the destination '2001:db8::/32' are of .*",
    ),
    "twice": (
        ["- - - 80 tcp", "- - - 80 tcp"],
        "it can never be the first to match: rule 1, '- - - 80 tcp', matches all that it does.*",
    ),
    "shadowed": (
        ["- - - - udp", "10.0.0.0/8 - - - -", "10.1.0.0/16 - 1-9 [7,9] [tcp,udp]"],
        "it can never be the first to match: rule 2, '10.0.0.0/8 - - - -', matches all .*",
    ),
    "shadowed by a list": (
        ["[10.0.0.0/9,10.128.0.0/9,::/0] - - - -", "[10.0.0.0/8,2001:db8::1] - - - -"],
        "it can never be the first to match: rule 1, .*",
    ),
    "C text": (["- - - 80;} tcp"], "destination port '80;}': a port is a number from 0 to .*"),
    "other digits": (["- - ٣ - udp"], "source port '٣': a port is a number from 0 to 65535, .*"),
    "other digits in a prefix": (["10.0.0.0/٨ - - - -"], "source '10.0.0.0/٨': behind the / .*"),
}

ALLOWED = {
    "everything": ["- - - - -"],
    "narrow before wide": ["10.1.0.0/16 - - - -", "10.0.0.0/8 - - - -"],
    "ports before none": ["- - - 0-65535 -", "- - - - udp"],
    "two halves": ["- - - 0-99 udp", "- - - 100-200 udp", "- - - 0-200 udp"],
    "mixed versions": ["[10.0.0.0/8,2001:db8::/32] 2001:db8::1 - - -", "10.0.0.1 - - - -"],
    "names": ["- - 1 - [TCP,udp,sctp,UDPlite]", "- - - - [icmp,icmpv6,ipv6-icmp,gre]"],
    "numbers": ["- - - - [0,255,6]"],
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    """A rule that cannot be, or never match, is refused by its number, its text, word and why."""
    rules, sentence = ERRORS[case]

    with pytest.raises(UsageError) as caught:
        parse_rules(rules)

    where = f"rule {len(rules)}, {rules[-1]!r}: "
    assert str(caught.value).startswith(where)
    assert re.fullmatch(sentence, str(caught.value).removeprefix(where))


@pytest.mark.parametrize("case", ALLOWED)
def test_allowed(case: str) -> None:
    """Rules that overlap are no error as long as each can be the first to match something."""
    assert len(parse_rules(ALLOWED[case])) == len(ALLOWED[case])


def frame(packet: Packet) -> bytes:
    """The packet on an Ethernet."""
    header = bytearray(HEADERS.get(packet.protocol, 0))
    if packet.ports:
        struct.pack_into(">HH", header, 0, *packet.ports)
    if packet.protocol == 6:
        header[12] = 0x50
    if packet.protocol == 17:
        struct.pack_into(">H", header, 4, len(header))
    ends = packet.src.packed + packet.dst.packed
    if packet.src.version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(header), 0, 0, 64, packet.protocol, 0)
        return ETHER + b"\x08\x00" + ip + ends + header
    ip = struct.pack(">IHBB", 6 << 28, len(header), packet.protocol, 64)
    return ETHER + b"\x86\xdd" + ip + ends + header


@contextlib.contextmanager
def loaded(rules: list[str]) -> Iterator[FlowProgram]:
    """The real program with RULES."""
    program = FlowProgram(settings(direction="ingress", layers=(True,), rules=rules))
    try:
        yield program
    finally:
        program.close()


def check(program: FlowProgram, rules: list[str], packet: Packet) -> bool:
    """Assert that the program counts or filters PACKET as the rules say; whether it counts."""
    expected = not rules or first_match(rules, packet) is not None
    data = frame(packet)
    outcome = program.run(data)
    reason = "counted" if expected else "filtered"
    assert outcome.reason == reason, (packet, rules)
    assert outcome.count(reason) == outcome.count("seen") == (1, len(data))
    assert len(outcome.flows) == expected
    return expected


def _near(number: int, bits: int) -> st.SearchStrategy[int]:
    """NUMBER, or one beside it."""
    return st.integers(-1, 1).map(lambda step: (number + step) % (1 << bits))


# few bases, so that rules overlap and packets meet them
_BASES = {
    4: [int(IPv4Address(a)) for a in ("0.0.0.1", "10.0.0.0", "10.0.0.129", "192.0.2.1")]
    + [(1 << 32) - 1, 1 << 31],
    6: [int(IPv6Address(a)) for a in ("::", "2001:db8::", "2001:db8::8000:0:0:1", "fe80::1")]
    + [(1 << 128) - 1, 1 << 127, 1 << 64, (1 << 64) - 1],
}
_PORTS = (0, 1, 53, 80, 81, 1024, 8000, 8100, 65534, 65535)


@st.composite
def _prefix(draw: st.DrawFn, version: int) -> str:
    bits = {4: 32, 6: 128}[version]
    length = draw(st.sampled_from((0, 1, 8, 24, 31, 32, 48, 63, 64, 65, 127, 128)))
    kind = {4: IPv4Address, 6: IPv6Address}[version]
    address = kind(draw(st.sampled_from(_BASES[version]).flatmap(lambda n: _near(n, bits))))
    if length >= bits:
        return str(address)
    return str(ip_network((address, length), strict=False))


def _word(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Any, a value, or a list."""
    lists = st.lists(values, min_size=1, max_size=5).map(lambda some: f"[{','.join(some)}]")
    return st.one_of(st.just("-"), values, lists)


@st.composite
def _port(draw: st.DrawFn) -> str:
    first, last = sorted(draw(st.tuples(st.sampled_from(_PORTS), st.integers(0, 65535))))
    return draw(st.sampled_from((str(first), str(last), f"{first}-{last}")))


@st.composite
def _rule(draw: st.DrawFn) -> str:
    versions = draw(st.sampled_from(((4,), (6,), (4, 6))))
    addresses = st.one_of([_prefix(version) for version in versions])
    words = [draw(_word(addresses)) for _ in range(2)]
    ports = [draw(_word(_port())) for _ in range(2)] if draw(st.booleans()) else ["-", "-"]
    names = [name for name in NAMES if ports == ["-", "-"] or NAMES[name] in WITH_PORTS]
    protocols = st.sampled_from(names + [str(NAMES[name]) for name in names])
    return " ".join((*words, *ports, draw(_word(protocols))))


def rule_sets(most: int) -> st.SearchStrategy[list[str]]:
    """Rules of all kinds, without those that can never match."""

    def possible(rules: list[str]) -> list[str]:
        kept: list[str] = []
        for rule in rules:
            with contextlib.suppress(UsageError):
                parse_rules([*kept, rule])
                kept.append(rule)
        return kept

    return st.lists(_rule(), min_size=1, max_size=most).map(possible)


@st.composite
def _packet(draw: st.DrawFn) -> Packet:
    version = draw(st.sampled_from((4, 6)))
    bits, kind = {4: (32, IPv4Address), 6: (128, IPv6Address)}[version]
    near = st.sampled_from(_BASES[version]).flatmap(lambda n: _near(n, bits))
    source, destination = (kind(draw(near | st.integers(0, (1 << bits) - 1))) for _ in range(2))
    protocol = draw(st.sampled_from((*NAMES.values(), 255)))
    port = st.sampled_from(_PORTS).flatmap(lambda n: _near(n, 16)) | st.integers(0, 65535)
    ports = (draw(port), draw(port)) if protocol in WITH_PORTS else None
    return Packet(source, destination, ports, protocol)


@hypothesis(derandomize=True, deadline=None, max_examples=10)
@given(rules=rule_sets(24), packets=st.lists(_packet(), min_size=60, max_size=60))
def test_compiler_against_matcher(rules: list[str], packets: list[Packet]) -> None:
    """Whatever the rules, the kernel program counts exactly the packets that plain Python does."""
    with loaded(rules) as program:
        for packet in packets:
            check(program, rules, packet)


@pytest.mark.parametrize("kind", ["usual", "crowded"])
def test_256_rules(kind: str) -> None:
    """256 rules, or 64 full of lists and ranges, load and count what they say."""
    rules = texts(256) if kind == "usual" else crowded(64, 3)

    chance = random.Random(5)  # noqa: S311 - rules, not secrets
    counted = 0
    with loaded(rules) as program:
        for rule in rules:
            packet = inside(rule, chance)
            assert check(program, rules, packet)
            counted += check(program, rules, outside(packet, chance))
    assert 0 < counted < len(rules)


def test_later_fragment_has_no_ports() -> None:
    """A later fragment matches no rule that asks for a port, and every other one."""
    data = bytearray(frame(Packet(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), (7, 9), 17)))
    data[20:22] = b"\x00\x01"  # fragment offset 8
    for rules, reason in ((["- - - 0-65535 -"], "filtered"), (["- - - - udp"], "counted")):
        with loaded(rules) as program:
            assert program.run(bytes(data)).reason == reason


def test_no_rules_cost_nothing() -> None:
    """Without rules the program's text has no function for them."""
    assert "wanted(u64" not in source(settings()).text
    assert "#define RULES" not in source(settings()).text


def test_too_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules beyond what a kernel program can hold are refused with what to do."""
    monkeypatch.setattr(wanted, "MOST_INSTRUCTIONS", 500)

    with pytest.raises(UsageError, match=r"256 rules with too many values for a kernel"):
        wanted.define_wanted(parse_rules(texts(256)))


def test_split_into_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that are cut into groups to fit mean the same."""
    rules = texts(256)
    monkeypatch.setattr(wanted, "MOST_INSTRUCTIONS", 8000)
    assert "wanted_1(" in wanted.define_wanted(parse_rules(rules))
    chance = random.Random(7)  # noqa: S311 - rules, not secrets
    with loaded(rules) as program:
        for rule in rules:
            packet = inside(rule, chance)
            assert check(program, rules, packet)
            check(program, rules, outside(packet, chance))


def test_only_numbers_reach_the_compiler() -> None:
    """No text of a rule stands in the text that is compiled."""
    text = wanted.define_wanted(parse_rules(["[10.0.0.0/8,2001:db8::/32] - - 80-90 [TCP,udplite]"]))

    assert not re.search(r"TCP|udplite|::|10\.|80-90|/32", text)
