# SPDX-License-Identifier: Apache-2.0
"""Drops and traps in the loop: when a probe is to be read, and what became of its packets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trapstream_vtap.config import NS
from trapstream_vtap.ledger import Handed
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Collection

    from trapstream_vtap.delivery import Delivery
    from trapstream_vtap.metrics.exporter import Metrics
    from trapstream_vtap.probes.drop import DropProbe

_PAUSE_NS = 100_000_000
"""From one reading of events to the next, so that what we send ourselves, and is dropped, does not
have us send the more the faster that happens."""
_EARLY_NS = NS  # from one early emptying of the table to the next
_NEVER = 1 << 62

_COUNTS = {
    "seen": "",
    "events": "one by one",
    "aggregated": "aggregated",
    "suppressed": "counted by cause alone",
    "left_out": "of reasons not asked for",
    "elsewhere": "at other interfaces",
    "no_packet": "that no network packets are",
    "missed": "missed",
}
"""What is told of packets, and in which words: the first is the sum of the others."""


class Drops:
    """What the loop does for all probes of drops and traps; none, where there are none."""

    def __init__(self) -> None:
        self._each: list[_One] = []

    def add(
        self, probe: DropProbe, delivery: Delivery, metrics: Metrics | None, batch_size: int
    ) -> None:
        """PROBE, which somebody else attaches, hands over to both, so many at a time."""
        self._each.append(_One(probe, delivery, metrics, batch_size))

    @property
    def kinds(self) -> list[str]:
        """Which probes there are."""
        return [one.probe.kind for one in self._each]

    def descriptors(self) -> list[int]:
        """All that becomes readable when there is something to do; by edges, not levels."""
        return [descriptor for one in self._each for descriptor in one.descriptors()]

    def woken(self, descriptors: Collection[int]) -> None:
        """Ours may be among the DESCRIPTORS that have become readable."""
        for one in self._each:
            one.woken(descriptors)

    def due(self) -> int:
        """When there is something to do next, CLOCK_MONOTONIC in ns."""
        return min((one.due() for one in self._each), default=_NEVER)

    def attend(self) -> None:
        """Do what is due."""
        for one in self._each:
            one.attend()

    def hand_all(self) -> None:
        """All that the kernel side has by now."""
        for one in self._each:
            one.hand_all()

    def values(self) -> dict[str, dict[str, int]]:
        """The counts of `vtap_agent`, by probe."""
        return {one.probe.kind: one.values() for one in self._each}

    def summaries(self) -> list[str]:
        """A sentence for each probe: what became of all packets."""
        return [one.summary() for one in self._each]


class _One:
    """What the loop does for one probe.

    Args:
        probe: Attached by somebody else.
        delivery: Takes what it hands over.
        metrics: Likewise, if there are any.
        batch_size: Most records at a time.
    """

    def __init__(
        self, probe: DropProbe, delivery: Delivery, metrics: Metrics | None, batch_size: int
    ) -> None:
        self.probe = probe
        self._delivery = delivery
        self._metrics = metrics
        self._batch_size = batch_size
        self._handed = Handed()
        self._line = self._next_line()
        self._read_at = self._empty_at = _NEVER
        self._read = self._emptied = -_NEVER  # when last

    def _next_line(self) -> int:
        """The next line of the grid of intervals, which is aligned to the wall clock."""
        wall, interval = time.time_ns(), self.probe.interval
        return time.monotonic_ns() + interval - wall % interval

    def descriptors(self) -> tuple[int, int]:
        """All that becomes readable when there is something to do; by edges, not levels."""
        return self.probe.events_fileno(), self.probe.pressure_fileno()

    def due(self) -> int:
        """When there is something to do next, CLOCK_MONOTONIC in ns."""
        return min(self._line, self._read_at, self._empty_at)

    def woken(self, descriptors: Collection[int]) -> None:
        """The probe's descriptors may be among those that have become readable."""
        now = time.monotonic_ns()
        if self.probe.events_fileno() in descriptors:
            self._read_at = min(self._read_at, max(now, self._read + _PAUSE_NS))
        if self.probe.pressure_fileno() in descriptors:
            self.probe.calm()
            self._empty_at = max(now, self._emptied + _EARLY_NS)

    def attend(self) -> None:
        """Do what is due."""
        now = time.monotonic_ns()
        if now >= self._line:
            self._line = self._next_line()
            self.hand_all()
        elif now >= self._empty_at:
            self._hand_aggregates()
        elif now >= self._read_at:
            self._hand_events()

    def hand_all(self) -> None:
        """All that the kernel side has by now."""
        self._hand_aggregates()
        self._hand(self.probe.suppressed())

    def _hand_aggregates(self) -> None:
        self._hand_events()
        for batch in self.probe.aggregates():
            self._hand(batch)
        self._empty_at, self._emptied = _NEVER, time.monotonic_ns()

    def _hand_events(self) -> None:
        self._read_at, self._read = _NEVER, time.monotonic_ns()
        while batch := self.probe.read(self._batch_size):
            self._hand(batch)

    def _hand(self, batch: bytearray) -> None:
        self._delivery.hand_drops(self.probe.kind, batch, self._handed)
        if self._metrics:
            self._metrics.hand_drops(self.probe.kind, batch)

    def values(self) -> dict[str, int]:
        """The counts of `vtap_agent`."""
        handed = self._handed.total()
        counts = self.probe.counts().total()
        return {
            **{f"{name}_packets": counts[name] for name in _COUNTS},
            "records_handed": handed.records,
            "packets_handed": handed.packets,
        }

    def summary(self) -> str:
        """What became of all packets, for the last line."""
        values = self.values()
        told = [amount(values["seen_packets"], self.probe.kind.removesuffix("s"))]
        for name, words in _COUNTS.items():
            if name != "seen" and values[f"{name}_packets"]:
                told.append(f"{values[f'{name}_packets']} {words}")
        return f"{told[0]} seen: " + (", ".join(told[1:]) or "none")
