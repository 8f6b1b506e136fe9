# SPDX-License-Identifier: Apache-2.0
"""The structures that the round-trip time program and user space share."""

from __future__ import annotations

from trapstream_vtap.bpf.histogram import Histogram
from trapstream_vtap.schema import Column, Layout

KINDS = ("tcp", "icmp", "dns", "quic", "other")
"""What leads to an answer; others are seen, and not followed."""

SIDES = ("remote", "local")
HISTOGRAM = Histogram(8, 34)
LONGEST = 1 << 62
STREAMS = 4
"""Of a pair: either way, as it is seen arriving, and as it is seen leaving."""

CONTROL = Layout(
    "rtt_control",
    (
        Column("tai_offset", "u64", "CLOCK_TAI - CLOCK_REALTIME, ns"),
        Column("slot", "u64", "which of the two tables of records gathers: 0 or 1"),
    ),
)
COUNTED = ("seen_packets", "no_room", "probes_set", "samples", "invalidated", "stretched")
COUNTS = Layout(
    "rtt_counts",
    tuple(Column(name, "u64") for name in (*COUNTED, "samples_lost", "samples_handed")),
)
"""What the program counts of each kind, on each CPU."""

PLACE = Layout(
    "rtt_place",
    (Column("interface", "u32", "its index"), Column("number", "u32", "of its histograms")),
)
PAIR_KEY = Layout(
    "rtt_pair_key",
    (
        Column("one", "u64[2]", "the lower of both addresses; of two ports, if these are the same"),
        Column("other", "u64[2]"),
        Column("ports", "u32", "of the first in the upper half"),
        Column("interface", "u32"),
        Column("vlan", "u32"),
        Column("kind", "u32"),
    ),
)
STREAM = Layout(
    "rtt_stream",
    (
        Column("highest", "u64", "number behind all that was seen, and RTT_SEEN; 0: nothing was"),
        Column("probe", "u64", "what waits for its answer; 0: nothing does"),
        Column("set", "u64", "since when, CLOCK_MONOTONIC, ns"),
        Column("last", "u64", "the latest round-trip time, ns; 0: none yet"),
    ),
)
PAIR = Layout("rtt_pair", (Column("stream", f"struct rtt_stream[{STREAMS}]", "", STREAM),))
"""Two ends that talk to one another."""

ASK_KEY = Layout(
    "rtt_ask_key",
    (
        Column("asker", "u64[2]"),
        Column("asked", "u64[2]"),
        Column("ports", "u32"),
        Column("number", "u32"),
        Column("interface", "u32"),
        Column("vlan", "u32"),
        Column("kind", "u32"),
        Column("left", "u32", "1: the question was seen leaving"),
    ),
)
"""A question; its value is the moment at which it came by; odd: it was asked more than once."""

KEY = Layout(
    "rtt_key",
    (
        Column(
            "src", "u64[2]", "source address of what was answered; IPv4 in the first four bytes"
        ),
        Column("dst", "u64[2]", "its destination address"),
        Column("dst_port", "u16"),
        Column("src_port", "u16"),
        Column("interface", "u32"),
        Column("kind", "u8"),
        Column("family", "u8", "4 or 6"),
        Column("has_ports", "u8"),
        Column("side", "u8"),
        Column("vlan", "u32"),
    ),
)
HISTOGRAM_COUNTS = Layout(
    "rtt_histogram",
    (
        Column("sum", "u64", "of the round-trip times, ns"),
        Column("buckets", f"u64[{HISTOGRAM.buckets}]"),
    ),
)
CELL = Layout(
    "rtt_cell",
    (
        Column("count", "u64", "samples"),
        Column("sum", "u64", "of all, ns"),
        Column("most", "u64", "the longest, ns"),
        Column("least", "u64", "2^62 less the shortest"),
        Column("jitter", "u64", "sum of what each differs by from the one before, ns"),
        Column("neighbours", "u64", "how many had one before them in their stream"),
        Column("handshake", "u64", "sum of those of handshakes, ns"),
        Column("handshakes", "u64"),
        Column("lost", "u64", "probes that were dropped"),
        Column("buckets", f"u32[{HISTOGRAM.buckets}]"),
    ),
)
