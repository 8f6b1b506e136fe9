# SPDX-License-Identifier: Apache-2.0
"""The flow table: nothing is lost between CPUs or in a full ring; what is evicted is admitted."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import tap
from table import NS, OWN_INTERVALS, Table, frame
from traffic import V4, Wire

from trapstream_vtap.bpf import memory
from trapstream_vtap.engine.room import Room
from trapstream_vtap.probes.flows import FLOWS, running

if TYPE_CHECKING:
    from collections.abc import Iterator


HOUR = 3600 * NS
SECONDS = 1.0


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """A table with the settings of the test's parameter."""
    table = Table(**request.param)
    yield table
    table.program.close()


def hammer(table: Table, flows: int, cpu: int, until: float, ran: list[int]) -> None:
    """Push packets of FLOWS flows through the program on one CPU as fast as it goes."""
    os.sched_setaffinity(0, {cpu})
    frames = [frame(number) for number in range(flows)]
    count = 0
    while time.monotonic() < until:
        for data in frames:
            table.program.run_many(data, 200)
        count += 200 * flows
    ran.append(count)


@pytest.mark.parametrize("table", [{"interval": NS // 10}, *OWN_INTERVALS], indirect=True)
@pytest.mark.parametrize("flows", [1, 50])
def test_two_cpus(table: Table, flows: int) -> None:
    """Two CPUs on the same flows, swept meanwhile, by force too: not one packet lost or doubled."""
    until = time.monotonic() + SECONDS
    ran: list[int] = []
    cpus = sorted(os.sched_getaffinity(0))[:2]
    assert len(cpus) == 2
    threads = [
        threading.Thread(target=hammer, args=(table, flows, cpu, until, ran)) for cpu in cpus
    ]
    for thread in threads:
        thread.start()
    rounds = 0
    while time.monotonic() < until:
        table.sweep(force=rounds % 3 > 0)
        rounds += 1
    for thread in threads:
        thread.join()
    table.finish()
    assert rounds > 10
    assert sum(ran) > 10_000
    assert table.counted() == sum(ran)
    assert table.exported() == sum(ran)
    assert sum(record["bytes"] for record in table.records) == sum(ran) * len(frame())
    assert sum(record["payload_bytes"] for record in table.records) == sum(ran) * 100
    _gaps_are_real(table.records, sum(ran) - flows)
    _no_point_twice(table.records)


def _gaps_are_real(records: list[dict[str, int]], expected: int) -> None:
    """Of the EXPECTED inter-arrival times only those are missing that a record cuts in two.

    It may have one CPU's gap, and the next record the packet, which then has none to tell of.
    """
    for record in records:
        if record["iat_count"]:
            assert record["iat_min"] <= record["iat_max"] < HOUR
    jitter = [record for record in records if record.get("jitter_duration", record["packets"])]
    alone = sum(not record["iat_count"] for record in jitter)
    assert alone < len(jitter) / 4
    assert 0 <= expected - sum(record["iat_count"] for record in records) <= 2 * alone


def _no_point_twice(records: list[dict[str, int]]) -> None:
    points = Counter((record["dst_ip"], record["time"]) for record in records)
    assert max(points.values()) == 1


@pytest.mark.parametrize("chosen", [{"interval": NS // 10}, *OWN_INTERVALS])
def test_ring_too_small(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, int]) -> None:
    """A full ring defers summaries, which then cover the longer interval that they really have."""
    monkeypatch.setattr(memory, "_LARGEST_RING", 4096)
    monkeypatch.setattr(memory, "_SMALLEST_RING", 4096)
    small = Table(**chosen)
    flows = 100  # the ring has room for 28 or less
    deadline = time.monotonic() + 1.0
    count = 0
    while time.monotonic() < deadline:
        for number in range(flows):
            small.program.run_many(frame(number), 1)
        count += flows
    small.finish()
    assert sum(link["ring_full"] for link in small.probe.counters().values()) > 0
    assert small.exported() == small.counted() == count
    assert sum(record["iat_count"] for record in small.records) == count - flows
    assert any(record["duration"] > chosen["interval"] for record in small.records)
    for record in small.records:
        assert record["duration"] < 2 * NS
    _no_point_twice(small.records)
    small.program.close()


@pytest.mark.parametrize("table", [{"flow_table_size": 1024}], indirect=True)
def test_more_flows_than_entries(table: Table) -> None:
    """What the LRU evicts is missing to the packet, and nothing else is."""
    for number in range(4096):
        table.program.run_many(frame(number), 3)
    table.finish()
    lost = table.counted() - table.exported()
    assert table.counted() == 3 * 4096
    assert lost > 0
    assert lost % 3 == 0  # whole flows
    assert len({record["dst_ip"] for record in table.records}) == len(table.records)


@pytest.mark.parametrize("table", [{"flow_table_size": 1024}], indirect=True)
def test_pressure_wakes(table: Table) -> None:
    """After new flows for a quarter of the table the reader is woken, and sweeping resets that."""
    for number in range(255):
        table.program.run_many(frame(number), 1)
    assert not table.probe.pressed()
    table.program.run_many(frame(255), 1)
    assert table.probe.pressed()
    table.sweep(force=True)
    assert not table.probe.pressed()
    assert table.exported() == 256


@pytest.mark.parametrize(
    "table",
    [
        {"flow_table_size": 1024, "interval": HOUR, "jitter_interval": 24 * HOUR},
        {"flow_table_size": 1024, "interval": 24 * HOUR, "jitter_interval": HOUR},
    ],
    indirect=True,
)
def test_pressure_over_short_intervals(table: Table) -> None:
    """New flows count until the longer interval ends: a sweep before that does not empty them."""
    tap.wait_past_line(2.0, 24 * HOUR / NS)
    table.sweep()
    for number in range(256):
        table.program.run_many(frame(number), 2)
        if number % 100 == 0:
            table.sweep()
    assert table.probe.pressed()
    table.sweep(force=True)
    assert not table.probe.pressed()
    assert table.exported() == 512
    assert sum(record["iat_count"] for record in table.records) == 256
    table.sweep()
    assert not table.probe.held()


def counts_of(table: Table) -> Counter[str]:
    """The account of the one interface, by the probe itself."""
    return table.running.counts()["lo"]


@pytest.mark.parametrize("table", [{"flow_table_size": 1024}], indirect=True)
def test_account_closes_while_flows_are_held(table: Table) -> None:
    """At any time counted = handed over + evicted + held, and held is what the table has."""
    for turn in range(3):
        for number in range(500):
            table.program.run_many(frame(number), 2)
        for batch in table.running._sweep(force=turn == 1):
            table.records += batch.schema.layout.unpack(batch.data)
        counts = counts_of(table)
        assert counts["counted_packets"] == 1000 * (turn + 1)
        assert counts["packets_handed"] == table.exported() == (2000 if turn else 0)
        assert counts["held_packets"] == counts["counted_packets"] - counts["packets_handed"]
        assert counts["held_bytes"] == counts["held_packets"] * len(frame())
        assert counts["evicted_packets"] == counts["stranded_packets"] == 0
        table.sweep()
        assert sum(held[1] for held in table.probe.held().values()) == counts["held_packets"]
    assert counts_of(table)["flows_begun"] == 500


@pytest.mark.parametrize("table", [{"flow_table_size": 1024}], indirect=True)
def test_what_a_table_does_not_hand_over_is_a_loss(
    monkeypatch: pytest.MonkeyPatch, table: Table
) -> None:
    """What is still held when a program is closed is named, and stays so: `stranded`."""
    room = Room(FLOWS, lambda _: None, lambda *_: None)
    room.begin(table.running, table.settings)
    table.program.run_many(frame(), 7)
    assert (room.totals()["held_packets"], room.totals()["stranded_packets"]) == (7, 0)
    monkeypatch.setattr(running, "_LAST_SWEEPS", 0)
    room.flush()
    assert (room.totals()["held_packets"], room.totals()["stranded_packets"]) == (0, 7)
    assert room.totals()["stranded_bytes"] == 7 * len(frame())
    after = Table(flow_table_size=1024)
    room.begin(after.running, after.settings)
    assert room.totals()["stranded_packets"] == 7
    after.program.close()


def test_early_sweep() -> None:
    """Four times more flows than entries, 10,000 new ones a second: at most 1 % is evicted."""
    size, burst = 8192, 50
    frames = [frame(number) for number in range(4 * size)]
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0", "-t", "10", "--flow-table-size", str(size)) as tapped,
        wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind(("wire0", 0))
        before = wire.receiver.counters("wire0")
        due = time.monotonic()
        for first in range(0, len(frames), burst):
            while (now := time.monotonic()) < due:
                time.sleep(due - now)
            for data in frames[first : first + burst]:
                sender.send(data)
            due = now + burst / 10_000  # what is late is not made up for
        wire.settle()
        after = wire.receiver.counters("wire0")
        records = tapped.stop()
    account = tap.agent(records, "wire0")
    assert account["seen_packets"] == after.rx_packets - before.rx_packets >= len(frames)
    assert account["counted_packets"] == account["packets_handed"] + account["evicted_packets"]
    assert account["counted_packets"] >= len(frames)
    assert account["packets_handed"] == sum(record["packets"] for record in tap.flows(records))
    assert account["evicted_packets"] <= len(frames) // 100


def test_loss_beside_evictions() -> None:
    """What is missing of flows that were evicted is not known; the sum says that it is a part."""
    with (
        Wire() as wire,
        tap.Tap(
            wire.receiver, "-i", "wire0", "--flow-table-size", "64", "--sequence-offset", "0"
        ) as tapped,
    ):
        with wire.sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(0, 20, 2):
                for port in range(10_000, 10_300):
                    sender.sendto(struct.pack(">I", number), (V4[1], port))
        wire.settle()
        tapped.stop()
    assert any(re.search(r", at least \d+ numbers missing \(loss ", line) for line in tapped.said)


def test_evicted_is_admitted() -> None:
    """The command with a table a quarter of the flows: the account closes exactly with evicted."""
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0", "--flow-table-size", "1024", "-t", "1") as tapped,
    ):
        with wire.sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for turn in range(3):
                for port in range(10_000, 14_096):
                    sender.sendto(bytes(turn), (V4[1], port))
        wire.settle()
        records = tapped.stop()
    account = tap.agent(records, "wire0")
    sent = sum(record["packets"] for record in tap.flows(records))
    assert account["seen_packets"] == account["counted_packets"] == 3 * 4096
    assert account["packets_handed"] == sent
    assert account["counted_packets"] == sent + account["evicted_packets"]
    assert account["counted_bytes"] == account["evicted_bytes"] + sum(
        record["bytes"] for record in tap.flows(records)
    )
    points = Counter((r["dst_port"], r["src_port"], r["timestamp"]) for r in tap.flows(records))
    assert max(points.values()) == 1
