# SPDX-License-Identifier: Apache-2.0
"""The situation: which interfaces are measured, which have gone, which have come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.clock import NEVER, NS
from trapstream_vtap.engine import events
from trapstream_vtap.interfaces import choose, interfaces, is_pattern
from trapstream_vtap.links import Links

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.clock import Clock
    from trapstream_vtap.settings.core import Core
    from trapstream_vtap.settings.settings import Settings

_SETTLE_NS = NS // 2  # from a change of an interface till all are looked at
_RETRY_NS = 2 * NS


class Situation:
    """Follows the interfaces of this namespace.

    Args:
        core: Of the run.
        clock: What time it is.
        report: Takes what happens.
    """

    def __init__(self, core: Core, clock: Clock, report: Callable[[events.Event], None]) -> None:
        self._core = core
        self._clock = clock
        self._report = report
        self._links = Links()
        self._gone: set[str] = set()
        self._look_at = NEVER  # not before they have settled
        self._refused = ""  # why an interface that has come is not measured

    def begin(self, settings: Settings) -> None:
        """What is measured first; say which are not there, and which are: it may be a slip."""
        self._core = core = settings.core
        there, gone = choose(core.selected)  # whether or not anything is attached to them
        present = tuple(sorted(interfaces()))
        for name in gone:
            self._report(events.InterfaceMissing(name, present))
        self._gone.update(core.gone)
        some = any(map(is_pattern, core.selected))
        if not there and (some or (settings.at_interfaces and not core.selected)):
            self._report(events.NothingFits(core.selected, present))

    def fileno(self) -> int:
        """Becomes readable when an interface has changed."""
        return self._links.fileno()

    def due(self) -> int:
        """The moment at which interfaces are to be looked at."""
        return self._look_at

    def gone(self) -> list[str]:
        """Names of those measured that have gone; all are looked at in a moment."""
        if self._look_at == NEVER:
            self._look_at = self._clock.now() + _SETTLE_NS
        measured = {index: name for name, index in self._measured()}
        return [measured[index] for index in self._links.gone(measured)]

    def is_to_look(self) -> bool:
        """Whether it is time to look at them; asked once."""
        if self._clock.now() < self._look_at:
            return False
        self._look_at = NEVER
        return True

    def look(self) -> tuple[list[str], bool]:
        """Names of those measured that are not there, and whether others are to be measured.

        Fewer, too: an alternative name may have been given or taken away.
        """
        measured = self._measured()
        there = {(i.name, i.index) for i in interfaces().values()}
        wanted, _ = choose(self._core.selected, self._core.names)
        others = measured & there != {(i.name, i.index) for i in wanted}
        return [name for name, _ in measured - there], others

    def note_gone(self, names: Sequence[str]) -> None:
        """Those of NAMES are not measured any more."""
        for name in names:
            if name not in self._gone:
                self._report(events.InterfaceGone(name))
        self._gone.update(names)

    def renewed(self, core: Core) -> set[str]:
        """Names of those that have gone, and are there again by new settings."""
        return {interface.name for interface in core.interfaces} & self._gone

    def joined(self, core: Core) -> set[str]:
        """Names of those that are measured by new settings, and were not."""
        return {i.name for i in core.interfaces} - {name for name, _ in self._measured()}

    def use(self, core: Core) -> None:
        """They are in force from now on."""
        measured = {name for name, _ in self._measured()}
        chosen = {interface.name for interface in core.interfaces}
        self._core = core
        self._refused = ""
        self._gone &= set(core.gone)
        self.note_gone(core.gone)
        for name in sorted(measured - chosen - self._gone):
            self._report(events.InterfaceLeft(name))
        self._look_at = min(self._look_at, self._clock.now() + _SETTLE_NS)

    def refused(self, why: str, *, was_read: bool) -> None:
        """New programs could not take over, and WHY; for interfaces alone it is tried again."""
        if was_read:
            self._report(events.ReloadRefused(why))
            return
        self._look_at = min(self._look_at, self._clock.now() + _RETRY_NS)
        if why != self._refused:
            self._report(events.InterfaceRefused(why))
        self._refused = why

    def close(self) -> None:
        """Follow them no more."""
        self._links.close()

    def _measured(self) -> set[tuple[str, int]]:
        """Names and indices of interfaces that are measured, as far as is known."""
        return {(i.name, i.index) for i in self._core.interfaces if i.name not in self._gone}
