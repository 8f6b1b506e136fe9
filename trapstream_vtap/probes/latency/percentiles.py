# SPDX-License-Identifier: Apache-2.0
"""Percentiles out of a histogram."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from trapstream_vtap.probes.latency.layouts import BOUNDS
from trapstream_vtap.probes.latency.records import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentiles(buckets: Sequence[int], least: int, most: int) -> dict[str, int]:
    """The latencies, ns, that a share of the packets did not exceed, by name.

    The nearest rank; in its bucket the value that is off by the same share of either bound, but
    never outside of what there was.

    Args:
        buckets: Packets in each bucket of `BOUNDS`, and those behind.
        least: The shortest latency, ns.
        most: The longest.
    """
    upto = [*itertools.accumulate(buckets)]
    found = {}
    for name, share in PERCENTILES.items():
        rank = max(1, math.ceil(round(share * upto[-1], 6)))
        place = next(place for place, count in enumerate(upto) if count >= rank)
        low = BOUNDS[place - 1] if place else least
        high = BOUNDS[place] if place < len(BOUNDS) else most
        middle = 2 * low * high / (low + high) if low + high else 0
        found[name] = min(max(round(middle), least), most)
    return found
