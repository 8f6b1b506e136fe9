# SPDX-License-Identifier: Apache-2.0
"""The account of a run: what became of everything, interval by interval and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap import account
from trapstream_vtap.engine import events
from trapstream_vtap.engine.snapshot import Snapshot
from trapstream_vtap.ledger import SINK_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.account import Account, Rows
    from trapstream_vtap.delivery import Delivery
    from trapstream_vtap.engine.bus import Bus
    from trapstream_vtap.engine.room import Room
    from trapstream_vtap.metrics.exporter import Metrics
    from trapstream_vtap.schema import Schema


class Accounting:
    """Tells all who want to know.

    Args:
        rooms: Of which it is.
        delivery: Likewise.
        metrics: Told of each account, if anybody scrapes.
        bus: Takes the records of each account.
        report: Takes what happens.
    """

    def __init__(
        self,
        rooms: Sequence[Room],
        delivery: Delivery,
        metrics: Metrics | None,
        bus: Bus,
        report: Callable[[events.Event], None],
    ) -> None:
        self._rooms = rooms
        self._delivery = delivery
        self._metrics = metrics
        self._bus = bus
        self._report = report
        self._schemas: dict[Rows, tuple[tuple[str, ...], Schema]] = {}
        self.snapshot = Snapshot()
        """As of the latest account."""

    def begin(self) -> None:
        """Measuring has begun."""
        self.snapshot = Snapshot(measuring=True, device=self._delivery.device)

    def tell(self, now: int, *, verbose: bool, measuring: bool = True) -> events.Progress:
        """The account as of NOW (ns since the epoch); how far the run is.

        Args:
            now: When.
            verbose: Whether the person wants to be told how far the run is.
            measuring: Whether it goes on.
        """
        each = [room.account() for room in self._rooms]  # what the kernel counts is read once
        accounts: list[Account] = [(rows, counts) for rows, counts, _ in each]
        sinks = self._delivery.accounts()
        for rows, counts in (*accounts, (SINK_ROWS, sinks)):
            if counts:
                self._bus.publish(account.batch(self._named(rows, tuple(counts)), now, counts))
        if self._metrics:
            self._metrics.end_interval(now, accounts)
        probes = {r.probe.name: a[1] for r, a in zip(self._rooms, accounts, strict=True)}
        self.snapshot = Snapshot(measuring, now, self._delivery.device, probes, sinks)
        seen = []
        for room, (_, _, totals) in zip(self._rooms, each, strict=True):
            room.let_go()
            seen.append((room.probe.noun, totals["seen_packets"]))
            if doubt := room.doubt(totals):
                self._report(events.Note(doubt))
        event = events.Progress(tuple(seen), self._delivery.progress(), asked=verbose)
        self._report(event)
        return event

    def _named(self, rows: Rows, names: tuple[str, ...]) -> Schema:
        """The records of ROWS of these NAMES: the same object as long as these are the same."""
        known, schema = self._schemas.get(rows, ((), rows.schema))
        if known != names:
            schema = rows.named(names)
            self._schemas[rows] = names, schema
        return schema

    def sum_up(self) -> None:
        """What became of everything, for the last lines."""
        told = []
        for room in self._rooms:
            summary = room.probe.summary(room.settings, room.totals())
            if room.probe.at_interfaces:
                told.append(summary)
            else:
                self._report(events.Ended((summary,)))
        told += self._delivery.summaries()
        if told:
            self._report(events.Ended(tuple(told)))

    def useful(self) -> bool:
        """Whether the run was: not if all records were lost, or something could not be handed over.

        What could not is named by counts that say so (`Count.fails`).
        """
        return not self._delivery.in_vain() and not any(room.failed() for room in self._rooms)
