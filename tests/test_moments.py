# SPDX-License-Identifier: Apache-2.0
"""Moments of any kind: just after the machine's start, with intervals that began before it.

The kernel program's clock and that of user space are moved together, so that the machine seems to
have been up for as long as a test wants. Packets carry receive timestamps that the test makes up,
from which everything that is expected follows.
"""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import program
import pytest
from program import FlowProgram, settings

from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.probes.flows.records import errors_of, schema_of
from trapstream_vtap.probes.flows.table import FlowTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.bpf.source import Source
    from trapstream_vtap.probes.flows.settings import FlowSettings

NS = 10**9
SECOND = 1.0
HOUR = 3600 * NS
UPTIMES = {
    "just started": NS // 20,
    "across the half of all moments": (1 << 63) - NS // 4,
}
"""How long the machine seems to have been up, ns."""

FLOWS = 3
WITH_ALL = {"offset": 0, "metrics": ("127.0.0.1", 1), "smoothed_jitter": True}


def frame(number: int, flow_number: int) -> bytes:
    """A UDP datagram whose payload is a 32-bit number."""
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 32, 0, 0, 64, 17, 0, 0xC0000201, flow_number)
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHHI", 5000, 6000, 12, 0, number)


class Clock(SystemClock):
    """The machine's, so many ns AHEAD."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self._ahead = ahead
        self.offset -= ahead & ~3

    def now(self) -> int:
        """Ahead."""
        return super().now() + self._ahead


class Tap:
    """The flow probe, on a machine that has been up for UPTIME ns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chosen: FlowSettings, uptime: int) -> None:
        ahead = uptime - time.monotonic_ns()

        def text_of(wanted: FlowSettings) -> Source:
            """The program with its clock moved on."""
            made = flow.source(wanted)
            moved = f"#define NOW() (bpf_ktime_get_ns() + {ahead % (1 << 64)}ULL)\n"
            return replace(made, text=moved + made.text)

        monkeypatch.setattr(program, "source", text_of)
        self.program = FlowProgram(chosen)
        self.clock = Clock(ahead)
        self.probe = FlowTable(chosen, self.program.objects, self.clock)
        self._schema, self._errors = schema_of(chosen), errors_of(chosen)
        self.records: list[dict[str, int]] = []
        self.events: list[dict[str, int]] = []
        self.stamps: list[int] = []
        self._number = self.jumps = 0

    def receive(self) -> None:
        """A packet of each flow, stamped with the time that it is now."""
        self.stamps.append(time.time_ns())
        jump = len(self.stamps) % 5 == 2
        self._number += 3 if jump else 1  # now and then two numbers are missing
        self.jumps += jump
        for number in range(FLOWS):
            self.program.show(frame(self._number, number), tstamp=self.stamps[-1])

    def sweep(self, *, force: bool = False) -> None:
        """Close intervals and read what comes of it."""
        for _ in self.probe.sweep(force=force):
            while batch := self.probe.read(1000):
                self.records += self._schema.layout.unpack(batch)
        while self._errors and (batch := self.probe.read_events(1000)):
            self.events += self._errors.layout.unpack(batch)

    def finish(self) -> None:
        """As at the end of a run, in so many sweeps as suffice."""
        self.sweep(force=True)
        self.sweep(force=True)
        self.sweep(force=True)

    def counted(self) -> int:
        """Packets that the program counted into flows."""
        return sum(link["counted_packets"] for link in self.probe.counters().values())


@pytest.fixture
def tap(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[FlowSettings, int], Tap]]:
    """Makes one, and gives it back to the kernel."""
    made: list[Tap] = []

    def make(chosen: FlowSettings, uptime: int) -> Tap:
        made.append(Tap(monkeypatch, chosen, uptime))
        return made[-1]

    yield make
    for one in made:
        one.program.close()


def chosen_by(**others: object) -> FlowSettings:
    """Flows told apart by their addresses."""
    key = ("src_ip", "dst_ip", "protocol", "direction")
    return settings(key=key, direction="ingress", layers=(True,), **others)  # type: ignore[arg-type]


INTERVALS = {
    "one": {"interval": NS // 5},
    "longer jitter": {"interval": NS // 5, "jitter_interval": 3 * NS // 5},
    "shorter jitter": {"interval": 3 * NS // 5, "jitter_interval": NS // 5},
}


@pytest.mark.parametrize("intervals", INTERVALS)
@pytest.mark.parametrize("uptime", UPTIMES)
def test_grid_lines(tap: Callable[..., Tap], uptime: str, intervals: str) -> None:
    """Interval by interval all is handed over, with the times of its grid, at any moment."""
    chosen = chosen_by(**INTERVALS[intervals], **WITH_ALL)
    measured = tap(chosen, UPTIMES[uptime])
    end = time.monotonic() + SECOND
    while time.monotonic() < end:
        measured.receive()
        time.sleep(0.02)
        measured.sweep()
    before_end = len(measured.records)
    measured.finish()
    sent = len(measured.stamps)
    assert measured.counted() == FLOWS * sent
    assert not measured.probe.held()
    assert sum(record["packets"] for record in measured.records) == FLOWS * sent
    assert sum(record["iat_count"] for record in measured.records) == FLOWS * (sent - 1)
    span = measured.stamps[-1] - measured.stamps[0]
    assert sum(record["iat_sum"] for record in measured.records) == FLOWS * span
    assert before_end >= 2 * FLOWS
    for record in measured.records[:before_end]:
        assert record["time"] % chosen.intervals[0] == 0
        for name, length in (
            ("duration", chosen.interval),
            ("jitter_duration", chosen.jitter_interval),
        ):
            assert record.get(name, 0) in (0, length)
    (histogram,) = (counts for counts in measured.probe.gaps().values() if any(counts))
    assert histogram[0] == FLOWS * span
    assert sum(histogram[1:]) == FLOWS * (sent - 1)
    assert {event["time"] for event in measured.events} <= {*measured.stamps}
    assert len(measured.events) == FLOWS * measured.jumps


LONG = {
    "an hour": {"interval": HOUR},
    "an hour, jitter each minute": {"interval": HOUR, "jitter_interval": 60 * NS},
    "a minute, jitter each hour": {"interval": 60 * NS, "jitter_interval": HOUR},
}


@pytest.mark.parametrize("intervals", LONG)
@pytest.mark.parametrize("uptime", UPTIMES)
def test_interval_longer_than_the_uptime(
    tap: Callable[..., Tap], uptime: str, intervals: str
) -> None:
    """What an interval has that began before the machine did is handed over by force, and once."""
    chosen = chosen_by(**LONG[intervals])
    measured = tap(chosen, UPTIMES[uptime])
    for _ in range(5):
        measured.receive()
    measured.sweep()
    assert measured.probe.held()
    measured.finish()
    assert not measured.probe.held()
    assert measured.counted() == sum(record["packets"] for record in measured.records) == 5 * FLOWS
    starts = {record["time"] - record["duration"] for record in measured.records}
    first, last = measured.stamps[0], measured.stamps[-1]
    assert starts <= {first - first % chosen.interval, last - last % chosen.interval}
    if chosen.jitter_interval:
        jitter = {record["time"] - record["jitter_duration"] for record in measured.records}
        length = chosen.jitter_interval
        assert jitter <= {first - first % length, last - last % length}


@pytest.mark.parametrize("uptime", UPTIMES)
def test_taken_over(tap: Callable[..., Tap], uptime: str) -> None:
    """A program that takes over counts from that moment on, not from the grid line before."""
    measured = tap(chosen_by(interval=HOUR), UPTIMES[uptime])
    measured.probe.begin()
    began = time.time_ns()
    measured.receive()
    measured.finish()
    for record in measured.records:
        assert abs(record["time"] - record["duration"] - began) < NS // 10


def test_clock_that_counts_from_the_start(tap: Callable[..., Tap]) -> None:
    """On a machine without a clock of its own the wall clock begins with it: 1970, offset zero."""
    measured = tap(chosen_by(interval=HOUR), NS)
    measured.clock.offset = 0
    assert measured.probe.follow_clock()
    assert not measured.probe.follow_clock()
    for number in range(FLOWS):
        measured.program.show(frame(1, number))
    measured.finish()
    assert sum(record["packets"] for record in measured.records) == FLOWS
    for record in measured.records:
        assert record["time"] == record["duration"]
        assert NS <= record["time"] < 60 * NS
