# SPDX-License-Identifier: Apache-2.0
"""The structures of the flow program: keys, flows, and what it hands over."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.schema import Column, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.guest import Guest

KEY_FIELDS = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol", "vlan", "tunnel_id")
"""What may tell flows apart, beside interface and direction."""

FLOW_KEY = Layout(
    "flow_key",
    (
        Column("src_ip", "u8[16]", "source address; IPv4 in the first four bytes"),
        Column("dst_ip", "u8[16]", "destination address"),
        Column("dst_port", "u16", "destination port, host byte order"),
        Column("src_port", "u16", "source port, host byte order"),
        Column("interface", "u32", "interface index"),
        Column("protocol", "u8", "IP protocol number of the transport header"),
        Column("family", "u8", "4 or 6"),
        Column("ports", "u8", "1 where the packet has ports"),
        Column("direction", "u8", "0 ingress, 1 egress"),
        Column("vlan", "u32", "VLAN ids: outermost in the low half; bit 12 of each half: present"),
    ),
)
"""What tells flows apart in the kernel; columns that the user did not ask for are zero."""

_TUNNEL = (
    Column("tunnel_id", "u32", "of the tunnel that the packet came out of"),
    Column("tunnel", "u32", "1 where there is a tunnel id"),
)

FLOW_RECORD = Layout(
    "flow_record",
    (
        *FLOW_KEY.columns,
        Column("time", "u64", "end of the interval, ns since the epoch"),
        Column("duration", "u64", "length of the interval that the record covers, ns"),
        Column("packets", "u64", "packets on the wire"),
        Column("bytes", "u64", "bytes on the wire"),
        Column("payload_bytes", "u64", "bytes behind the transport header"),
        Column("iat_count", "u64", "inter-arrival times"),
        Column("iat_sum", "u64", "sum of the inter-arrival times, ns"),
        Column("iat_squares", "u64", "sum of their squares, ns², of those below the coarse limit"),
        Column("iat_squares_coarse", "u64", "the same of the others, (2^shift ns)²"),
        Column("iat_min", "u64", "shortest, ns"),
        Column("iat_max", "u64", "longest, ns"),
    ),
)
"""A flow's summary of one interval, as the kernel program hands it over."""

_SLOT_COUNTS = (
    "arrivals",  # as the kernel hands them over; a merged packet is one
    "merged",  # packets on the wire beyond the arrivals
    "bytes",
    "payload",
)
_SLOT_JITTER = (
    "iat_sum",
    "iat_squares",
    "iat_squares_coarse",
    "iat_max",
    "iat_min_inverted",  # ~minimum, so that zero is none
)


def _u64s(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name, "u64") for name in names)


FLOW_SLOT = Layout(
    "slot",
    _u64s((*_SLOT_COUNTS, "stops", *_SLOT_JITTER)),  # stops: arrivals without inter-arrival time
)
"""What a flow gathers in one interval. All zero: nothing."""

FLOW_STATE = Layout(
    "flow",
    (
        Column("end", "u64", "grid line that ends the interval; lowest bits: which slots gather"),
        Column("last", "u64", "arrival of the latest packet"),
        Column("start", "u64", "beginning of the current interval"),
        Column("overdue", "u64", "1: the ring was full, packets of later intervals were let in"),
        Column("slot", "struct slot[2]", "one gathers while the other is handed over", FLOW_SLOT),
    ),
)
"""A flow in the table; all times CLOCK_MONOTONIC, ns."""

SEQUENCE_EVENT = Layout(
    "sequence_event",
    (
        *FLOW_KEY.columns,
        Column("time", "u64", "of the packet, ns since the epoch"),
        Column("expected", "u64", "the number that would have been in order"),
        Column("received", "u64", "the number that came"),
        Column("distance", "u64", "signed"),
        Column("kind", "u32", "position in EVENT_KINDS"),
        Column("reserved", "u32"),
    ),
)
"""A sequence error, as the kernel program hands it over."""


class JitterInterval(enum.Enum):
    """How long the jitter interval is beside the measuring interval."""

    SAME = "same"
    LONGER = "longer"
    SHORTER = "shorter"


SEQUENCE_FIELDS = {
    "seq_last": ("number", "latest number; of a TCP stream the next expected one"),
    "seq_received": ("packets", "with a number, since the flow began"),
    "seq_reverse": ("packets", "number smaller than the one before; TCP: fills a hole"),
    "seq_small": ("packets", "distance above 1, up to the threshold; TCP: hole up to it"),
    "seq_big": ("packets", "distance or hole beyond the threshold"),
    "seq_duplicate": ("packets", "number equal to the one before; TCP: data seen before"),
    "seq_errors": ("packets", "sum of the four"),
    "seq_missing": ("numbers", "never seen so far, since the flow began; TCP: bytes"),
    "seq_restarts": ("times", "that the numbers began anew: a jump of more than 2³⁰"),
}
"""What is said of sequence numbers: unit and meaning by name."""

TRACKED_HOLES = 8
"""Of a TCP stream: so many holes are known by their place, others by their size alone."""


@dataclass(frozen=True)
class FlowLayouts:
    """The structures of the flow program with all that is asked of it.

    Args:
        key: `FLOW_KEY`, wider where it has the tunnel's id.
        record: `FLOW_RECORD`, which begins with the key, and what is measured beyond it.
        event: `SEQUENCE_EVENT`, which begins with the key.
        slot: `FLOW_SLOT`, and what is measured beyond it.
        flow: `FLOW_STATE`, likewise.
        jitter: A slot of jitter, where that has an interval of its own.
    """

    key: Layout
    record: Layout
    event: Layout
    slot: Layout
    flow: Layout
    jitter: Layout | None


def flow_layouts(
    key: Sequence[str] = KEY_FIELDS[:5],
    *,
    sequence: bool = False,
    deviation: bool = False,
    smoothed: bool = False,
    own_interval: bool = False,
    guest: Guest | None = None,
) -> FlowLayouts:
    """The structures of the flow program.

    Args:
        key: What tells flows apart, out of `KEY_FIELDS`.
        sequence: Sequence numbers are checked.
        deviation: The sender's spacing is known.
        smoothed: Jitter is smoothed as in RFC 3550.
        own_interval: Jitter has an interval of its own.
        guest: What another probe measures of each flow.
    """
    # Long: one list of members for each thing that may be asked for.
    record, slot, jitter, state = [], [], [], []
    if sequence:
        record += [Column(name, "u64", doc) for name, (_, doc) in SEQUENCE_FIELDS.items()]
        record += [
            Column("seq_missed", "u64", "signed: change of what is missing, in the interval"),
            Column("seq_expected", "u64", "numbers expected in the interval; TCP: bytes"),
        ]
        slot += [
            Column("seq_none", "u64", "packets that carry no number"),
            Column("seq_again", "u64", "numbers or bytes that have been seen before"),
            Column("seq_restarts", "u64", "jumps with which another sequence began"),
            *(Column(f"seq_{name}", "u64") for name in ("reverse", "small", "big", "duplicate")),
        ]
        state += [
            Column("seq_last", "u64", "latest number; TCP: the next expected one, and SEQ_* bits"),
            Column("seq_first", "u64", "numbers: the first"),
            Column("seq_begin", "u64", "TCP: the SYN's number, and SEQ_* bits; 0: no stream"),
            Column("seq_missing_closed", "u64", "seq_missing when an interval was last closed"),
            Column("seq_window", "u64", "highest number << 32; bit n: highest - n has been seen"),
            Column("seq_missing", "u64", "signed: numbers or bytes never seen"),
            Column("seq_received", "u64", "packets with a number in the intervals closed"),
            Column("event_time", "u64", "of the latest event"),
            Column("seq_untracked", "u64", "signed: bytes of holes whose places are not known"),
            Column("seq_holes", f"u64[{TRACKED_HOLES}]", "first byte << 32, first byte behind"),
        ]
    if deviation:
        record += [
            Column("iat_excess", "u64", "sum of what inter-arrival times exceed the gap by, ns"),
            Column("expected_gap", "u64", "ns"),
        ]
        jitter.append(Column("iat_excess", "u64"))
    if smoothed:
        record.append(Column("iat_smoothed", "u64", "smoothed jitter, 2^-16 ns"))
        state += [
            Column("iat_smoothed", "u64", "smoothed jitter, 2^-16 ns"),
            Column("iat_mean", "u64", "running mean, 2^-16 ns; 0: none yet"),
        ]
    if guest:
        record += guest.record
        slot += guest.slot
    counts, gaps = Layout("slot", (*FLOW_SLOT.columns, *slot, *jitter)), None
    slots = [Column("slot", "struct slot[2]", "", counts)]
    if own_interval:
        record.append(Column("jitter_duration", "u64", "of the jitter interval that ends, ns"))
        state.append(Column("long_start", "u64", "beginning of the longer interval"))
        counts = Layout("slot", (*_u64s(_SLOT_COUNTS), *slot))
        gaps = Layout("jitter_slot", (*_u64s(("iat_count", *_SLOT_JITTER)), *jitter))
        slots = [
            Column("slot", "struct slot[2]", "", counts),
            Column("jitter", "struct jitter_slot[2]", "", gaps),
        ]
    wide = "tunnel_id" in key
    return FlowLayouts(
        _keyed(FLOW_KEY, (), wide=wide),
        _keyed(FLOW_RECORD, record, wide=wide),
        _keyed(SEQUENCE_EVENT, (), wide=wide),
        counts,
        Layout("flow", (*FLOW_STATE.columns[:-1], *state, *slots)),
        gaps,
    )


def _keyed(layout: Layout, more: Sequence[Column], *, wide: bool) -> Layout:
    """LAYOUT, which begins with a key, with MORE columns; WIDE: the key has the tunnel's id."""
    end = len(FLOW_KEY.columns)
    tunnel = _TUNNEL if wide else ()
    return Layout(layout.name, (*layout.columns[:end], *tunnel, *layout.columns[end:], *more))


EVENT_KINDS = ("reverse", "small", "big", "duplicate", "out_of_order", "hole", "retransmission")
"""What an error can be: four of numbers that packets carry, three of a TCP stream."""

SEQUENCE_COUNTS = (
    "numbers_read",
    "numbers_missing",  # signed: net of those that came late
    "numbers_late",
    "numbers_twice",
    "numbers_earlier",  # than the first of their flow
    "numbers_repeated",  # of those that came twice: equal to the one before
    "numbers_far",  # from the one before: by more than 64
    "numberless",  # packets that carry no number where the user says that one is
    "stream_read",  # bytes of payload
    "stream_missing",  # signed
    "stream_late",  # segments that fill holes
    "stream_twice",  # segments of which nothing was missing
    "stream_again",  # bytes that had been seen before
)
"""What the kernel program counts per interface and CPU of numbers and TCP streams."""

LINK_COUNTS = (
    "seen_packets",
    "seen_bytes",
    "counted_packets",
    "counted_bytes",
    "not_ip_packets",
    "not_ip_bytes",
    "malformed_packets",
    "malformed_bytes",
    "filtered_packets",
    "filtered_bytes",
    "no_flow_packets",
    "no_flow_bytes",
    "truncated_packets",
    "truncated_bytes",
    "flows_begun",
    "ring_full",
    "events_handed",
    "events_suppressed",
    *SEQUENCE_COUNTS,
)
"""What the kernel program counts per interface and CPU."""

LINK = Layout(
    "link",
    (
        Column("interface", "u32", "whose it is: its index; 0: nobody's"),
        Column("gaps", "u32", "where the entries of its histogram begin"),
        *(Column(name, "u64") for name in LINK_COUNTS),
    ),
)
"""An interface in the kernel program; what is no count is the same on all CPUs."""

GAP_BOUNDS = tuple(digit * 10**power for power in range(3, 10) for digit in (1, 2, 5))
"""Upper bounds of the histogram's buckets, ns, each inclusive; behind them is one without bound."""

GAP_PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6", "other")
"""What the histogram tells apart."""

GAP_COUNTS = Layout(
    "gap_counts",
    (
        Column("sum", "u64", "of the inter-arrival times, ns"),
        Column("counts", f"u64[{len(GAP_BOUNDS) + 1}]", "how many are in each bucket"),
    ),
)
"""A histogram of inter-arrival times on one CPU."""

CONTROL = Layout(
    "control",
    (
        Column("clock_offset", "u64", "CLOCK_REALTIME - CLOCK_MONOTONIC, ns, times 4"),
        Column("inserts", "u64", "new flows since all last handed over"),
        Column("began", "u64", "when this program took over from another one, or long before"),
    ),
)
"""What user space and the kernel program tell each other."""
