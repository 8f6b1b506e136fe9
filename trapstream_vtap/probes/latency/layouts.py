# SPDX-License-Identifier: Apache-2.0
"""The structures that the latency program and user space share, and the bounds of its buckets."""

from __future__ import annotations

import math

from trapstream_vtap.schema import Column, Layout

STEPS = 4
"""Buckets in a doubling."""

LEAST_SHIFT, MOST_SHIFT = 8, 34
BOUNDS = tuple(2 ** (k / STEPS) for k in range(STEPS * LEAST_SHIFT, STEPS * MOST_SHIFT + 1))
"""Upper bounds of the buckets, ns, from 256 ns to 17 s; one more has all that is longer."""

BUCKETS = len(BOUNDS) + 1
ERROR = (2 ** (1 / STEPS) - 1) / (2 ** (1 / STEPS) + 1)
"""By so much of itself a percentile is off at most: half a bucket, either way."""

QUARTERS = tuple(math.isqrt(math.isqrt(2 ** (4 * 62 + k))) for k in range(1, STEPS))
"""2 to the power of 62 + k/4, rounded down: the bounds within an octave."""

HISTOGRAM = {
    "LEAST_SHIFT": LEAST_SHIFT,
    "MOST_SHIFT": MOST_SHIFT,
    "BUCKETS": BUCKETS,
    **{f"QUARTER{n}": bound for n, bound in enumerate(QUARTERS, 1)},
}
"""What bpf/lib/histogram.h needs."""

PROTOCOLS = ("tcp", "udp")

FATES = ("measured", "unstamped", "delivery", "negative", "other")
"""What becomes of a packet that a hook sees."""

CONTROL = Layout(
    "latency_control",
    (
        Column("tai_offset", "u64", "CLOCK_TAI - CLOCK_REALTIME, ns"),
        Column("begin", "u64", "from when on packets are measured, CLOCK_TAI, ns"),
        Column("end", "u64", "until when"),
        Column("slot", "u64", "which of the two slots gathers: 0 or 1"),
    ),
)
FATE_COUNTS = Layout("latency_fates", tuple(Column(name, "u64") for name in FATES))
PLACE = Layout(
    "latency_place",
    (Column("interface", "u32", "its index; 0: none"), Column("number", "u32", "of its cells")),
)
CELL = Layout(
    "latency_cell",
    (
        Column("most", "u64", "the longest latency, ns, plus 1; 0: none was measured"),
        Column("least", "u64", "2^62 less the shortest"),
        Column("sum", "u64", "of all, ns"),
        Column("buckets", f"u64[{BUCKETS}]"),
    ),
)
LONGEST = 1 << 62
