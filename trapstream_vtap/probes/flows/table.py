# SPDX-License-Identifier: Apache-2.0
"""The flow program's table and rings: swept, read, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap._native import Ring, Sweep
from trapstream_vtap.bpf import kernel
from trapstream_vtap.clock import Grid
from trapstream_vtap.probes.flows.layouts import CONTROL, GAP_COUNTS, LINK, LINK_COUNTS
from trapstream_vtap.probes.flows.links import gap_numbers, name_links
from trapstream_vtap.probes.flows.program import layouts, sweep_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap._native import Tallies
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.flows.layouts import FlowLayouts
    from trapstream_vtap.probes.flows.settings import FlowSettings

_LONG_BEFORE = 1 << 62  # ns, as in bpf/lib/moment.h
_MOMENTS = 1 << 64


class FlowTable:
    """What a loaded flow program has gathered; attached or not.

    Args:
        settings: From which the program was made.
        objects: What has been loaded.
        clock: By which intervals end.
    """

    def __init__(self, settings: FlowSettings, objects: Objects, clock: Clock) -> None:
        self._settings = settings
        self._objects = objects
        self._clock = clock
        self._maps = objects.maps
        self._cpus = kernel.possible_cpus()
        structures = layouts(settings)
        self._ring = Ring(self._maps["summaries"], structures.record.size)
        self._events = (
            Ring(self._maps["events"], structures.event.size) if settings.sequences else None
        )
        self._wakeups = Ring(self._maps["wakeups"], 8)
        self._sweep = Sweep(
            self._maps["flows"],
            objects.programs["vtap_sweep"],
            sweep_keys(structures),
            key_size=structures.key.size,
            value_size=structures.flow.size,
            interface_at=structures.key.offsets["interface"],
            end_at=structures.flow.offsets["end"],
            arrivals_at=_slot_offsets(structures, "arrivals"),
            gaps_at=_gap_offsets(structures),
            guest_at=_slot_offsets(
                structures, settings.guest.gathered if settings.guest else "arrivals"
            ),
            merged_at=_slot_offsets(structures, "merged"),
            bytes_at=_slot_offsets(structures, "bytes"),
        )
        self._places = name_links(self._maps["links"], settings)
        self._began = clock.now() - _LONG_BEFORE & ~3
        self._longer = Grid(clock, settings.intervals[1])
        self._period = self._longer.number(clock.now())  # in which all was handed over last
        self._offset = clock.offset
        self._write_control()

    def close(self) -> None:
        """Give programs and maps back; nothing is attached any more."""
        del self._ring, self._events, self._wakeups, self._sweep
        self._objects.close()

    def begin(self) -> int:
        """The program counts from now on; the moment (ns), which is where its intervals begin."""
        self._began = self._clock.now() & ~3
        self._offset = self._clock.offset
        self._write_control()
        return self._began

    def follow_clock(self) -> bool:
        """Tell the program what the wall clock says; whether that is news."""
        if self._offset == self._clock.offset:
            return False
        self._offset = self._clock.offset
        self._write_control()
        return True

    def descriptors(self) -> tuple[int, ...]:
        """Becomes readable: what says that the table fills; and events, where there are any."""
        if self._events is None:
            return (self._wakeups.fileno(),)
        return (self._wakeups.fileno(), self._events.fileno())

    def pressed(self) -> bool:
        """Whether a quarter of the table has been filled since all flows last handed over."""
        while self._wakeups.read(1):  # only what finds it empty calls again
            pass
        (control,) = CONTROL.unpack(kernel.read_element(self._maps["controls"], 0, CONTROL.size))
        return control["inserts"] >= self._settings.flow_table_size // 4

    def read(self, most: int) -> bytearray:
        """Up to MOST records of `flow_record` out of their ring buffer."""
        return self._ring.read(most)

    def read_events(self, most: int) -> bytearray:
        """Up to MOST records of `sequence_event` out of theirs."""
        return self._events.read(most) if self._events else bytearray()

    def sweep(self, *, force: bool = False, now: int | None = None) -> Iterator[None]:
        """Close what no packet closed, in steps: read the ring after each.

        Args:
            force: Close all that hold anything, whether their interval is over or not.
            now: When it is, if not when this is called.
        """
        now = self._clock.now() if now is None else now
        period = self._longer.number(now)
        if force or period != self._period:  # else flows may still hold what is not handed over yet
            self._period = period
            self._write_control()
        self._sweep.begin()
        more = True
        while more:
            more = self._sweep.step(now, force)
            yield

    def held(self) -> Tallies:
        """What the table held of each interface when it was last swept: flows, packets, bytes."""
        return self._sweep.result()[2]

    def counters(self) -> dict[int, dict[str, int]]:
        """What the kernel program has counted since the start, by interface index."""
        found = {}
        for interface in self._settings.interfaces:
            place = self._places[interface.index]
            per_cpu = kernel.read_element(self._maps["links"], place, LINK.size * self._cpus)
            rows = list(LINK.unpack(per_cpu))
            found[interface.index] = {
                name: _signed(sum(row[name] for row in rows)) for name in LINK_COUNTS
            }
        return found

    def gaps(self) -> dict[tuple[int, int, str], list[int]]:
        """The histogram of inter-arrival times, as of now; empty where there is none.

        By interface index, direction and protocol: their sum in ns, and how many are in each of the
        buckets that `GAP_BOUNDS` bounds.
        """
        found = {}
        for number, where in gap_numbers(self._settings).items() if self._settings.metrics else ():
            size = GAP_COUNTS.size * self._cpus
            words = memoryview(kernel.read_element(self._maps["gaps"], number, size)).cast("Q")
            step = GAP_COUNTS.size // words.itemsize
            found[where] = [sum(words[place::step]) for place in range(step)]
        return found

    def _write_control(self) -> None:
        """Also sets the number of new flows to zero: all are about to hand over what they have."""
        moments = {"clock_offset": self._offset, "began": self._began}
        control = CONTROL.pack({name: ns % _MOMENTS for name, ns in moments.items()})
        kernel.write_element(self._maps["controls"], 0, control)


def _signed(total: int) -> int:
    """A sum of counts modulo 2^64, of which some may be negative."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _slot_offsets(structures: FlowLayouts, name: str) -> tuple[int, int]:
    first = structures.flow.offsets["slot"] + structures.slot.offsets[name]
    return first, first + structures.slot.size


def _gap_offsets(structures: FlowLayouts) -> tuple[int, int]:
    """What says that there are inter-arrival times: where they wait apart, else the arrivals."""
    if not structures.jitter:
        return _slot_offsets(structures, "arrivals")
    first = structures.flow.offsets["jitter"] + structures.jitter.offsets["iat_count"]
    return first, first + structures.jitter.size
