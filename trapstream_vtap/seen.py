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


class Seen:
    """The counts of all interfaces.

    Args:
        names: Of the interfaces.
        flows: What has been handed over of the flows that the present probe measured.
        events: Likewise of sequence errors.
    """

    def __init__(self, names: Iterable[str], flows: Handed, events: Handed) -> None:
        self._before = {name: Counter[str]() for name in names}  # by earlier probes
        self._flows, self._events = flows, events

    def begin(self, probe: FlowProbe, interfaces: Iterable[Interface]) -> None:
        """PROBE counts from now on, on INTERFACES."""
        self._probe = probe
        self._names = {interface.index: interface.name for interface in interfaces}
        self._evicted = {index: Amount() for index in self._names}

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
        probe, names, evicted = self._probe, self._names, self._evicted
        flows, events = self._flows.take(), self._events.take()
        yield
        self._flows.give_back(flows)
        self._events.give_back(events)
        self._probe, self._names, self._evicted = probe, names, evicted

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
        found = {name: Counter(counts) for name, counts in self._before.items()}
        counters = self._probe.counters()
        for index, name in self._names.items():
            found[name].update(self._present(index, counters[index]))
        return found

    def totals(self) -> Counter[str]:
        """The counts of all interfaces together, by name."""
        return sum(self.values().values(), Counter[str]())

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
