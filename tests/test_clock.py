# SPDX-License-Identifier: Apache-2.0
"""The wall clock is set by an hour: no packet lost or doubled, no gap of an hour, the new grid."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import pytest
import tap
from table import OWN_INTERVALS, Table, frame
from traffic import Wire

from lab.testrun import run
from trapstream_vtap.clock import Grid, SystemClock
from trapstream_vtap.probes.flows.settings import STOP_GAP_NS

if TYPE_CHECKING:
    from collections.abc import Callable

NS = 10**9
MS = 10**6
HOUR = 3600 * NS
FLOWS = 3
STEPS = (
    pytest.param((HOUR, -HOUR), id="hour"),
    pytest.param((HOUR + 37 * MS, -HOUR - 12 * MS), id="other grid"),
    pytest.param((-HOUR - 37 * MS, HOUR + 12 * MS), id="back first"),
)


class Clock(SystemClock):
    """A wall clock that the test sets; the machine's own goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.said = self.offset

    def wall(self) -> int:
        """Nanoseconds since the epoch."""
        return time.monotonic_ns() + self.said

    def follow(self) -> None:
        """Learn what the test has set."""
        self.offset = self.said


class Bench:
    """Packets with receive timestamps of CLOCK, and a table that is swept at the grid lines."""

    def __init__(self, clock: Clock, chosen: dict[str, int]) -> None:
        self.table = Table(clock, **chosen)
        self._grid = Grid(clock, min(chosen.values()))
        self.arrivals: dict[int, list[int]] = defaultdict(list)
        """By flow, CLOCK_MONOTONIC, as far as the program can know."""
        self.records: list[tuple[dict[str, int], int, bool]] = []
        """With what was to be added to CLOCK_MONOTONIC then, and whether it may be off the grid."""
        self._clock = clock
        self._known = clock.said
        self._sent = 0

    def send(self) -> None:
        """A packet of the first flow, of each other now and then."""
        program = self.table.program.objects.programs["vtap_ingress"]
        for number in range(FLOWS):
            if self._sent % (1 + 3 * number) == 0:
                stamp = self._clock.wall()
                self.arrivals[number].append(stamp - self._known)
                run(program, frame(number), tstamp=stamp)
        self._sent += 1

    def interval(self, step: int) -> None:
        """Up to the next grid line, as a run does it; the clock is set by STEP in between."""
        line = self._grid.next_line()
        for _ in range(4):
            self.send()
        self._clock.said += step
        for _ in range(4):
            self.send()
        while time.monotonic_ns() < line:
            time.sleep(0.004)
            self.send()
        self.send()  # closes its flow itself
        self._take(self.table.drain, off_grid=False)
        self._clock.follow()
        was_set = self.table.probe.follow_clock()
        assert was_set == bool(step)
        self._known = self._clock.said
        self._take(lambda: self.table.sweep(force=was_set), off_grid=was_set)

    def finish(self) -> None:
        """As at the end of a run."""
        self._take(self.table.finish, off_grid=True)

    def _take(self, read: Callable[[], None], *, off_grid: bool) -> None:
        read()
        self.records += [(r, self._clock.offset, off_grid) for r in self.table.records]
        self.table.records.clear()


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("chosen", [{"interval": NS // 10}, *OWN_INTERVALS])
def test_receive_timestamps(chosen: dict[str, int], steps: tuple[int, int]) -> None:
    """They jump at once, the program learns of it at the next grid line: two gaps are missing."""
    clock = Clock()
    bench = Bench(clock, chosen)
    for step in (0, steps[0], 0, 0, 0, steps[1], 0, 0, 0):
        bench.interval(step)
    bench.finish()
    bench.table.program.close()
    records = [record for record, _, _ in bench.records]
    packets = Counter[int]()
    for record in records:
        packets[_flow(record)] += record["packets"]
    assert packets == {number: len(times) for number, times in bench.arrivals.items()}
    all_gaps = [b - a for times in bench.arrivals.values() for a, b in pairwise(times)]
    gaps = [gap for gap in all_gaps if abs(gap) <= STOP_GAP_NS]
    assert len(all_gaps) - len(gaps) >= FLOWS * 2 * len(steps)
    assert sum(record["iat_count"] for record in records) == len(gaps)
    assert sum(record["iat_sum"] for record in records) == sum(gaps)
    assert max(record["iat_max"] for record in records) == max(gaps)
    points = Counter((_flow(record), record["time"]) for record in records)
    assert max(points.values()) == 1
    shortest = min(chosen.values())
    off_grid = [r for r, _, may in bench.records if r["time"] % shortest and not may]
    assert not off_grid
    _no_overlap(bench.records, "duration", "packets")
    _no_overlap(bench.records, "jitter_duration" if len(chosen) > 1 else "duration", "iat_count")


def _flow(record: dict[str, int]) -> int:
    return int.from_bytes(record["dst_ip"][:4])


def _no_overlap(records: list[tuple[dict[str, int], int, bool]], duration: str, what: str) -> None:
    """No moment is in the intervals of two records of a flow that have WHAT, by a clock unset."""
    ends: dict[int, int] = defaultdict(int)
    for record, offset, _ in records:
        if record[what]:
            end = record["time"] - offset
            assert 0 < record[duration] <= end - ends[_flow(record)]
            ends[_flow(record)] = end


def test_whole_run() -> None:
    """The command, for which SIGUSR1 sets the clock: all is counted, times are on the new grid."""
    interval = NS // 5
    offsets = (0, HOUR + 70 * MS, -30 * MS)
    program = (
        "import signal\n"
        "from trapstream_vtap.cli import main\n"
        "from trapstream_vtap import clock\n"
        "real, offset = clock.wall_clock_offset() & ~3, 0\n"
        f"offsets = iter({offsets[1:]})\n"
        "def set_clock(*_):\n"
        "    global offset\n"
        "    offset = next(offsets)\n"
        "signal.signal(signal.SIGUSR1, set_clock)\n"
        "clock.wall_clock_offset = lambda: real + offset\n"
        "main()"
    )
    options = ("-i", "wire0", "--direction", "egress", "-t", str(interval / NS))
    with (
        Wire() as wire,
        tap.Tap(wire.sender, *options, command=(sys.executable, "-c", program)) as tapped,
    ):
        sender = wire.udp(socket.AF_INET, 7001)
        before = wire.sender.counters("wire0")
        for times in range(len(offsets)):
            if times:
                tapped.process.send_signal(signal.SIGUSR1)
            since = None
            deadline = time.monotonic() + tap.DEADLINE
            while since is None or time.monotonic() < since + 4 * interval / NS:
                assert time.monotonic() < deadline
                sender.send(b"x")
                time.sleep(0.01)
                if since is None and sum("clock was set" in said for said in tapped.said) == times:
                    since = time.monotonic()
        wire.settle()
        sent = wire.sender.counters("wire0").tx_packets - before.tx_packets
        real = time.time_ns()
        records = tapped.stop()
    account = tap.agent(records, "wire0")
    assert account["seen_packets"] == sent
    assert account["counted_packets"] == sent - account["not_ip_packets"]
    assert account["counted_packets"] == account["packets_handed"]
    assert account["packets_handed"] == sum(record["packets"] for record in tap.flows(records))
    flows = [record for record in tap.flows(records) if record.get("dst_port") == "7001"]
    agents = [r for r in records if r["name"] == "vtap_agent" and r.get("interface") == "wire0"]
    for found in (flows, agents):
        by_clock = [
            list(group)
            for _, group in groupby(
                (record["timestamp"] for record in found),
                lambda stamp: abs(stamp - real) > HOUR // 2,
            )
        ]
        assert len(by_clock) == len(offsets)
        for number, stamps in enumerate(by_clock):
            last = number == len(offsets) - 1  # at the end of the run
            changed = stamps[0] + interval if number else 0  # what was open ends off the grid
            grid = [stamp for stamp in stamps[: len(stamps) - last] if stamp >= changed]
            assert len(grid) >= 2
            assert not [stamp for stamp in grid if stamp % interval]
            assert stamps == sorted(set(stamps))
