# SPDX-License-Identifier: Apache-2.0
"""What probes share that take what has gathered at each grid line, by receive timestamps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from trapstream_vtap.clock import NS, Grid, receive_timestamps, tai_offset

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.schema import Batch

_LOOK_NS = NS
"""So often it is looked whether CLOCK_TAI has another distance from CLOCK_REALTIME."""


class Turns(ABC):
    """Slots gather in turns; who is one of these says how one is taken, and follows the clocks.

    Args:
        objects: What has been loaded.
        clock: By which intervals end.
        interval: Their length, ns.
    """

    def __init__(self, objects: Objects, clock: Clock, interval: int) -> None:
        self._objects = objects
        self._maps = objects.maps
        self._clock = clock
        self._slot = 0
        self._tai = tai_offset()
        self._grid = Grid(clock, interval)
        self._line, self._closed = self._grid.next_line(), clock.now()
        self._look_at = clock.now() + _LOOK_NS
        self._stamping: socket.socket | None = None
        self.notes: list[str] = []

    def descriptors(self) -> tuple[int, ...]:
        """None: nothing wakes it but the time."""
        return ()

    def woken(self, ready: Collection[int]) -> None:  # noqa: B027 - nothing is to be done
        """Never."""

    def due(self) -> int:
        """The grid line, or the next look at the clocks."""
        return min(self._line, self._look_at)

    def attend(self) -> Iterator[Batch]:
        """What the grid line brings."""
        now = self._clock.now()
        if now >= self._look_at:
            self._look_at = now + _LOOK_NS
            self._follow()
        if now >= self._line:
            yield from self._take(self._line)
            self._closed, self._line = self._line, self._grid.next_line()

    def closed(self) -> int:
        """The last grid line."""
        return self._closed

    def close(self) -> None:
        """Give programs and maps back, and have packets stamped no longer."""
        if self._stamping:
            self._stamping.close()
            self._stamping = None
        self._objects.close()

    def _stamp(self) -> None:
        """Have packets stamped from now on."""
        self._stamping = receive_timestamps()

    @abstractmethod
    def _follow(self) -> None:
        """See whether somebody has set a clock."""

    @abstractmethod
    def _take(self, moment: int) -> Iterator[Batch]:
        """What the slot has that has gathered until now; the interval ends at MOMENT."""
