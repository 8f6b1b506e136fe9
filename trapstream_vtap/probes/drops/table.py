# SPDX-License-Identifier: Apache-2.0
"""What the program for drops or traps has: events, tables of aggregates, counts by cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap._native import Ring
from trapstream_vtap.bpf import kernel
from trapstream_vtap.probes.drops.layouts import DROP_CAUSE, DROP_CONTROL, DROP_EVENT, RECORD_KINDS
from trapstream_vtap.probes.drops.program import PROGRAM, keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.probes.drops.settings import DropSettings

_MOST_AT_ONCE = 4096


@dataclass(frozen=True)
class Counts:
    """What became of the packets that the kernel reported.

    Args:
        by_cause: By the cause's key, and within by `DROP_COUNTS`.
        missed: Reports that came while the program was running on the same CPU.
        strays: Reports of so many causes that there was no room to count them apart.
    """

    by_cause: dict[bytes, Counter[str]]
    missed: int = 0
    strays: int = 0

    def total(self) -> Counter[str]:
        """All causes together, and what has none; by `DROP_COUNTS`, and what was missed."""
        total = sum(self.by_cause.values(), Counter[str]())
        total["missed"] = self.missed + self.strays
        total["seen"] += total["missed"]
        return total


class DropTable:
    """What the loaded program has gathered of what is dropped or trapped.

    Args:
        settings: Of what, and how.
        kind: A key of `TRACEPOINTS`.
        objects: What has been loaded.
        clock: By which records have their time.
    """

    def __init__(self, settings: DropSettings, kind: str, objects: Objects, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._objects = objects
        self._maps = objects.maps
        self._cpus = kernel.possible_cpus()
        self._events = Ring(self._maps["events"], DROP_EVENT.size)
        self._wakeups = Ring(self._maps["wakeups"], 8)
        self._table = 0
        self._suppressed: dict[bytes, tuple[int, int]] = {}  # told of so far: packets, bytes
        self._key, self._cause_key = keys(kind)
        self._write_control()

    def events_fileno(self) -> int:
        """Becomes readable when there are events."""
        return self._events.fileno()

    def pressure_fileno(self) -> int:
        """Becomes readable when the table of aggregates is nearly full."""
        return self._wakeups.fileno()

    def calm(self) -> None:
        """The table's call has been heard."""
        while self._wakeups.read(1):  # only what finds it empty calls again
            pass

    def read(self, most: int) -> bytearray:
        """Up to MOST events, one packet each."""
        return self._events.read(most)

    def aggregates(self) -> Iterator[bytearray]:
        """What has been counted together since the last call: records of several packets.

        Two tables take turns. When every run of the program that may have chosen the old one is
        over, nobody writes to it any more.
        """
        old, self._table = self._table, 1 - self._table
        self._clock.follow()
        self._write_control()
        kernel.wait_for_programs()
        taken = kernel.take_elements(
            self._maps[f"aggregates{old}"],
            self._key.size,
            DROP_EVENT.size,
            min(self._settings.drop_table_size, _MOST_AT_ONCE),
        )
        for _, values in taken:
            yield values

    def suppressed(self) -> bytearray:
        """A record for each cause of which packets have only been counted since the last call."""
        batch = bytearray()
        now = self._clock.now() + self._clock.offset
        for key, counts in self.counts().by_cause.items():
            before = self._suppressed.get(key, (0, 0))
            packets, octets = counts["suppressed"], counts["suppressed_bytes"]
            if packets != before[0]:
                (cause,) = self._cause_key.unpack(key)
                batch += DROP_EVENT.pack(
                    {
                        **cause,
                        "time": now,
                        "packets": packets - before[0],
                        "bytes": octets - before[1],
                        "kind": RECORD_KINDS.index("suppressed"),
                    }
                )
                self._suppressed[key] = packets, octets
        return batch

    def counts(self) -> Counts:
        """What the program has counted since the start."""
        size = DROP_CAUSE.size * self._cpus
        found = {}
        for key, value in kernel.elements(self._maps["causes"], self._cause_key.size, size):
            counts = Counter[str]()
            for row in DROP_CAUSE.unpack(value):
                counts.update(row)
            found[key] = counts
        strays = kernel.read_element(self._maps["strays"], 0, 8 * self._cpus)
        return Counts(
            found,
            kernel.missed_runs(self._objects.programs[PROGRAM]),
            sum(memoryview(strays).cast("Q")),
        )

    def close(self) -> None:
        """Give program and maps back."""
        del self._events, self._wakeups
        self._objects.close()

    def _write_control(self) -> None:
        values = {"clock_offset": self._clock.offset, "table": self._table}
        kernel.write_element(self._maps["controls"], 0, DROP_CONTROL.pack(values))
