# SPDX-License-Identifier: Apache-2.0
"""The latency probe at work: histograms are taken at each grid line, and become records."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.spread import spread
from trapstream_vtap.clock import clock_ahead, tai_offset
from trapstream_vtap.probes.latency.layouts import (
    CELL,
    CONTROL,
    FATES,
    HISTOGRAM,
    LONG,
    LONGEST,
    PLACE,
    PROTOCOLS,
    STATE,
)
from trapstream_vtap.probes.latency.names import Values
from trapstream_vtap.probes.latency.program import cells, numbers, places
from trapstream_vtap.probes.latency.records import OTHER, PERCENTILES, RECORD, schema_of
from trapstream_vtap.probes.latency.settings import STAGES
from trapstream_vtap.probes.turns import Turns
from trapstream_vtap.schema import Batch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.latency.settings import LatencySettings
    from trapstream_vtap.schema import Schema

_SOON_NS = 10_000_000
"""After so long the new one of two programs that are attached measures, and not the old one."""
_FOREVER = 1 << 62


class LatencyRunning(Turns):
    """Takes histograms in turns out of two slots, of which nobody writes to one.

    Args:
        settings: Of the run.
        objects: What has been loaded.
        clock: By which intervals end.
    """

    def __init__(self, settings: LatencySettings, objects: Objects, clock: Clock) -> None:
        super().__init__(objects, clock, settings.interval)
        self._settings = settings
        self._cpus = kernel.possible_cpus()
        self._cells = cells(settings)
        self._values = Values(settings.latency_by, objects.maps.get("numbers", -1))
        self.before: LatencyRunning | None = None
        """In whose place this one is about to come."""
        self.following: LatencyRunning | None = None
        """What is about to come in the place of this one."""
        self._begin = 0
        self._end = _FOREVER
        self._ahead, self._since = clock_ahead(), 0
        self._handed = {stage: Counter[str]() for stage in settings.latency_stages}
        self._zeros = bytes(CELL.size * self._cpus)
        self._interfaces = list(dict.fromkeys(each.index for each in settings.interfaces))
        _, found = spread(settings.interfaces)
        for number, index in enumerate(self._interfaces):
            place = PLACE.pack({"interface": index, "number": number})
            kernel.write_element(self._maps["places"], found[index], place)
        self._write_control()

    def take_over(self, old: LatencyRunning | None) -> int:
        """It counts from when OLD is flushed; both are attached until then."""
        self._stamp()
        if old:
            self.before, old.following = old, self
            self._begin = _FOREVER
            self._write_control()
        return self._clock.now()

    def flush(self, moment: int | None = None) -> Iterator[Batch]:
        """All that it has measured; where another one follows, that begins when this one ends."""
        if self.following:
            moment = self._clock.now() + _SOON_NS
            self.following.measure_from(moment)
            self._end = self._in_tai(moment)
            self._write_control()
            self._clock.sleep(_SOON_NS)
        yield from self._take(self._clock.now() if moment is None else moment)

    def measure_from(self, moment: int) -> None:
        """The one before measures until that MOMENT."""
        self.before, self._begin = None, self._in_tai(moment)
        self._write_control()

    def counts(self) -> dict[str, dict[str, int]]:
        """By stage: what became of all that came by, and what of it is in records."""
        missed = self._missed()
        found = {}
        for number, stage in enumerate(self._settings.latency_stages):
            size = STATE.size * self._cpus
            rows = (kernel.read_element(self._maps["states"], 2 * number + i, size) for i in (0, 1))
            words = array("Q", b"".join(rows))
            fates = {name: sum(words[place :: STATE.size // 8]) for place, name in enumerate(FATES)}
            fates["missed"] = missed[stage]
            found[stage] = {
                "seen_packets": sum(fates.values()),
                **{f"{name}_packets": count for name, count in fates.items()},
                "records_handed": self._handed[stage]["records"],
                "packets_handed": self._handed[stage]["packets"],
            }
        return found

    def close(self) -> None:
        """Give programs and maps back, and have packets stamped no longer."""
        if self.before:  # which goes on
            self.before.following = None
        super().close()

    def _missed(self) -> Counter[str]:
        """By stage, which a program's name begins with."""
        found = Counter[str]()
        for name, program in self._objects.programs.items():
            stage = name.removeprefix("vtap_").partition("_")[0].rstrip("46")
            found[stage] += kernel.missed_runs(program)
        return found

    def _follow(self) -> None:
        """See whether somebody has set a clock."""
        tai, ahead = tai_offset(), clock_ahead()
        if tai != self._tai or abs(ahead - self._ahead) >= LONG // 2:
            self._tai, self._ahead = tai, ahead
            self._clock.follow()
            self._since = self._clock.now() + self._clock.offset
            self._write_control()

    def _in_tai(self, moment: int) -> int:
        return max(0, moment + self._clock.offset + self._tai)

    def _write_control(self) -> None:
        control = {
            "tai_offset": self._tai,
            "ahead": self._ahead % (1 << 64),
            "since": self._since,
            "begin": self._begin,
            "end": self._end,
            "slot": self._slot,
        }
        kernel.write_element(self._maps["controls"], 0, CONTROL.pack(control))

    def _take(self, moment: int) -> Iterator[Batch]:
        """What the slot has that has gathered until now; the interval ends at MOMENT."""
        old, self._slot = self._slot, 1 - self._slot
        self._clock.follow()
        self._follow()
        self._write_control()
        kernel.wait_for_programs()
        first = old * self._cells
        data = bytearray()
        schema = None
        for cell in range(self._cells):
            if record := self._record(cell, first + cell, moment):
                schema = schema or self._schema()
                data += record
        if data and schema:
            yield Batch(schema, data, "latency")

    def _schema(self) -> Schema:
        names = {0: OTHER} | {i.index: i.name for i in self._settings.interfaces}
        return schema_of(self._settings.latency_by, names, self._values.names())

    def _record(self, cell: int, at: int, moment: int) -> bytes:
        """Of a CELL, which lies AT; it is empty then. Nothing, if it has been empty."""
        words = array("Q", kernel.read_element(self._maps["cells"], at, CELL.size * self._cpus))
        width = CELL.size // 8
        most = max(words[0::width])
        if not most:
            return b""
        kernel.write_element(self._maps["cells"], at, self._zeros)
        extremes = LONGEST - max(words[1::width]), most - 1
        total, *buckets = (sum(words[place::width]) for place in range(2, width))
        number, by = divmod(cell, numbers(self._settings))
        number, protocol = divmod(number, len(PROTOCOLS))
        stage, place = divmod(number, places(self._settings))
        name = self._settings.latency_stages[stage]
        packets = sum(buckets)
        self._handed[name].update(records=1, packets=packets)
        values: dict[str, int | bytes] = {
            "interface": self._interfaces[place] if place < len(self._interfaces) else 0,
            "stage": STAGES.index(name),
            "protocol": protocol,
            "by": by,
            "time": self._grid.wall(moment),
            "packets": packets,
            "sum": total,
            "min": extremes[0],
            "max": extremes[1],
            **HISTOGRAM.percentiles(PERCENTILES, buckets, *extremes),
            "buckets": array("Q", buckets).tobytes(),
        }
        return RECORD.pack(values)
