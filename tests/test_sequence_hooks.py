# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers at every hook, and inside tunnels: the same as anywhere else."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sequences
import tap
from numbering import (
    COUNTED_AS,
    ERRORS,
    PATTERN,
    SYN,
    THRESHOLD,
    Checker,
    agree,
    captured,
    ip,
    tcp,
    udp,
)
from program import NOT_LINEAR
from program import Wire as Loopback
from traffic import V4, V6, Wire, together
from tunnelling import erspan2, geneve, gre, gtpu, vxlan

from lab.capture import Capture
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.probes.flows.settings import HOOKS, TUNNELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORD = struct.pack(">I", PATTERN)
UDP, IPIP, GRE, ESP = 17, 4, 47, 50
IPV4 = 0x0800
FAR = 5000  # bytes: behind the first page
TUNNELLED = {
    "no tunnel": lambda frame: frame,
    "VXLAN": lambda frame: ip(UDP, vxlan(frame)),
    "Geneve": lambda frame: ip(UDP, geneve(frame, options=bytes(8))),
    "GRE": lambda frame: ip(GRE, gre(frame[14:], IPV4)),
    "ERSPAN": lambda frame: ip(GRE, erspan2(frame)),
    "GTP-U": lambda frame: ip(UDP, gtpu(frame[14:])),
    "IP in IP": lambda frame: ip(IPIP, frame[14:]),
}


def carrying(number: int) -> bytes:
    """A payload with NUMBER both at offset 3, and 6 bytes behind the pattern."""
    return b"abc" + struct.pack(">I", number) + bytes(50) + WORD + b"xy" + struct.pack(">I", number)


def shuffled(seed: int, count: int = 120) -> list[int]:
    """Numbers around the wrap, some left out, some doubled, some out of their places."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
    numbers = [n & sequences.MASK for n in range(-count // 2, count // 2) if chance.random() > 0.05]
    for _ in range(count // 8):
        at = chance.randrange(len(numbers) - 8)
        numbers[at], numbers[at + chance.randrange(8)] = numbers[at + 3], numbers[at]
    return numbers


# The programs by themselves


@pytest.fixture(scope="module", params=["offset", "pattern"])
def where(request: pytest.FixtureRequest) -> dict[str, int]:
    """How the number is found."""
    return {"offset": 3} if request.param == "offset" else {"offset": 6, "pattern": PATTERN}


@pytest.fixture(scope="module", params=HOOKS)
def checker(request: pytest.FixtureRequest, where: dict[str, int]) -> Iterator[Checker]:
    """Every hook, looking into every tunnel."""
    checker = Checker(hook=request.param, decapsulate=TUNNELS, **where)
    yield checker
    checker.program.close()


@pytest.mark.parametrize("name", TUNNELLED)
def test_numbers(checker: Checker, name: str) -> None:
    """Counts, events and what is missing of the numbers that inner packets carry: as the model."""
    model, expected, source = sequences.Numbers(THRESHOLD), [], checker.fresh()
    for number in shuffled(len(name)):
        checker.pass_(TUNNELLED[name](udp(carrying(number), source)))
        expected.append(model.take(number))
    assert any(expected)
    agree(checker, model, [error for error in expected if error])


@pytest.mark.parametrize("name", TUNNELLED)
def test_streams(checker: Checker, name: str) -> None:
    """TCP's own numbers inside a tunnel, with holes, overlaps and fillings: as the model."""
    model, expected, source = sequences.Stream(THRESHOLD), [], checker.fresh()
    chance = random.Random(len(name))  # noqa: S311 - traffic, not secrets
    place = (1 << 32) - 90
    for _ in range(7):
        length = chance.randrange(40)
        checker.pass_(TUNNELLED[name](tcp(place, length, source=source)))
        expected.append(model.take(place, length))
        place = (model.last + chance.choice((0, 0, 25, -10, -45))) & sequences.MASK
    assert any(expected)
    agree(checker, model, [error for error in expected if error])


@pytest.mark.parametrize("name", [name for name in TUNNELLED if name != "no tunnel"])
def test_no_number_inside(checker: Checker, name: str) -> None:
    """What the inner packet's protocol has no number for has none, whatever is outside."""
    checker.pass_(TUNNELLED[name](ip(ESP, carrying(7), checker.fresh())))
    (record,) = checker.close()
    assert record["protocol"] == ESP
    assert (record["packets"], record["seq_received"]) == (1, 0)


@pytest.mark.parametrize("hook", ["xdp", "socket"])
@pytest.mark.parametrize("name", ["no tunnel", "VXLAN"])
def test_pattern_where_memory_is_not_linear(hook: str, name: str) -> None:
    """The pattern is found wherever it lies in buffers of a packet that has several."""
    checker = Checker(hook=hook, decapsulate=TUNNELS, offset=6, pattern=PATTERN)
    places = (0, 1400, *range(3380, 3500, 7), 4995, 4996)  # XDP's first buffer ends among these
    for place in places:
        payload = bytes(place) + WORD + b"xy" + struct.pack(">I", place)
        frame = TUNNELLED[name](udp(payload.ljust(NOT_LINEAR, b"\0"), checker.fresh()))
        assert last_number(checker, frame) == place
    checker.program.close()


@pytest.mark.parametrize("hook", HOOKS)
def test_offset_where_memory_is_not_linear(hook: str) -> None:
    """The number is read also far behind what is linear in memory."""
    checker = Checker(hook=hook, decapsulate=TUNNELS, offset=FAR)
    for wrapped in TUNNELLED.values():
        payload = bytes(FAR) + struct.pack(">I", 77) + bytes(1000)
        assert last_number(checker, wrapped(udp(payload, checker.fresh()))) == 77
    checker.program.close()


def last_number(checker: Checker, frame: bytes) -> int | None:
    """What the program takes for the number of FRAME, which is in several buffers."""
    if checker.program.hook == "xdp":
        checker.pass_(frame)
        records = checker.close()
    else:  # a test run gives all others linear memory only
        with Loopback(checker.program, Direction.INGRESS) as wire:
            wire.put(frame)
            deadline = time.monotonic() + tap.DEADLINE
            while not (records := checker.close()):
                assert time.monotonic() < deadline
    (record,) = records
    return record["seq_last"] if record["seq_received"] else None


# Real traffic


def test_same_errors(tmp_path: Path) -> None:
    """All hooks, on one interface at the same time, say of the same traffic what a capture says."""
    options = ("--sequence-offset", "6", "--sequence-pattern", f"{PATTERN:X}", "-i", "wire0")
    threshold, path = ("--sequence-threshold", str(THRESHOLD)), tmp_path / "in.pcap"
    numbers = {family: shuffled(family, 400) for family in (socket.AF_INET, socket.AF_INET6)}
    with (
        Wire() as wire,
        Capture(wire.receiver, "wire0", path, filter=f"tcp and dst host {V4[1]}") as capture,
    ):
        taps = [tap.Tap(wire.receiver, *options, *threshold, "--hook", hook) for hook in HOOKS]
        for tapped in taps:
            tapped.__enter__()
        try:
            senders = {family: wire.udp(family, 7001) for family in numbers}
            ours, _ = wire.tcp(socket.AF_INET, 7002)
            together(
                *(
                    lambda s=senders[f], n=n: [s.send(carrying(number)) for number in n]
                    for f, n in numbers.items()
                ),
                lambda: [ours.sendall(bytes(n * 7)) for n in range(100)],
            )
            wire.settle()
            capture.stop()
            streamed = [tapped.stop() for tapped in taps]
        finally:
            for tapped in taps:
                tapped.__exit__()
    stream, retransmitted = sequences.Stream(THRESHOLD), []
    for _, packet in captured(path):
        segment = packet.data
        length = packet.len - 4 * packet.hl - 4 * segment.off
        retransmitted.append(stream.take(segment.seq, length + bool(segment.flags & SYN)))
    for records in streamed:
        for family, address in ((socket.AF_INET, V4[1]), (socket.AF_INET6, V6[1])):
            model = sequences.Numbers(THRESHOLD)
            said = [model.take(number) for number in numbers[family]]
            compare(records, (address, "7001"), model, said)
        compare(records, (V4[1], "7002"), stream, retransmitted)


def compare(
    records: list[dict[str, Any]],
    destination: tuple[str, str],
    model: sequences.Numbers | sequences.Stream,
    said: list[sequences.Error | None],
) -> None:
    """What was streamed of the one flow to DESTINATION is what the model says."""
    mine = [r for r in records if (r.get("dst_ip"), r.get("dst_port")) == destination]
    flows = sorted(tap.flows(mine), key=lambda r: r["timestamp"])
    expected = [error for error in said if error]
    assert flows[-1]["seq_received"] == model.received == len(said)
    assert (flows[-1]["seq_last"], flows[-1]["seq_missing"]) == (model.last, model.missing)
    counts = Counter(COUNTED_AS[e.kind] for e in expected)  # nothing is lost: there are no holes
    for name in ERRORS:
        assert sum(r[f"seq_{name}"] for r in flows) == counts[name], name
    assert [
        sequences.Error(r["kind"], r["expected"], r["received"], r["distance"])
        for r in mine
        if r["name"] == "vtap_sequence_error"
    ] == expected
