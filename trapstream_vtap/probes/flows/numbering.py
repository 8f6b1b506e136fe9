# SPDX-License-Identifier: Apache-2.0
"""What the sequence numbers of a run say, for a person to read; whether they are numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trapstream_vtap.probes.flows.settings import FlowSettings

_ENOUGH = 20
"""Packets by which to judge whether the numbers are where the user says they are."""


def found(totals: Mapping[str, int], settings: FlowSettings) -> Iterator[str]:
    """What is missing, late and twice, by TOTALS of `SEQUENCE_COUNTS`."""
    # a flow that was evicted and comes back begins anew, and what it missed between is not known
    least = "at least " if totals["evicted_packets"] else ""
    if _odd(totals, settings):
        yield "loss by number not known"
    elif totals["numbers_read"]:
        missing, twice = totals["numbers_missing"], totals["numbers_twice"]
        anew = totals["numbers_read"] - twice - totals["numbers_earlier"]
        loss = _percent(missing, anew + missing)
        yield f"{least}{amount(missing, 'number')} missing ({loss})"
        yield f"{totals['numbers_late']} late"
        yield f"{twice} twice"
    if totals["stream_read"]:
        missing = totals["stream_missing"]
        loss = _percent(missing, totals["stream_read"] - totals["stream_again"] + missing)
        yield f"{least}{amount(missing, 'byte')} of TCP missing ({loss})"
        yield f"{amount(totals['stream_late'], 'segment')} late"
        yield f"{totals['stream_twice']} sent again"


def _percent(missing: int, expected: int) -> str:
    share = 100 * missing / expected if expected > 0 else 0.0
    return f"loss {share:.3g} %"


def doubt(totals: Mapping[str, int], settings: FlowSettings) -> str | None:
    """A sentence if what is read at `--sequence-offset` looks like no sequence number."""
    odd = _odd(totals, settings)
    return odd and f"{odd} right? (docs/recipes.md: where each generator has its number)"


def _odd(totals: Mapping[str, int], settings: FlowSettings) -> str | None:
    read, without = totals["numbers_read"], totals["numberless"]
    if settings.offset is None or read + without < _ENOUGH:
        return None
    if not read and settings.pattern is not None:
        return f"the pattern was in none of {without} packets: is --sequence-pattern"
    if not read:
        return f"none of {without} packets was long enough: is --sequence-offset"
    if 2 * totals["numbers_repeated"] > read:
        return (
            f"{totals['numbers_repeated']} of {read} numbers equal the one before: are "
            "--sequence-offset and --sequence-bits"
        )
    if 2 * totals["numbers_far"] > read:
        return (
            f"{totals['numbers_far']} of {read} numbers are far from the one before: are "
            "--sequence-offset, --sequence-bits and --sequence-order"
        )
    return None
