# SPDX-License-Identifier: Apache-2.0
"""The structures that the latency program and user space share, and the bounds of its buckets."""

from __future__ import annotations

from trapstream_vtap.bpf.histogram import Histogram
from trapstream_vtap.schema import Column, Layout

HISTOGRAM = Histogram(8, 34)

PROTOCOLS = ("tcp", "udp")

FATES = ("measured", "unstamped", "delivery", "blocked", "negative", "other")
"""What becomes of a packet that a hook sees."""

CONTROL = Layout(
    "latency_control",
    (
        Column("tai_offset", "u64", "CLOCK_TAI - CLOCK_REALTIME, ns"),
        Column("ahead", "u64", "CLOCK_TAI - CLOCK_MONOTONIC, ns"),
        Column("since", "u64", "when it was seen that a clock had been set, CLOCK_REALTIME, ns"),
        Column("begin", "u64", "from when on packets are measured, CLOCK_TAI, ns"),
        Column("end", "u64", "until when"),
        Column("slot", "u64", "which of the two slots gathers: 0 or 1"),
    ),
)
STATE = Layout(
    "latency_state",
    (
        *(Column(name, "u64") for name in FATES),
        Column("interface", "u32", "of the last packet that was asked for"),
        Column("place", "u32", "its number, or PLACES"),
        Column("net", "u64", "address of our network namespace, once it has been met"),
        Column("netns", "u64", "inode of the last packet's network namespace"),
        Column("by", "u64", "the last value of `--latency-by` that was looked up"),
        Column("number", "u64", "its number; 0: it has none of its own"),
    ),
)
SOCKET = Layout(
    "latency_socket",
    (
        Column("socket", "u64", "its address"),
        Column("ports", "u32", "of both ends"),
        Column("stage", "u32", "where it is seen"),
    ),
)
HOLE = Layout(
    "latency_hole",
    (
        Column("packets", "u32", "how many segments the socket has got out of order so far"),
        Column("next", "u32", "the number that it waited for when it was last seen"),
        Column("from", "u32", "from this number to"),
        Column("until", "u32", "this one segments may have waited for others"),
    ),
)
HOLES = 4096
"""TCP sockets with segments out of order that are told apart, at each stage."""

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
        Column("buckets", f"u64[{HISTOGRAM.buckets}]"),
    ),
)
LONGEST = 1 << 62
LONG = 1_000_000_000
"""Latencies from so many ns on are doubted if a clock has been set."""
