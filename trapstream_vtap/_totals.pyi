# SPDX-License-Identifier: Apache-2.0
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Counts: TypeAlias = tuple[int, ...]
FlowCounts: TypeAlias = tuple[int | None, ...]
Gaps: TypeAlias = tuple[float, float] | None
Protocols: TypeAlias = dict[tuple[int, int, int], tuple[Counts, int, Gaps, float | None]]
Scrape: TypeAlias = tuple[
    Protocols,
    dict[bytes, tuple[FlowCounts, Gaps, float | None]],
    Counts,
    Counts,
]

class Totals:
    def __init__(self, top: int, limit: int) -> None: ...
    def use(
        self,
        numbers: Mapping[int, int],
        *,
        same: bool,
        record_size: int,
        key_size: int,
        interface_at: int,
        direction_at: int,
        protocol_at: int,
        by_protocol: bool,
        time_at: int,
        counts_at: Sequence[int],
        first_rare: int,
        gaps_at: Sequence[int],
        coarse_shift: int,
        loss_at: Sequence[int] | None,
        longest: int,
    ) -> None: ...
    def add(self, batch: bytes | bytearray) -> None: ...
    def end_interval(self, now: int) -> None: ...
    def scrape(self) -> Scrape: ...
