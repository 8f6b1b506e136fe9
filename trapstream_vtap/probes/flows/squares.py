# SPDX-License-Identifier: Apache-2.0
"""How squares of inter-arrival times are summed, so that jitter is exact and no sum overflows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapstream_vtap.probes.flows.settings import FlowSettings


def square_limits(interval: int, stop_gap: int) -> tuple[int, int]:
    """How squares of inter-arrival times are summed without overflow: limit (ns) and shift (bits).

    Times below the limit are squared exactly; the others are cut by the shift first. The times of
    an interval add up to its length and the gap before it at most, so that the sum of their squares
    is at most that times the longest of them. There is room for four intervals.
    """
    span = 4 * (interval + stop_gap)
    limit = 1 << ((1 << 64) // span).bit_length() - 1
    shift = 0
    while (stop_gap >> shift) * (span >> shift) >> 64:
        shift += 1
    return limit, shift


def limits(settings: FlowSettings) -> tuple[int, int]:
    """`square_limits` of the interval in which SETTINGS have jitter measured."""
    return square_limits(settings.jitter_interval or settings.interval, settings.stop_gap)
