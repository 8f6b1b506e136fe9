# SPDX-License-Identifier: Apache-2.0
"""Sequence errors of real traffic: what is streamed is what a capture of it says."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import loss
import pytest
import sequences
import tap
from numbering import captured
from traffic import V4, Wire, echo_request

from lab.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THRESHOLD = 3000
SYN, FIN, RST = 2, 1, 4
LATEST_NS = 5_000
ERRORS = ("seq_reverse", "seq_small", "seq_big", "seq_duplicate")


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads."""
    with Wire() as wire:
        yield wire


def streamed(records: list[dict[str, Any]], protocol: str) -> tuple[list[Any], list[Any]]:
    """The records and the events of the flows of PROTOCOL toward the receiver."""
    mine = [r for r in records if r.get("protocol") == protocol and r["dst_ip"] == V4[1]]
    return tap.flows(mine), [r for r in mine if r["name"] == "vtap_sequence_error"]


def expect(
    records: list[dict[str, Any]],
    protocol: str,
    model: sequences.Numbers | sequences.Stream,
    expected: list[tuple[int, sequences.Error]],
) -> None:
    """Fields, events and account are what the model made of the capture."""
    found, events = streamed(records, protocol)
    last = max(found, key=lambda record: record["timestamp"])
    assert last["seq_last"] == model.last
    assert last["seq_received"] == model.received
    assert last["seq_missing"] == model.missing
    counts = Counter(
        {"out_of_order": "seq_reverse", "retransmission": "seq_duplicate"}.get(e.kind)
        or (f"seq_{e.kind}" if e.kind != "hole" else None)
        or ("seq_small" if e.distance <= THRESHOLD else "seq_big")
        for _, e in expected
    )
    for name in ERRORS:
        assert sum(record[name] for record in found) == counts[name], name
    assert sum(record["seq_errors"] for record in found) == len(expected)
    said = [sequences.Error(e["kind"], e["expected"], e["received"], e["distance"]) for e in events]
    assert said == [error for _, error in expected]
    for event, (when, _) in zip(events, expected, strict=True):
        assert abs(event["timestamp"] - when) <= LATEST_NS
    assert len({event["timestamp"] for event in events}) == len(events)


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_numbers(wire: Wire, tmp_path: Path, protocol: str) -> None:
    """Numbers behind a pattern, shuffled, doubled and left out: as the capture says."""
    path, head = tmp_path / "in.pcap", b"some header" + struct.pack(">I", 0x5EC70123) + b"--"
    chance = random.Random(5)  # noqa: S311 - traffic, not secrets
    numbers = [n & sequences.MASK for n in range(-200, 400) if chance.random() > 0.05]
    for _ in range(60):
        at = chance.randrange(len(numbers) - 8)
        numbers[at], numbers[at + chance.randrange(8)] = numbers[at + 3], numbers[at]
    options = ("--sequence-offset", "6", "--sequence-pattern", "0x5EC70123")
    with (
        Capture(wire.receiver, "wire0", path, filter=f"dst host {V4[1]}") as capture,
        tap.Tap(
            wire.receiver, *options, "-i", "wire0", "--sequence-threshold", str(THRESHOLD)
        ) as tapped,
    ):
        sender = wire.udp(socket.AF_INET, 7001) if protocol == "udp" else wire.ping(socket.AF_INET)
        for number in numbers:
            data = head + struct.pack(">I", number) + bytes(21)
            if protocol == "icmp":
                data = echo_request(socket.AF_INET, 1, 0)[:8] + data
                total = sum(struct.unpack(f">{len(data) // 2}H", data[:2] + b"\0\0" + data[4:]))
                total = (total >> 16) + (total & 0xFFFF)
                checksum = ~(total + (total >> 16)) & 0xFFFF
                data = data[:2] + struct.pack(">H", checksum) + data[4:]
            sender.send(data)
        wire.settle()
        capture.stop()
        records = tapped.stop()
    model, expected = sequences.Numbers(THRESHOLD), []
    for when, ip in captured(path):
        data = bytes(ip)[28:]
        (number,) = struct.unpack_from(">I", data, data.index(head[11:15]) + 6)
        if error := model.take(number):
            expected.append((when, error))
    assert model.received == len(numbers)
    expect(records, protocol, model, expected)
    account = tap.agent(records, "wire0")
    assert account["events_handed"] == len(expected)
    assert account["events_suppressed"] == 0


@pytest.mark.parametrize("every", [7, 100])
def test_stream_with_loss(wire: Wire, tmp_path: Path, every: int) -> None:
    """TCP with every n-th packet lost: holes and retransmissions as the capture says."""
    path = tmp_path / "in.pcap"
    with (
        loss.ahead(wire.receiver, "wire0", every),
        Capture(wire.receiver, "wire0", path, filter=f"tcp and dst host {V4[1]}") as capture,
        tap.Tap(
            wire.receiver,
            *("--sequence", "-i", "wire0", "--max-events", "100000"),
            *("--sequence-threshold", str(THRESHOLD)),
        ) as tapped,
    ):
        ours, theirs = wire.tcp(socket.AF_INET, 7002)
        # Never so much on its way that more holes are open than the program remembers.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * every * 1448)
        size = 3_000_000 if every == 100 else 300_000
        reader = threading.Thread(target=_read, args=(theirs, size))
        reader.start()
        ours.sendall(bytes(size))
        ours.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert not reader.is_alive()
        wire.settle()
        capture.stop()
        records = tapped.stop()
    model, expected = sequences.Stream(THRESHOLD), []
    for when, ip in captured(path):
        segment = ip.data
        assert not segment.flags & RST
        marks = bool(segment.flags & SYN) + bool(segment.flags & FIN)
        length = ip.len - 4 * ip.hl - 4 * segment.off + marks
        if error := model.take(segment.seq, length, marks):
            expected.append((when, error))
    assert model.missing == 0
    kinds = Counter(error.kind for _, error in expected)
    assert kinds["hole"] > 5
    assert kinds["out_of_order"] > 5
    expect(records, "tcp", model, expected)


def _read(connection: socket.socket, size: int) -> None:
    while size and (part := connection.recv(1 << 16)):
        size -= len(part)


def test_suppressed(wire: Wire) -> None:
    """Errors beyond --max-events are not sent but counted: sent + suppressed = errors."""
    with tap.Tap(
        wire.receiver, "--sequence-offset", "0", "--max-events", "10", "-i", "wire0"
    ) as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        until = time.monotonic() + 1.2
        count = 0
        while time.monotonic() < until or count < 500:
            sender.send(bytes(20))
            count += 1
        wire.settle()
        records = tapped.stop()
    found, events = streamed(records, "udp")
    account = tap.agent(records, "wire0")
    assert sum(record["seq_duplicate"] for record in found) == count - 1
    assert account["events_handed"] == len(events)
    assert account["events_handed"] + account["events_suppressed"] == count - 1
    assert 10 <= len(events) <= 40
    assert max(Counter(event["timestamp"] for event in events).values()) == 1


def test_absent_where_off(wire: Wire) -> None:
    """Without the options, and in flows without numbers, there is no such field."""
    for options, names in (((), 0), (("--sequence", "--smoothed-jitter"), 1)):
        with tap.Tap(wire.receiver, *options, "-i", "wire0") as tapped:
            sender = wire.udp(socket.AF_INET, 7001 + names)
            for _ in range(3):
                sender.send(b"x")
            wire.settle()
            records = tapped.stop()
        (flow, *_), _ = streamed(records, "udp")
        assert not any(name.startswith("seq_") for name in flow)
        assert ("jitter_rfc3550_ms" in flow) == bool(names)
        assert ("events_handed" in tap.agent(records, "wire0")) == bool(names)
