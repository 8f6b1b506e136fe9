# SPDX-License-Identifier: Apache-2.0
"""The flow probe at work: when its table is swept and read, and its account."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trapstream_vtap._native import tally
from trapstream_vtap.clock import Grid, receive_timestamps
from trapstream_vtap.ledger import Amount, Handed
from trapstream_vtap.probes.flows.records import errors_of, schema_of
from trapstream_vtap.probes.flows.table import FlowTable
from trapstream_vtap.schema import Batch

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.flows.settings import FlowSettings

NAME = "flows"
_GRACE_NS = 5_000_000  # after the grid line, for packets that close their flows themselves
_SWITCH_NS = 5_000_000  # programs are exchanged no closer than that ahead of a grid line
_LAST_SWEEPS = 100


class FlowRunning:
    """Hands over summaries at each grid line, and sequence errors as they come.

    Args:
        settings: From which the program was made.
        objects: What has been loaded.
        clock: By which intervals end.
    """

    def __init__(self, settings: FlowSettings, objects: Objects, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.table = FlowTable(settings, objects, clock)
        self._grid = Grid(clock, settings.intervals[0])
        self._grace = min(_GRACE_NS, settings.intervals[0] // 20)
        self.schema = schema_of(settings)
        self._errors = errors_of(settings)
        self._handed, self._handed_errors = Handed(), Handed()
        self._evicted = {interface.index: Amount() for interface in settings.interfaces}
        self._ended = False
        self._line = self._grid.next_line()  # that ends the present interval
        self._drained = False  # of what packets have closed by themselves behind that line
        self._closed = clock.now()
        self._errors_wait = self._wakes = False
        self._stamping: socket.socket | None = None
        self.notes: list[str] = []

    def descriptors(self) -> tuple[int, ...]:
        """What says that the table fills; and events, where there are any."""
        return self.table.descriptors()

    def woken(self, ready: Collection[int]) -> None:
        """Look at what is READY in the next step."""
        wakeups, *events = self.table.descriptors()
        self._wakes |= wakeups in ready
        self._errors_wait |= any(descriptor in ready for descriptor in events)

    def due(self) -> int:
        """At once, if it has been woken; else at the grid line, and in a moment behind it."""
        if self._wakes or self._errors_wait:
            return self._clock.now()
        return self._line + self._grace if self._drained else self._line

    def attend(self) -> Iterator[Batch]:
        """Sequence errors, an early sweep, or what the grid line brings."""
        if self._errors_wait:
            self._errors_wait = False
            yield from self._read_errors()
        if self._wakes:
            self._wakes = False
            if self.table.pressed():
                yield from self._sweep(force=True)
        now = self._clock.now()
        if self._drained and now >= self._line + self._grace:
            self._clock.follow()  # ahead of the sweep: no interval ends on an old grid any more
            yield from self._sweep(force=self.table.follow_clock())
            self._end_interval()
        elif not self._drained and now >= self._line:
            self._drained = True
            yield from self._read()

    def _end_interval(self) -> None:
        self._closed = self._line
        self._line, self._drained = self._grid.next_line(), False

    def closed(self) -> int:
        """The grid line up to which everything is handed over."""
        return self._closed

    def take_over(self, old: FlowRunning | None) -> int:
        """Wait until no grid line can come between, and count from now on."""
        self._stamping = receive_timestamps()
        if old is None:
            return self._clock.now()
        while (rest := self._grid.next_line() - self._clock.now()) < _SWITCH_NS:
            self._clock.sleep(rest)
        self._line, self._closed = self._grid.next_line(), self._clock.now()
        return self.table.begin()

    def flush(self, moment: int | None = None) -> Iterator[Batch]:
        """All that the table and the rings hold."""
        yield from self._read_errors()
        if self._drained:  # the interval before ends where the grid says
            yield from self._sweep(now=self._line)
            self._end_interval()
        for attempt in range(_LAST_SWEEPS):
            yield from self._sweep(force=True, now=None if attempt else moment)
            if not self.table.held():  # nor stragglers in the slot that the sweep before left
                break
        self._ended = True

    def close(self) -> None:
        """Give programs and maps back."""
        if self._stamping:
            self._stamping.close()
            self._stamping = None
        self.table.close()

    def counts(self) -> dict[str, Counter[str]]:
        """By interface; of those that have gone nothing yet."""
        found = {name: Counter[str]() for name in self._settings.names}
        counters = self.table.counters()
        for interface in self._settings.interfaces:
            found[interface.name].update(self._account(interface.index, counters[interface.index]))
        return found

    def _account(self, index: int, counters: dict[str, int]) -> dict[str, int]:
        evicted, handed = self._evicted[index], self._handed.of(index)
        # a packet that is being counted may be handed over before its counter says so
        held = Amount(
            0,
            max(counters["counted_packets"] - handed.packets - evicted.packets, 0),
            max(counters["counted_bytes"] - handed.bytes - evicted.bytes, 0),
        )
        stranded = Amount()
        if self._ended:
            held, stranded = stranded, held
        return {
            **counters,
            "evicted_packets": evicted.packets,
            "evicted_bytes": evicted.bytes,
            "stranded_packets": stranded.packets,
            "stranded_bytes": stranded.bytes,
            "held_packets": held.packets,
            "held_bytes": held.bytes,
            "summaries_handed": handed.records,
            "packets_handed": handed.packets,
            "bytes_handed": handed.bytes,
            "events_handed": self._handed_errors.of(index).records,
        }

    def _sweep(self, *, force: bool = False, now: int | None = None) -> Iterator[Batch]:
        counters = self.table.counters()
        for _ in self.table.sweep(force=force, now=now):
            yield from self._read()
        self._account_evicted(counters)

    def _account_evicted(self, counters: dict[int, dict[str, int]]) -> None:
        """What is neither handed over nor in the table any more went with evicted flows.

        COUNTERS were read before the table, so that packets in between make this too small, never
        too large; it only grows, and without traffic it is exact.
        """
        held = self.table.held()
        for index, counts in counters.items():
            handed = self._handed.of(index)
            _, packets, octets = held.get(index, (0, 0, 0))
            evicted = self._evicted[index]
            missing = counts["counted_packets"] - handed.packets - packets
            if missing > evicted.packets:
                evicted.packets = missing
                evicted.bytes = max(evicted.bytes, counts["counted_bytes"] - handed.bytes - octets)

    def _read(self) -> Iterator[Batch]:
        while data := self.table.read(self._settings.batch_size):
            batch = Batch(self.schema, data, NAME)
            _book(self._handed, batch)
            yield batch

    def _read_errors(self) -> Iterator[Batch]:
        while self._errors and (data := self.table.read_events(self._settings.batch_size)):
            batch = Batch(self._errors, data, NAME)
            _book(self._handed_errors, batch)
            yield batch


def _book(handed: Handed, batch: Batch) -> None:
    layout = batch.schema.layout
    handed.book(tally(batch.data, layout.size, layout.offsets["interface"], batch.schema.weight))
