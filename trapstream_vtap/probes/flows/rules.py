# SPDX-License-Identifier: Apache-2.0
"""Which packets count: rules of five words, read into ranges of numbers.

A rule is "source destination source_port destination_port protocol". Each word is `-` (any), a
value, or a list `[a,b]`. A packet counts if a rule matches it; the first one that does wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Ranges = tuple[tuple[int, int], ...]
"""Numbers from first to last, both within: sorted, apart from each other."""

WORDS = ("source", "destination", "source port", "destination port", "protocol")
PROTOCOLS = {  # IANA protocol numbers, by the names of /etc/protocols
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "dccp": 33,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "sctp": 132,
    "udplite": 136,
}
WITH_PORTS = tuple(PROTOCOLS[name] for name in ("tcp", "udp", "sctp", "udplite"))
_MOST_PORT, _MOST_PROTOCOL = (1 << 16) - 1, (1 << 8) - 1
_BITS = {4: 32, 6: 128}


class RuleError(UsageError):
    """A rule that cannot be, or can never match; the sentence says which word and why."""


@dataclass(frozen=True)
class Rule:
    """A rule as numbers.

    Args:
        text: As written, for messages only.
        addresses: By IP version (4, 6) the ranges of source and destination; a version that the
            rule cannot match is absent.
        ports: Ranges of source and of destination port; None: any, also where there are no ports.
        protocol: Ranges of the protocol's number.
    """

    text: str
    addresses: dict[int, tuple[Ranges, Ranges]]
    ports: tuple[Ranges | None, Ranges | None]
    protocol: Ranges

    def covers(self, other: Rule) -> bool:
        """Whether every packet that OTHER matches matches this rule too."""
        return (
            all(
                version in self.addresses
                and _within(source, self.addresses[version][0])
                and _within(destination, self.addresses[version][1])
                for version, (source, destination) in other.addresses.items()
            )
            and all(
                mine is None or (theirs is not None and _within(theirs, mine))
                for mine, theirs in zip(self.ports, other.ports, strict=True)
            )
            and _within(other.protocol, self.protocol)
        )


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """The rules, in order.

    Raises:
        RuleError: One of them cannot be read, or can never match.
    """
    rules: list[Rule] = []
    for number, text in enumerate(texts, 1):
        where = f"rule {number}, {text!r}: "
        try:
            rule = parse_rule(text)
        except RuleError as error:
            raise RuleError(f"{where}{error}") from error
        for earlier, other in enumerate(rules, 1):
            if other.covers(rule):
                raise RuleError(
                    f"{where}it can never be the first to match: rule {earlier}, {other.text!r}, "
                    "matches all that it does. Remove one of them, or put this one first."
                )
        rules.append(rule)
    return tuple(rules)


def parse_rule(text: str) -> Rule:
    """One rule.

    Raises:
        RuleError: It cannot be read, or can never match.
    """
    words = text.split()
    if len(words) != len(WORDS):
        raise RuleError(
            f"it has {len(words)} words where five belong: source, destination, source port, "
            "destination port, protocol; '-' is any, and a list [a,b] has no spaces."
        )
    source, destination = (_addresses(name, w) for name, w in zip(WORDS[:2], words, strict=False))
    addresses = {
        version: (source[version], destination[version])
        for version in _BITS
        if source[version] and destination[version]
    }
    if not addresses:
        raise RuleError(
            f"it can never match: the source {words[0]!r} and the destination {words[1]!r} are of "
            "different IP versions."
        )
    ports = (_ports(WORDS[2], words[2]), _ports(WORDS[3], words[3]))
    protocol = _numbers(WORDS[4], words[4], _protocol) or ((0, _MOST_PROTOCOL),)
    if ports != (None, None):
        protocol = _union((n, n) for n in WITH_PORTS if _within(((n, n),), protocol))
        if not protocol:
            raise RuleError(
                f"it can never match: the protocol {words[4]!r} has no ports; write '-' for both, "
                "or one of tcp, udp, sctp, udplite."
            )
    return Rule(text, addresses, ports, protocol)


def _addresses(name: str, word: str) -> dict[int, Ranges]:
    """Ranges by IP version, empty where WORD has no address of it."""
    if word == "-":
        return {version: ((0, (1 << bits) - 1),) for version, bits in _BITS.items()}
    found: dict[int, list[tuple[int, int]]] = {version: [] for version in _BITS}
    for item in _items(name, word):
        if "%" in item:
            raise RuleError(
                f"{name} {item!r}: an address has no zone here; the option --interface chooses one."
            )
        if "/" in item and not re.fullmatch(r"[^/]+/[0-9]{1,3}", item):
            raise RuleError(
                f"{name} {item!r}: behind the / belongs the number of bits, such as 10.0.0.0/8."
            )
        try:
            network = ip_network(item)
        except ValueError as error:
            why = "that is no IPv4 or IPv6 address or prefix"
            if "host bits" in str(error):
                net = ip_network(item, strict=False)
                why = f"it has bits set behind the prefix; the network is {net}"
            raise RuleError(f"{name} {item!r}: {why}.") from error
        first = int(network.network_address)
        found[network.version].append((first, first + network.num_addresses - 1))
    return {version: _union(ranges) for version, ranges in found.items()}


def _ports(name: str, word: str) -> Ranges | None:
    return _numbers(name, word, _port)


def _numbers(name: str, word: str, convert: Callable[[str], tuple[int, int]]) -> Ranges | None:
    """The ranges of WORD; None for any."""
    if word == "-":
        return None
    found = []
    for item in _items(name, word):
        try:
            found.append(convert(item))
        except ValueError as error:
            raise RuleError(f"{name} {item!r}: {error}.") from error
    return _union(found)


def _items(name: str, word: str) -> list[str]:
    """The values in WORD: itself, or those of a list."""
    if not word.startswith("[") and not word.endswith("]"):
        return [word]
    if not (word.startswith("[") and word.endswith("]")):
        raise RuleError(f"{name} {word!r}: a list begins with [ and ends with ], without spaces.")
    items = word[1:-1].split(",")
    if "" in items:
        raise RuleError(f"{name} {word!r}: a value is missing in the list.")
    if "-" in items:
        raise RuleError(f"{name} {word!r}: '-' (any) cannot stand in a list; write it alone.")
    return items


def _port(item: str) -> tuple[int, int]:
    first, dash, last = item.partition("-")
    ends = (first, last if dash else first)
    if not all(re.fullmatch("[0-9]{1,5}", end) and int(end) <= _MOST_PORT for end in ends):
        raise ValueError(f"a port is a number from 0 to {_MOST_PORT}, a range two with - between")
    if int(ends[0]) > int(ends[1]):
        raise ValueError("the range is empty, its first port is above its last")
    return int(ends[0]), int(ends[1])


def _protocol(item: str) -> tuple[int, int]:
    number = PROTOCOLS.get(item.lower(), -1)
    if re.fullmatch("[0-9]{1,3}", item):
        number = int(item)
    if not 0 <= number <= _MOST_PROTOCOL:
        raise ValueError(
            f"there is no such protocol; there are {', '.join(PROTOCOLS)}, and numbers from 0 to "
            f"{_MOST_PROTOCOL}"
        )
    return number, number


def _union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same numbers in as few ranges as there can be."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _within(inner: Ranges, outer: Ranges) -> bool:
    """Whether every number of INNER is in OUTER."""
    return all(any(a <= first and last <= b for a, b in outer) for first, last in inner)
