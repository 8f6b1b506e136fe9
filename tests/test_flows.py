# SPDX-License-Identifier: Apache-2.0
"""Real traffic in namespaces: what is streamed equals what a capture of the same packets says."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import captured
import intervals
import pytest
import tap
from traffic import INBOUND, V4, Wire, echo_request, paced, together

from lab.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAGS = {"device": socket.gethostname(), "direction": "ingress", "interface": "wire0"}


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads: what passes is what was sent."""
    with Wire() as wire:
        yield wire


def test_all_protocols_exact(wire: Wire, tmp_path: Path) -> None:
    """Per flow and interval, every field: counts exact, times within 5 µs of the capture."""
    path = tmp_path / "in.pcap"
    with (
        Capture(wire.receiver, "wire0", path, filter=INBOUND) as capture,
        tap.Tap(wire.receiver, "-i", "wire0") as tapped,
    ):
        tap.wait_past_line()
        drives = []
        for family in (socket.AF_INET, socket.AF_INET6):
            datagrams, (ours, theirs), ping = (
                wire.udp(family, 7001),
                wire.tcp(family, 7002),
                wire.ping(family),
            )
            drives += [
                lambda s=datagrams: paced(4, 0.010, lambda n: s.send(bytes(n % 1400)), 1),
                lambda s=ours: paced(4, 0.015, lambda n: s.send(bytes(1 + n % 1300)), 2),
                lambda s=theirs: paced(4, 0.020, lambda n: s.send(bytes(1 + n % 900)), 3),
                lambda s=ping, f=family: paced(
                    4, 0.012, lambda n: s.send(echo_request(f, n, n % 1000)), 4
                ),
            ]
        together(*drives)
        wire.settle()
        capture.stop()
        found = captured.packets(path)
        records = tapped.stop()
    plain = intervals.Choices()
    intervals.agree(records, intervals.expect(found, plain), plain, TAGS)
    account = tap.agent(records, "wire0")
    assert account["seen_packets"] == len(found)
    assert account["seen_bytes"] == sum(packet.bytes for packet in found)
    assert account["counted_packets"] == account["packets_handed"] == len(found)
    assert tap.delivered(records)["packets_delivered"] == len(found)
    assert {p.flow.protocol for p in found} == {"udp", "tcp", "icmp", "icmpv6"}


@pytest.mark.parametrize("direction", ["egress", "both"])
def test_direction(wire: Wire, tmp_path: Path, direction: str) -> None:
    """Egress is what leaves, both is both, and each flow says which it is."""
    path = tmp_path / "all.pcap"
    with (
        Capture(wire.receiver, "wire0", path) as capture,
        tap.Tap(wire.receiver, "-i", "wire0", "--direction", direction) as tapped,
    ):
        ping = wire.ping(socket.AF_INET)  # the kernel answers each
        tap.wait_past_line()
        for number in range(20):
            ping.send(echo_request(socket.AF_INET, number, number))
        wire.settle()
        capture.stop()
        found = captured.packets(path)
        records = tapped.stop()
    outward = [packet for packet in found if packet.flow.src_ip == V4[1]]
    expected = outward if direction == "egress" else found
    assert len(outward) == 20
    totals = {
        (r["src_ip"], r["direction"]): (r["packets"], r["bytes"], r["payload_bytes"])
        for r in tap.flows(records)
    }
    for source in {packet.flow.src_ip for packet in expected}:
        mine = [packet for packet in expected if packet.flow.src_ip == source]
        side = "egress" if source == V4[1] else "ingress"
        assert totals.pop((source, side)) == (
            len(mine),
            sum(packet.bytes for packet in mine),
            sum(packet.payload for packet in mine),
        )
    assert not totals


def test_stop_of_a_flow(wire: Wire) -> None:
    """A pause of more than two seconds enters no inter-arrival field."""
    with tap.Tap(wire.receiver, "-i", "wire0") as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        for pause in (0.02, 0.02, 2.2, 0.02):
            sender.send(b"x")
            time.sleep(pause)
        sender.send(b"x")
        wire.settle()
        records = tap.flows(tapped.stop())
    assert sum(record["packets"] for record in records) == 5
    longest = [record["iat_max_ms"] for record in records if "iat_max_ms" in record]
    assert longest
    assert max(longest) < 1000
    assert sum("iat_max_ms" not in record for record in records) <= 2


def test_bits_and_interval(wire: Wire) -> None:
    """With --bits rates are eight times the bytes, over the interval's own length."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--bits", "-t", "0.5") as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        tap.wait_past_line(0.1, 0.5)
        sender.send(bytes(58))
        time.sleep(0.6)
        (record,) = tap.flows(tapped.stop())
    assert record["timestamp"] % 500_000_000 == 0
    assert record["throughput_bits_per_second"] == 100 * 8 / 0.5
    assert record["goodput_bits_per_second"] == 58 * 8 / 0.5
    assert "throughput_bytes_per_second" not in record
