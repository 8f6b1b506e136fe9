# SPDX-License-Identifier: Apache-2.0
"""The round-trip time probe at work: samples are taken at each grid line, and become records."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.spread import spread
from trapstream_vtap.clock import tai_offset
from trapstream_vtap.probes.rtt.histograms import Histograms
from trapstream_vtap.probes.rtt.layouts import (
    CELL,
    CONTROL,
    COUNTS,
    HISTOGRAM,
    KEY,
    KINDS,
    LONGEST,
    PLACE,
)
from trapstream_vtap.probes.rtt.open import open_probes
from trapstream_vtap.probes.rtt.program import bits_of
from trapstream_vtap.probes.rtt.records import PERCENTILES, RECORD, schema_of
from trapstream_vtap.probes.turns import Turns
from trapstream_vtap.schema import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.rtt.settings import RttSettings

NAME = "rtt"
_COUNT_NS = 50_000_000
_SHARE = 20
"""What waits is counted no sooner than so long after it was counted last, nor than so many times as
long as that took: a large table takes a while to read."""
_MOST = 1024  # elements in one system call


class RttRunning(Turns):
    """Takes records in turns out of two tables, of which nobody writes to one.

    Args:
        settings: Of the run.
        objects: What has been loaded.
        clock: By which intervals end.
    """

    def __init__(self, settings: RttSettings, objects: Objects, clock: Clock) -> None:
        super().__init__(objects, clock, settings.interval)
        self._settings = settings
        self._cpus = kernel.possible_cpus()
        self._guest = NAME in settings.guests
        self._schema = schema_of(settings.by, {i.index: i.name for i in settings.interfaces})
        self._bits = bits_of(settings.by)
        self.histograms = Histograms(settings.interfaces, objects.maps)
        self._samples = dict.fromkeys(KINDS, 0)
        self._records = dict.fromkeys(KINDS, 0)
        self._evicted = dict.fromkeys(KINDS, 0)
        self._ended = False
        self._open: dict[int, tuple[int, int]] = {}
        self._count_at = 0
        _, places = spread(() if self._guest else settings.interfaces)
        for index, place in places.items():
            kernel.write_element(self._maps["rtt_places"], place, PLACE.pack({"interface": index}))
        self._write_control()

    def take_over(self, old: RttRunning | None) -> int:  # noqa: ARG002 - nothing of it goes on
        """It counts from when it is attached; what waits in OLD will not be answered there."""
        self._stamp()
        return self._clock.now()

    def flush(self, moment: int | None = None) -> Iterator[Batch]:
        """All samples that there are."""
        self._ended, self._count_at = True, 0
        yield from self._take(self._clock.now() if moment is None else moment)

    def counts(self) -> dict[str, dict[str, int]]:
        """By protocol: what became of the probes, and of the samples."""
        before, now = self._counted(), self._clock.now()
        looked = now >= self._count_at
        if looked:
            self._open = open_probes(self._maps["pairs"], self._maps["asks"])
            took = self._clock.now() - now
            self._count_at = now + max(_COUNT_NS, _SHARE * took)
        counted = self._counted() if looked else before
        for number, kind in enumerate(KINDS if looked else ()):
            # what is set later, or answered later, makes this too small, never too large
            gone = before[kind]["probes_set"] - _answered(counted[kind])
            gone -= sum(self._open.get(number, (0, 0)))
            self._evicted[kind] = max(self._evicted[kind], gone)
        return {
            kind: self._account(kind, counted[kind], self._open.get(number, (0, 0))[1])
            for number, kind in enumerate(KINDS)
        }

    def _counted(self) -> dict[str, dict[str, int]]:
        """What the program has counted of each kind."""
        size = COUNTS.size * self._cpus
        found = {}
        for number, kind in enumerate(KINDS):
            rows = COUNTS.unpack(kernel.read_element(self._maps["rtt_counted"], number, size))
            sums = Counter[str]()
            for row in rows:
                sums.update(row)
            found[kind] = dict(sums)
        return found

    def _account(self, kind: str, counted: dict[str, int], one_way: int) -> dict[str, int]:
        """The parts of the probes; what waits is all that is no other part.

        Args:
            kind: Of the probes.
            counted: By the program.
            one_way: How many waited for what goes another way, when it was looked last.
        """
        evicted = self._evicted[kind]
        rest = max(0, counted["probes_set"] - _answered(counted) - evicted)
        one_way = min(one_way, rest)
        waiting = rest - one_way
        handed = counted["samples_handed"] if self._guest else self._samples[kind]
        held = max(0, counted["samples"] - handed - counted["samples_lost"])
        lost = counted["samples_lost"] + (held if self._ended else 0)
        return {
            **counted,
            "evicted": evicted,
            "unanswered": waiting if self._ended else 0,
            "one_way": one_way,
            "waiting": 0 if self._ended else waiting,
            "samples_handed": handed,
            "samples_lost": lost,
            "samples_held": 0 if self._ended else held,
            "records_handed": self._records[kind],
        }

    def _follow(self) -> None:
        tai = tai_offset()
        if tai != self._tai:
            self._tai = tai
            self._write_control()

    def _write_control(self) -> None:
        control = CONTROL.pack({"tai_offset": self._tai, "slot": self._slot})
        kernel.write_element(self._maps["rtt_controls"], 0, control)

    def _take(self, moment: int) -> Iterator[Batch]:
        if self._guest:
            self.histograms.look()
            return
        table = self._maps[f"cells{self._slot}"]
        self._slot = 1 - self._slot
        self._clock.follow()
        self._follow()
        self._write_control()
        kernel.wait_for_programs()
        time = self._grid.wall(moment)
        for keys, values in kernel.take_elements(table, KEY.size, CELL.size, _MOST):
            found = zip(KEY.unpack(keys), CELL.unpack(values), strict=True)
            data = b"".join(self._record(key, cell, time) for key, cell in found)
            yield Batch(self._schema, data, NAME)

    def _record(self, key: dict[str, int], cell: dict[str, int], time: int) -> bytes:
        kind = KINDS[key["kind"]]
        self._records[kind] += 1
        self._samples[kind] += cell["count"]
        least, most = LONGEST - cell.pop("least"), cell.pop("most")
        percentiles = {}
        if cell["count"]:
            buckets = array("I", bytes(cell["buckets"]))
            if self._settings.metrics:
                where = key["interface"], key["side"], key["kind"]
                self.histograms.add(*where, cell["sum"], buckets)
            percentiles = HISTOGRAM.percentiles(PERCENTILES, buckets, least, most)
        version = 0 if key["family"] == 4 else 1  # noqa: PLR2004 - IPv4
        bits = {f"{end}_bits": each[version] for end, each in self._bits.items()}
        return RECORD.pack(
            {**key, **cell, **percentiles, **bits, "min": least, "max": most, "time": time}
        )


def _answered(counted: dict[str, int]) -> int:
    """Probes that nothing waits for any more, in COUNTED."""
    return counted["samples"] + counted["invalidated"] + counted["stretched"]
