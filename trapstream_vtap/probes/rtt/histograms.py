# SPDX-License-Identifier: Apache-2.0
"""The histograms that Prometheus scrapes: what has been added to them since it was looked last."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.spread import spread
from trapstream_vtap.probes.rtt.layouts import HISTOGRAM, HISTOGRAM_COUNTS, KINDS, PLACE, SIDES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trapstream_vtap.interfaces import Interface

    Series = tuple[str, str, str]
    """Interface, side, protocol."""

_EACH = len(SIDES) * len(KINDS)


class Histograms:
    """By series: the sum (ns), and how many are in each bucket.

    Args:
        interfaces: That are measured.
        maps: Of the program, by name; it has the histograms, or they are made from records.
    """

    def __init__(self, interfaces: Sequence[Interface], maps: Mapping[str, int]) -> None:
        self._names = {interface.index: interface.name for interface in interfaces}
        self._added: dict[Series, list[int]] = {}
        self._map = maps.get("rtt_histograms")
        self._before: dict[int, array[int]] = {}
        self._cpus = kernel.possible_cpus()
        if self._map is not None:
            _, found = spread(interfaces)
            for number, index in enumerate(self._names):
                place = PLACE.pack({"interface": index, "number": number})
                kernel.write_element(maps["rtt_places"], found[index], place)

    def add(self, interface: int, side: int, kind: int, total: int, buckets: Sequence[int]) -> None:
        """Samples of an INTERFACE, by index: their TOTAL (ns), and how many are in each bucket."""
        series = self._names[interface], SIDES[side], KINDS[kind]
        sums = self._added.setdefault(series, [0] * (1 + HISTOGRAM.buckets))
        sums[0] += total
        for place, count in enumerate(buckets, 1):
            if count:
                sums[place] += count

    def look(self) -> None:
        """Add what the program has counted since it was looked last."""
        if self._map is None:
            return
        size = HISTOGRAM_COUNTS.size * self._cpus
        width = HISTOGRAM_COUNTS.size // 8
        for number, index in enumerate(self._names):
            for place in range(_EACH):
                at = number * _EACH + place
                words = array("Q", kernel.read_element(self._map, at, size))
                sums = array("Q", (sum(words[column::width]) for column in range(width)))
                before = self._before.get(at)
                if not any(sums) or sums == before:
                    continue
                self._before[at] = sums
                total, *counts = (a - b for a, b in zip(sums, before or bytes(width), strict=True))
                side, kind = divmod(place, len(KINDS))
                self.add(index, side, kind, total, counts)

    def take(self) -> dict[Series, list[int]]:
        """What has been added since this was called last."""
        found, self._added = self._added, {}
        return found
