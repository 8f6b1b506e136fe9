# SPDX-License-Identifier: Apache-2.0
"""A room for one probe that runs: its batches go on from here, and its counts go on for ever.

One program takes over from another when the configuration is read again, and when an interface is
there again, with another index: the counts go on by the name of their row.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trapstream_vtap.account import Rows
    from trapstream_vtap.probes.interface import Probe, Running
    from trapstream_vtap.schema import Batch
    from trapstream_vtap.settings.core import Core

_MOST_DEPARTED = 1000
"""So many names of rows that nobody wants any more are remembered, should they come back."""


class Room:
    """What runs of a probe, and what ran before.

    Args:
        probe: The declaration.
        publish: Takes what is handed over.
        follow: Told what measures from now on, and from which settings it was made.
    """

    def __init__(
        self,
        probe: Probe,
        publish: Callable[[Batch], None],
        follow: Callable[[Probe, Running, Core], None],
    ) -> None:
        self.probe = probe
        self._publish = publish
        self._follow = follow
        self.running: Running
        self.settings: Core
        self._runs = False
        self._before: dict[str, Counter[str]] = {}  # by earlier programs
        self._forgotten = Counter[str]()
        self._shown: set[str] = set()
        self._doubted = False

    @property
    def is_guest(self) -> bool:
        """Whether another one's program measures for it."""
        return self.probe.name in self.settings.guests

    def begin(self, running: Running, settings: Core) -> None:
        """RUNNING measures from now on, made from SETTINGS; what ran before has been flushed."""
        if self._runs:
            self._keep(self.running)
        self.running, self.settings, self._runs = running, settings, True
        for name in running.counts():
            self._before.setdefault(name, Counter())
            self._shown.add(name)
        self._follow(self.probe, running, settings)

    def close(self) -> None:
        """Give back what runs, if anything does."""
        if self._runs:
            self.running.close()

    def step(self) -> None:
        """One step of what is due."""
        self._take(self.running.attend())

    def flush(self, moment: int | None = None) -> None:
        """Take all that is left; what runs counts no more since MOMENT, or by now."""
        self._take(self.running.flush(moment))

    def absorb(self, other: Running, settings: Core) -> None:
        """Take all that OTHER has counted, which was in force for a moment, beside what runs."""
        self._follow(self.probe, other, settings)
        self._take(other.flush())
        self._keep(other)
        self._follow(self.probe, self.running, self.settings)

    def _take(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._publish(batch)

    def _keep(self, ended: Running) -> None:
        for name, counts in ended.counts().items():
            self._before.setdefault(name, Counter()).update(counts)

    def has_met(self, name: str) -> bool:
        """Whether an earlier program counted in the row of that NAME."""
        return bool(self._before.get(name))

    def account(self) -> tuple[Rows, dict[str, Counter[str]], Counter[str]]:
        """Its rows, with their counts by name; and of all that there ever were together."""
        everything = self._all()
        self._shown |= self.running.counts().keys()
        counts = {name: row for name, row in everything.items() if name in self._shown}
        return self.probe.rows(self.settings), counts, self._sum(everything)

    def totals(self) -> Counter[str]:
        """The counts of all rows that there ever were together."""
        return self._sum(self._all())

    def _sum(self, rows: dict[str, Counter[str]]) -> Counter[str]:
        found = Counter(self._forgotten)
        for row in rows.values():
            found.update(row)
        return found

    def failed(self) -> bool:
        """Whether a count says that the run has failed."""
        totals = self.totals()
        rows = self.probe.rows(self.settings)
        return any(totals[count.name] for count in rows.counts if count.fails)

    def doubt(self, totals: Counter[str]) -> str | None:
        """What is odd about TOTALS; once."""
        doubt = None if self._doubted else self.probe.doubt(self.settings, totals)
        self._doubted |= bool(doubt)
        return doubt

    def let_go(self) -> None:
        """An interval has ended: of rows that nobody wants any more all has been said."""
        self._shown = set(self.running.counts())
        departed = [name for name in self._before if name not in self._shown]
        for name in departed[: max(0, len(departed) - _MOST_DEPARTED)]:
            self._forgotten.update(self._before.pop(name))

    def _all(self) -> dict[str, Counter[str]]:
        found = {name: Counter(counts) for name, counts in self._before.items()}
        for name, counts in self.running.counts().items():
            found.setdefault(name, Counter()).update(counts)
        return found
