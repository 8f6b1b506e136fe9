# SPDX-License-Identifier: Apache-2.0
"""The flow program attached by this process, as the keeper does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from lab.loading import load
from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Holder
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.program import places, source
from trapstream_vtap.probes.flows.table import FlowTable

if TYPE_CHECKING:
    from trapstream_vtap.probes.flows.settings import FlowSettings


class Attached:
    """Loaded from SETTINGS; attached from `attach` or `take_over` to `detach`."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._objects = load(source(settings))
        self._table = FlowTable(settings, self._objects, SystemClock())
        self._holder = Holder()
        self.notes: list[str] = []

    def attach(self) -> Self:
        """Everywhere."""
        self.notes += self._holder.put(places(self._settings), self._objects.programs)
        return self

    def take_over(self, old: Self) -> None:
        """In the place of OLD."""
        self._holder = old._holder
        self._table.begin()
        self.notes += self._holder.put(places(self._settings), self._objects.programs)
        kernel.wait_for_programs()

    def detach(self) -> None:
        """From everywhere."""
        self._holder.detach()
        kernel.wait_for_programs()

    def counters(self) -> dict[int, dict[str, int]]:
        """Of the program, by interface index."""
        return self._table.counters()

    def close(self) -> None:
        """Give it back to the kernel."""
        self._table.close()
