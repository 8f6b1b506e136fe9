# SPDX-License-Identifier: Apache-2.0
"""The probes for drops and traps at work: when events and tables are read, and their account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap._native import tally
from trapstream_vtap.clock import NEVER, NS, Grid
from trapstream_vtap.ledger import Amount
from trapstream_vtap.probes.drops.account import ROWS
from trapstream_vtap.probes.drops.table import DropTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.drops.naming import Naming
    from trapstream_vtap.probes.drops.settings import DropSettings
    from trapstream_vtap.schema import Batch

_PAUSE_NS = 100_000_000
"""From one reading of events to the next, so that what we send ourselves, and is dropped, does not
have us send the more the faster that happens."""
_EARLY_NS = NS  # from one early emptying of the table to the next


class DropRunning:
    """Hands over events soon after they come, and aggregates at each grid line.

    Args:
        settings: Of the run.
        kind: `drops` or `traps`.
        objects: What has been loaded.
        clock: By which intervals end.
        naming: Names what the records number.
    """

    def __init__(
        self, settings: DropSettings, kind: str, objects: Objects, clock: Clock, naming: Naming
    ) -> None:
        self._kind = kind
        self._clock = clock
        self._batch_size = settings.batch_size
        self._naming = naming
        self._table = DropTable(settings, kind, objects, clock)
        self._grid = Grid(clock, settings.unique or settings.interval)
        self._handed = Amount()
        self._line = self._grid.next_line()
        self._read_at = self._empty_at = NEVER
        self._read = self._emptied = -NEVER  # when last
        self.notes: list[str] = []

    def descriptors(self) -> tuple[int, int]:
        """What says that there are events, and that the table of aggregates is nearly full."""
        return self._table.events_fileno(), self._table.pressure_fileno()

    def woken(self, ready: Collection[int]) -> None:
        """Read events in a moment, or empty the table."""
        now = self._clock.now()
        if self._table.events_fileno() in ready:
            self._read_at = min(self._read_at, max(now, self._read + _PAUSE_NS))
        if self._table.pressure_fileno() in ready:
            self._table.calm()
            self._empty_at = max(now, self._emptied + _EARLY_NS)

    def due(self) -> int:
        """The grid line, or before it where it has been woken."""
        return min(self._line, self._read_at, self._empty_at)

    def attend(self) -> Iterator[Batch]:
        """What the grid line brings, an early emptying of the table, or events."""
        now = self._clock.now()
        if now >= self._line:
            self._line = self._grid.next_line()
            yield from self.flush()
        elif now >= self._empty_at:
            yield from self._take_aggregates()
        elif now >= self._read_at:
            yield from self._take_events()

    def closed(self) -> int:
        """Now, unless its grid line has gone by: events are handed over as they come."""
        now = self._clock.now()
        return now if now < self._line else self._line - 1

    def take_over(self, old: DropRunning | None) -> int:  # noqa: ARG002 - there is none
        """It counts from when it is attached."""
        return self._clock.now()

    def flush(self, moment: int | None = None) -> Iterator[Batch]:  # noqa: ARG002
        """All that the kernel side has by now."""
        yield from self._take_aggregates()
        yield from self._named(self._table.suppressed())

    def close(self) -> None:
        """Give program and maps back."""
        self._table.close()

    def counts(self) -> dict[str, dict[str, int]]:
        """One row: the probe's."""
        counts = self._table.counts().total()
        fates = [count.name for count in ROWS.counts if not count.name.endswith("_handed")]
        return {
            self._kind: {
                **{name: counts[name.removesuffix("_packets")] for name in fates},
                "records_handed": self._handed.records,
                "packets_handed": self._handed.packets,
            }
        }

    def _take_aggregates(self) -> Iterator[Batch]:
        yield from self._take_events()
        for data in self._table.aggregates():
            yield from self._named(data)
        self._empty_at, self._emptied = NEVER, self._clock.now()

    def _take_events(self) -> Iterator[Batch]:
        self._read_at, self._read = NEVER, self._clock.now()
        while data := self._table.read(self._batch_size):
            yield from self._named(data)

    def _named(self, data: bytearray) -> Iterator[Batch]:
        if data:
            batch = self._naming.named(data, self._kind)
            layout = batch.schema.layout
            held = tally(batch.data, layout.size, layout.offsets["interface"], batch.schema.weight)
            self._handed.records += sum(records for records, _, _ in held.values())
            self._handed.packets += sum(packets for _, packets, _ in held.values())
            yield batch
