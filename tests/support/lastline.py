# SPDX-License-Identifier: Apache-2.0
"""What the command says of a run when it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MEASURED = r"(?P<packets>\d+) packets? of (?P<flows>\d+) flows? measured(?P<losses>[^;]*)"
_DELIVERED = (
    r"(?P<records>\d+) records? sent \((?P<delivered>\d+) packets?\), "
    r"(?P<lost>\d+) records? lost(: (?P<why>[^;]*?))?"
    r"(, (?P<spooled>\d+) records? spooled \(\d+ packets?\))?"
    r"( \((?P<sink>\S+)\))?"
)
_LINE = re.compile(rf"(?:vtap-stream: )?(?:{_MEASURED}; )?{_DELIVERED}")


@dataclass(frozen=True)
class LastLine:
    """One sentence: packets measured, if it says so, and records delivered to one sink.

    Args:
        packets: Measured; -1 if another sentence says it.
        flows: Likewise.
        records: Delivered.
        delivered: Packets in them.
        lost: Records that were not.
        why: They were not, as it is said.
        sink: Where to, if it is said.
    """

    packets: int
    flows: int
    records: int
    delivered: int
    lost: int
    why: str
    sink: str


def read(said: str) -> LastLine:
    """The last of the lines SAID that speaks of delivery.

    Raises:
        AssertionError: None does.
    """
    found = [_LINE.fullmatch(line) for line in said.splitlines()]
    matches = [match for match in found if match]
    assert matches, said
    return _of(matches[-1])


def _of(match: re.Match[str]) -> LastLine:
    return LastLine(
        int(match["packets"] or -1),
        int(match["flows"] or -1),
        int(match["records"]),
        int(match["delivered"]),
        int(match["lost"]),
        match["why"] or "",
        match["sink"] or "",
    )
