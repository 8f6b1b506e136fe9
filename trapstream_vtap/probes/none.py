# SPDX-License-Identifier: Apache-2.0
"""In place of the flow probe, where no flows are wanted: the clock and the grid of intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.probes.flow import FlowProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap._native import Tallies
    from trapstream_vtap.config import Settings
    from trapstream_vtap.probes.flow import Holds


class NoFlows(FlowProbe):
    """Measures nothing.

    Args:
        settings: Of the run.
        holder: What has attached the other probes' programs.
    """

    def __init__(self, settings: Settings, holder: Holds | None = None) -> None:
        super().__init__(settings, holder)
        self.schema = self.event_schema = None

    def attach(self) -> None:
        """There is nothing to attach."""

    def detach(self) -> None:
        """Detach the other probes' programs."""
        self._holder.detach()
        kernel.wait_for_programs()

    def descriptors(self) -> tuple[int, ...]:
        """Nothing ever happens."""
        return ()

    def fileno(self) -> int:
        """Not a descriptor."""
        return -1

    def events_fileno(self) -> int | None:
        """There are no events."""
        return None

    def read(self, most: int) -> bytearray:  # noqa: ARG002
        """There are no records."""
        return bytearray()

    def read_events(self, most: int) -> bytearray:  # noqa: ARG002
        """There are no events."""
        return bytearray()

    def sweep(self, *, force: bool = False, now: int | None = None) -> Iterator[None]:  # noqa: ARG002
        """There is no table."""
        yield from ()

    def held(self) -> Tallies:
        """There is no table."""
        return {}

    def gaps(self) -> dict[tuple[int, int, str], list[int]]:
        """There are no flows."""
        return {}

    def counters(self) -> dict[int, dict[str, int]]:
        """There are no interfaces."""
        return {}

    def _write_control(self) -> None:
        """There is nobody to tell the clock's offset."""
