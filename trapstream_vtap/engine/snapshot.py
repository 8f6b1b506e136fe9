# SPDX-License-Identifier: Apache-2.0
"""How a run stands: its accounts as of the latest interval's end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Snapshot:
    """An account of everything; counters run since the start.

    Args:
        measuring: Whether the run is on.
        time: When it was taken, ns since the epoch; 0: not yet.
        device: What the tag says.
        probes: By probe, by row (of flows: the interface), by count.
        sinks: By sink, by count.
    """

    measuring: bool = False
    time: int = 0
    device: str = ""
    probes: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    sinks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
