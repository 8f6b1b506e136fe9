# SPDX-License-Identifier: Apache-2.0
"""Histograms of times with four buckets in a doubling, as bpf/lib/histogram.h fills them."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEPS = 4
"""Buckets in a doubling."""

ERROR = (2 ** (1 / STEPS) - 1) / (2 ** (1 / STEPS) + 1)
"""By so much of itself a percentile is off at most: half a bucket, either way."""

_QUARTERS = tuple(math.isqrt(math.isqrt(2 ** (4 * 62 + k))) for k in range(1, STEPS))
"""2 to the power of 62 + k/4, rounded down: the bounds within an octave."""


@dataclass(frozen=True)
class Histogram:
    """Bounds from 2^LEAST to 2^MOST ns; one bucket more has all that is longer."""

    least: int
    most: int

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds of the buckets, ns, each inclusive; the last bucket has none."""
        places = range(STEPS * self.least, STEPS * self.most + 1)
        return tuple(2 ** (place / STEPS) for place in places)

    @property
    def buckets(self) -> int:
        """How many there are."""
        return len(self.bounds) + 1

    @property
    def constants(self) -> dict[str, int]:
        """What bpf/lib/histogram.h needs."""
        quarters = {f"QUARTER{n}": bound for n, bound in enumerate(_QUARTERS, 1)}
        return {
            "LEAST_SHIFT": self.least,
            "MOST_SHIFT": self.most,
            "BUCKETS": self.buckets,
            **quarters,
        }

    def percentiles(
        self, shares: Mapping[str, float], buckets: Sequence[int], least: int, most: int
    ) -> dict[str, int]:
        """The times, ns, that a share of them did not exceed, by name.

        The nearest rank; in its bucket the value that is off by the same share of either bound, but
        never outside of what there was.

        Args:
            shares: By name.
            buckets: How many are in each.
            least: The shortest time, ns.
            most: The longest.
        """
        upto = [*itertools.accumulate(buckets)]
        found = {}
        for name, share in shares.items():
            place = bisect_left(upto, max(1, math.ceil(round(share * upto[-1], 6))))
            low = self.bounds[place - 1] if place else least
            high = self.bounds[place] if place < len(self.bounds) else most
            middle = 2 * low * high / (low + high) if low + high else 0
            found[name] = min(max(round(middle), least), most)
        return found
