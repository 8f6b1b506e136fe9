# SPDX-License-Identifier: Apache-2.0
"""The bus: whatever a probe hands over goes to all who have subscribed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.schema import Batch


class Bus:
    """Subscribers are called in the engine's thread, one after the other."""

    def __init__(self) -> None:
        self._subscribers: tuple[Callable[[Batch], None], ...] = ()

    def subscribe(self, take: Callable[[Batch], None]) -> None:
        """From now on, TAKE every batch; from any thread."""
        self._subscribers = (*self._subscribers, take)

    def publish(self, batch: Batch) -> None:
        """Hand BATCH to everybody."""
        for take in self._subscribers:
            take(batch)
