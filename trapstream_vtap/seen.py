# SPDX-License-Identifier: Apache-2.0
"""What became of the packets of each interface, from the start on.

One probe takes over from another when the configuration is read again, and when an interface is
there again, with a new index: the counts go on by the interface's name.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trapstream_vtap.ledger import Amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.ledger import Handed
    from trapstream_vtap.probes.flow import FlowProbe


_MOST_DEPARTED = 1000
"""So many names of interfaces that have gone are remembered, should they come back."""


class Seen:
    """The counts of all interfaces.

    Args:
        flows: What has been handed over of the flows that the present probe measured.
        events: Likewise of sequence errors.
    """

    def __init__(self, flows: Handed, events: Handed) -> None:
        self._before: dict[str, Counter[str]] = {}  # by earlier probes
        self._forgotten = Counter[str]()
        self._flows, self._events = flows, events
        self._shown: set[str] = set()
        self._wanted: set[str] = set()

    def begin(self, probe: FlowProbe, interfaces: Iterable[Interface], gone: Iterable[str]) -> None:
        """PROBE counts from now on, on INTERFACES; others that are wanted are GONE."""
        self._probe = probe
        self._names = {interface.index: interface.name for interface in interfaces}
        self._evicted = {index: Amount() for index in self._names}
        self._wanted = {*self._names.values(), *gone}
        for name in self._wanted:
            self._before.setdefault(name, Counter())
        self._shown |= self._wanted

    def has_met(self, name: str) -> bool:
        """Whether an earlier probe counted at the interface of that NAME."""
        return bool(self._before.get(name))

    @property
    def names(self) -> set[str]:
        """Of the interfaces that `values` speaks of."""
        return self._shown

    def let_go(self) -> None:
        """An interval has ended: of interfaces that nobody wants any more all has been said."""
        self._shown = set(self._wanted)
        departed = [name for name in self._before if name not in self._wanted]
        for name in departed[: max(0, len(departed) - _MOST_DEPARTED)]:
            self._forgotten.update(self._before.pop(name))

    def end(self) -> None:
        """The probe counts no more, and what it still holds it will not hand over."""
        counters = self._probe.counters()
        for index, name in self._names.items():
            counts = self._present(index, counters[index])
            for unit in ("packets", "bytes"):
                counts[f"stranded_{unit}"], counts[f"held_{unit}"] = counts[f"held_{unit}"], 0
            self._before[name].update(counts)
        self._names = {}
        self._flows.take()
        self._events.take()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile another probe may begin and end; then the present one goes on."""
        present = self._probe, self._names, self._evicted, self._wanted
        flows, events = self._flows.take(), self._events.take()
        try:
            yield
        finally:
            self._flows.give_back(flows)
            self._events.give_back(events)
            self._probe, self._names, self._evicted, self._wanted = present

    def account_evicted(self, counters: dict[int, dict[str, int]]) -> None:
        """What is neither handed over nor in the table any more went with evicted flows.

        The COUNTERS of the probe were read before the table, so that packets in between make this
        too small, never too large; it only grows, and without traffic it is exact.
        """
        held = self._probe.held()
        for index, counts in counters.items():
            handed = self._flows.of(index)
            _, packets, octets = held.get(index, (0, 0, 0))
            evicted = self._evicted[index]
            missing = counts["counted_packets"] - handed.packets - packets
            if missing > evicted.packets:
                evicted.packets = missing
                evicted.bytes = max(evicted.bytes, counts["counted_bytes"] - handed.bytes - octets)

    def values(self) -> dict[str, Counter[str]]:
        """The counts of `vtap_agent` by interface name."""
        return {name: counts for name, counts in self._all().items() if name in self._shown}

    def totals(self) -> Counter[str]:
        """The counts of all interfaces together, by name."""
        found = Counter(self._forgotten)
        for counts in self._all().values():
            found.update(counts)
        return found

    def _all(self) -> dict[str, Counter[str]]:
        found = {name: Counter(counts) for name, counts in self._before.items()}
        counters = self._probe.counters()
        for index, name in self._names.items():
            found[name].update(self._present(index, counters[index]))
        return found

    def _present(self, index: int, counters: dict[str, int]) -> dict[str, int]:
        evicted, handed = self._evicted[index], self._flows.of(index)
        # a packet that is being counted may be handed over before its counter says so
        held = max(counters["counted_packets"] - handed.packets - evicted.packets, 0)
        held_bytes = max(counters["counted_bytes"] - handed.bytes - evicted.bytes, 0)
        return {
            **counters,
            "evicted_packets": evicted.packets,
            "evicted_bytes": evicted.bytes,
            "stranded_packets": 0,
            "stranded_bytes": 0,
            "held_packets": held,
            "held_bytes": held_bytes,
            "summaries_handed": handed.records,
            "packets_handed": handed.packets,
            "bytes_handed": handed.bytes,
            "events_handed": self._events.of(index).records,
        }
