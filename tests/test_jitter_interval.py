# SPDX-License-Identifier: Apache-2.0
"""A jitter interval of its own, against plain Python: chosen times, real time, real traffic."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import time
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import captured
import intervals
import orjson
import plans
import pytest
import tap
from intervals import near, smoothed
from numbering import udp
from program import FlowProgram, settings
from traffic import INBOUND, Wire, paced, together

from lab.capture import Capture
from lab.testrun import run
from trapstream_vtap import formats
from trapstream_vtap.clock import NS, SystemClock
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.probes.flows.records import schema_of
from trapstream_vtap.probes.flows.squares import limits, square_limits
from trapstream_vtap.probes.flows.table import FlowTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINUTE = 60 * NS
STOP_GAP = 40 * NS
EXPECTED_GAP = 3 * NS
GUARD = 2.0  # seconds
JITTER = ("iat_mean_ms", "jitter_ms", "iat_min_ms", "iat_max_ms")
RATES = ("throughput_bytes_per_second", "goodput_bytes_per_second")
TOLERANCE_MS = 0.005


class Bench:
    """The program, attached nowhere; its packets arrive when the test says, also in the future."""

    def __init__(self, **chosen: Any) -> None:
        plain = settings(direction="ingress", layers=(True,), **chosen)
        self.intervals = plain.interval, plain.jitter_interval
        self.program = FlowProgram(plain)
        self.clock = SystemClock()
        self.probe = FlowTable(plain, self.program.objects, self.clock)
        self._key_size = flow.layouts(plain).key.size
        self._plan = plans.compile_plan(
            formats.JSON,
            schema_of(plain),
            plans.Labels("x"),
            coarse_shift=limits(plain)[1],
        )
        self.records: list[dict[str, Any]] = []
        self._number = 0

    def packet(self, when: int, size: int) -> None:
        """One with SIZE bytes behind its number arrives at WHEN, ns since the epoch."""
        frame = udp(struct.pack(">I", self._number) + bytes(size))
        self._number += 1
        run(self.program.objects.programs["vtap_ingress"], frame, tstamp=when)

    def close(self, when: int) -> None:
        """What a packet does at WHEN if that is not now: what is over is over by the real clock."""
        key = ctypes.create_string_buffer(self._key_size)
        table = self.program.objects.maps["flows"]
        if ctypes.CDLL("libbpf.so.1").bpf_map_get_next_key(table, None, key) == 0:
            moment = struct.pack("=QQ", 0, when - self.clock.offset)
            run(self.program.objects.programs["vtap_sweep"], bytes(8) + moment + key.raw)
            self.read()

    def sweep(self, when: int, *, force: bool = False) -> None:
        """The table is swept as if it were WHEN."""
        for _ in self.probe.sweep(force=force, now=when - self.clock.offset):
            self.read()

    def read(self) -> None:
        """What the ring holds goes to `records`."""
        batch = self.probe.read(100)
        for payload, _, _ in self._plan.render(batch, 100, 1 << 20)[0]:
            self.records += orjson.loads(payload)


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The program with the test's settings."""
    made = Bench(**request.param)
    yield made
    made.program.close()


def expected(
    packets: list[tuple[int, int]], before: int, cuts: list[int], interval: int, jitter: int
) -> dict[int, dict[str, Any]]:
    """What the records must say, by time; intervals end at grid lines, and at CUTS by force.

    Args:
        packets: Time and payload of each, in order.
        before: When the packet ahead of them came; smoothing began there.
        cuts: When the table was swept by force.
        interval: That of counts, ns.
        jitter: That of jitter, ns.
    """
    records: dict[int, dict[str, Any]] = defaultdict(dict)
    gaps: dict[int, list[int]] = defaultdict(list)
    all_gaps: list[int] = []
    for number, (when, size) in enumerate(packets, 1):
        begin, end = _bounds(when, interval, cuts)
        record = records[end]
        record["packets"] = record.get("packets", 0) + 1
        record["payload_bytes"] = record.get("payload_bytes", 0) + 4 + size
        record["seq_last"] = number
        record["span"] = end - begin
        gap, before = when - before, when
        begin, end = _bounds(when, jitter, cuts)
        if gap > STOP_GAP:
            all_gaps = []
        else:
            all_gaps.append(gap)
            gaps[end].append(gap)
        if gaps[end]:  # smoothing goes on over intervals, and is told as of their end
            records[end] |= {"gaps": gaps[end], "since": list(all_gaps), "jitter_span": end - begin}
    return dict(records)


def _bounds(when: int, interval: int, cuts: list[int]) -> tuple[int, int]:
    """The interval in which WHEN is."""
    line = when // interval * interval
    begin = max([line, *(cut for cut in cuts if cut <= when)])
    return begin, min([line + interval, *(cut for cut in cuts if cut > when)])


def compare(found: dict[str, Any], exact: dict[str, Any], *, always_counts: bool) -> None:
    """FOUND must say what EXACT does, and nothing else."""
    if "packets" in exact:
        counts = {name: exact[name] for name in ("packets", "payload_bytes", "seq_last")}
        counts |= {"seq_received": exact["seq_last"] + 1, "seq_errors": 0, "seq_missing": 0}
        assert {name: found[name] for name in counts} == counts
        rate = Fraction(exact["payload_bytes"] * NS, exact["span"])
        assert abs(Fraction(found["goodput_bytes_per_second"]) - rate) < Fraction(1, 10**6)
    elif always_counts:
        names = ("packets", "bytes", "payload_bytes", *RATES)
        assert [found[name] for name in names] == [0] * len(names)
    else:
        assert not {"packets", "bytes", "payload_bytes", "seq_last", *RATES} & found.keys()
    gaps = exact.get("gaps")
    if not gaps:
        assert not {*JITTER, "iat_deviation_ms", "jitter_rfc3550_ms"} & found.keys()
        return
    mean = Fraction(sum(gaps), len(gaps))
    assert near(found["iat_mean_ms"], mean)
    assert (found["iat_min_ms"], found["iat_max_ms"]) == (min(gaps) / 10**6, max(gaps) / 10**6)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    # the squares of long gaps are cut by the shift first
    cut = Fraction(2 ** (square_limits(10 * MINUTE, STOP_GAP)[1] + 1)) * max(gaps)
    assert abs((Fraction(found["jitter_ms"]) * 10**6) ** 2 - variance) <= cut
    distance = Fraction(sum(abs(gap - EXPECTED_GAP) for gap in gaps), len(gaps))
    assert near(found["iat_deviation_ms"], distance)
    assert near(found["jitter_rfc3550_ms"], smoothed(exact["since"], EXPECTED_GAP))
    assert found["jitter_interval_s"] == exact["jitter_span"] / NS


def schedule(chance: random.Random, start: int, end: int) -> list[tuple[int, int]]:
    """Packets, time and payload: lively for a while, then a pause, of minutes at times."""
    packets = []
    when = start
    while True:
        for _ in range(chance.randint(1, 30)):
            when += chance.randint(1, 8 * NS)
            packets.append((when, chance.randint(0, 500)))
        when += chance.choice((30 * NS, 39 * NS, 100 * NS, 400 * NS))
        if when > end:
            return [packet for packet in packets if packet[0] < end]


@pytest.mark.parametrize(
    "bench",
    [
        {
            "interval": interval * MINUTE,
            "jitter_interval": jitter * MINUTE,
            "stop_gap": STOP_GAP,
            "expected_gap": EXPECTED_GAP,
            "smoothed_jitter": True,
            "offset": 0,
        }
        for interval, jitter in ((1, 5), (5, 1), (2, 4), (4, 2))
    ],
    indirect=True,
    ids=["1-5", "5-1", "2-4", "4-2"],
)
def test_chosen_times(bench: Bench) -> None:
    """Counts by their interval, jitter by its own, exactly; swept on time, late, and by force."""
    interval, jitter = bench.intervals
    short, long = sorted((interval, jitter))
    chance = random.Random(interval)  # noqa: S311 - times, not secrets
    tap.wait_past_line(GUARD, long / NS)  # a new flow's first interval is that of the real clock
    start = (time.time_ns() // long + 1) * long
    first = start - 7 * NS
    bench.packet(first, 0)
    bench.sweep(start, force=True)
    bench.records.clear()
    packets = schedule(chance, start, start + 150 * MINUTE)
    cuts = []
    line = start + short
    for when, size in packets:
        while line <= when:  # some lines in time; what a pause leaves over, the packet behind it
            if chance.random() < 0.5:
                bench.sweep(line + NS // 1000)
            line += short
        bench.close(when)
        bench.packet(when, size)
        if chance.random() < 0.05:
            cuts.append(when + 1)
            bench.sweep(cuts[-1], force=True)
    bench.sweep(packets[-1][0] + 2 * long)  # one sweep for both lines
    exact = expected(packets, first, cuts, interval, jitter)
    found = {record["timestamp"]: record for record in bench.records}
    assert len(found) == len(bench.records)
    assert found.keys() == exact.keys()
    assert len(cuts) > 5
    assert sum("packets" not in record for record in exact.values()) > 5
    for when, record in found.items():
        compare(record, exact[when], always_counts=jitter > interval)


@pytest.mark.parametrize(
    "bench",
    [
        {"interval": NS // 10, "jitter_interval": 3 * NS // 10},
        {"interval": 3 * NS // 10, "jitter_interval": NS // 10},
    ],
    indirect=True,
    ids=["longer", "shorter"],
)
def test_packet_behind_a_pause(bench: Bench) -> None:
    """Unswept, the packet behind a pause closes both, each at its own line, before it counts."""
    interval, jitter = bench.intervals
    short, long = sorted((interval, jitter))
    deadline = time.monotonic() + tap.DEADLINE
    while True:
        assert time.monotonic() < deadline
        while time.time_ns() % long > short // 4:
            time.sleep(0.001)
        bench.sweep(time.time_ns(), force=True)
        bench.records.clear()
        begun = time.time_ns()
        for number in range(3):
            bench.packet(begun + number, 10)
        if begun // short == time.time_ns() // short:  # else the machine was busy with others
            break
    while time.time_ns() < (begun // long + 1) * long + short // 4:
        time.sleep(0.001)
    bench.packet(time.time_ns(), 10)
    bench.read()
    first, second = bench.records
    line, long_line = (begun // period * period + period for period in (short, long))
    assert (first["timestamp"], second["timestamp"]) == (line, long_line)
    counts, gaps = (first, second) if interval < jitter else (second, first)
    assert counts["packets"] == 3
    assert gaps["iat_min_ms"] == 0.000001
    assert "iat_min_ms" not in counts
    assert gaps.get("packets", 0) == 0


@pytest.mark.parametrize(("interval", "jitter"), [(1, 2), (2, 1)])
def test_real_traffic(tmp_path: Path, interval: int, jitter: int) -> None:
    """Counts exact per interval, jitter within 5 µs per jitter interval, of the same capture."""
    path = tmp_path / "in.pcap"
    options = ("-i", "wire0", "-t", str(interval), "-j", str(jitter))
    with (
        Wire() as wire,
        Capture(wire.receiver, "wire0", path, filter=INBOUND) as capture,
        tap.Tap(wire.receiver, *options) as tapped,
    ):
        steady, pausing = wire.udp(socket.AF_INET, 7001), wire.udp(socket.AF_INET6, 7002)
        ours, theirs = wire.tcp(socket.AF_INET, 7003)

        def burst_and_pause() -> None:
            for _ in range(2):  # in the first second of two, and nothing in the other
                while not 0.2 < time.time() % 2 < 0.5:
                    time.sleep(0.01)
                paced(0.2, 0.01, lambda n: pausing.send(bytes(n)), 3)
                time.sleep(1)

        together(
            lambda: paced(4, 0.010, lambda n: steady.send(bytes(n % 1400)), 1),
            lambda: paced(4, 0.015, lambda n: ours.send(bytes(1 + n % 1300)), 2),
            lambda: paced(4, 0.020, lambda n: theirs.send(bytes(1 + n % 900)), 4),
            burst_and_pause,
        )
        wire.settle()
        capture.stop()
        found = captured.packets(path)
        records = tapped.stop()
    flows = tap.flows(records)
    assert len({(captured.Flow.of(r), r["timestamp"]) for r in flows}) == len(flows)

    def of(period: int, name: str) -> dict[tuple[captured.Flow, int], dict[str, Any]]:
        """Records with a field NAME that is not 0; the last ones were closed off the grid."""
        ends = [-(-r["timestamp"] // (period * NS)) * period * NS for r in flows]
        own = [(captured.Flow.of(r), e, r) for r, e in zip(flows, ends, strict=True) if r.get(name)]
        assert len(own) == len({(f, end) for f, end, _ in own})
        return {(f, end): record for f, end, record in own}

    def expected_of(period: int) -> dict[tuple[captured.Flow, int], dict[str, Any]]:
        fields = intervals.expect(found, intervals.Choices(), interval=period * NS).fields
        return {(series.flow, end): values for (series, end), values in fields.items()}

    counted, exact = of(interval, "packets"), expected_of(interval)
    assert counted.keys() == exact.keys()
    for key, fields in exact.items():
        for name in ("packets", "bytes", "payload_bytes"):
            assert counted[key][name] == fields[name], key
    told, exact = of(jitter, "iat_mean_ms"), expected_of(jitter)
    assert told.keys() == {key for key, fields in exact.items() if "iat_mean_ms" in fields}
    for key, record in told.items():
        for name in ("iat_mean_ms", "jitter_ms"):
            assert record[name] == pytest.approx(float(exact[key][name]), abs=TOLERANCE_MS), key
    account = tap.agent(records, "wire0")
    assert account["counted_packets"] == account["packets_handed"] == len(found)
    lines = [r["timestamp"] for r in records if r["name"] == "vtap_agent" and "sink" in r][:-1]
    assert lines
    assert not any(line % (interval * NS) for line in lines)
