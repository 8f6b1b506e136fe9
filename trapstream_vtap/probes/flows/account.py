# SPDX-License-Identifier: Apache-2.0
"""What becomes of the packets of an interface: the flow probe's account."""

from __future__ import annotations

from functools import cache

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.schema import INTERFACE

_SEQUENCE = "--sequence"


def _family(name: str, doc: str, *labels: str, when: str = "", kind: str = "counter") -> Family:
    return Family(f"vtap_agent_{name}", kind, ("interface", *labels), doc, when)


_UNCOUNTED_PACKETS = _family(
    "uncounted_packets", "Packets that were seen and counted into no flow.", "reason"
)
_UNCOUNTED_BYTES = _family("uncounted_bytes", "Bytes of the packets not counted.", "reason")

INTERFACE_COUNTS = (
    Count(
        "seen_packets",
        "packets",
        "that reached the kernel program",
        _family("seen_packets", "Packets that reached the kernel program."),
    ),
    Count(
        "seen_bytes",
        "bytes",
        "of the packets seen",
        _family("seen_bytes", "Bytes of the packets seen."),
    ),
    Count(
        "counted_packets",
        "packets",
        "that were counted into a flow",
        _family("counted_packets", "Packets that were counted into a flow."),
        part_of="seen_packets",
    ),
    Count(
        "counted_bytes",
        "bytes",
        "of the packets counted",
        _family("counted_bytes", "Bytes of the packets counted."),
        part_of="seen_bytes",
    ),
    Count(
        "not_ip_packets",
        "packets",
        "that are neither IPv4 nor IPv6",
        _UNCOUNTED_PACKETS,
        label="not_ip",
        part_of="seen_packets",
    ),
    Count(
        "not_ip_bytes",
        "bytes",
        "of the packets that are not IP",
        _UNCOUNTED_BYTES,
        label="not_ip",
        part_of="seen_bytes",
    ),
    Count(
        "malformed_packets",
        "packets",
        "whose headers are cut off or contradict themselves",
        _UNCOUNTED_PACKETS,
        label="malformed",
        part_of="seen_packets",
    ),
    Count(
        "malformed_bytes",
        "bytes",
        "of the malformed packets",
        _UNCOUNTED_BYTES,
        label="malformed",
        part_of="seen_bytes",
    ),
    Count(
        "filtered_packets",
        "packets",
        "that no rule matches",
        _UNCOUNTED_PACKETS,
        label="filtered",
        part_of="seen_packets",
    ),
    Count(
        "filtered_bytes",
        "bytes",
        "of the packets filtered",
        _UNCOUNTED_BYTES,
        label="filtered",
        part_of="seen_bytes",
    ),
    Count(
        "no_flow_packets",
        "packets",
        "for which the flow table gave no entry",
        _UNCOUNTED_PACKETS,
        label="no_flow",
        part_of="seen_packets",
        said="found no room in the table",
    ),
    Count(
        "no_flow_bytes",
        "bytes",
        "of the packets without an entry",
        _UNCOUNTED_BYTES,
        label="no_flow",
        part_of="seen_bytes",
    ),
    Count(
        "truncated_packets",
        "packets",
        "of those seen, whose end had been cut off; they are counted",
        _family("truncated_packets", "Packets whose end had been cut off by what mirrored them."),
    ),
    Count(
        "truncated_bytes",
        "bytes",
        "that these packets say they have, and had not",
        _family("truncated_bytes", "Bytes that had been cut off."),
    ),
    Count(
        "flows_begun",
        "flows",
        "that the table got an entry for; one that was evicted and comes back begins once more",
        _family("begun_flows", "Flows that the table got an entry for."),
    ),
    Count(
        "evicted_packets",
        "packets",
        "lost with an evicted flow; a lower bound until the last record, which is exact",
        _family(
            "evicted_packets",
            "Packets lost with a flow that the table evicted; a lower bound while packets come.",
        ),
        part_of="counted_packets",
        said="evicted with their flows",
    ),
    Count(
        "evicted_bytes",
        "bytes",
        "of the packets evicted",
        _family("evicted_bytes", "Bytes of the packets evicted."),
        part_of="counted_bytes",
    ),
    Count(
        "stranded_packets",
        "packets",
        "lost: the table of a program that has ended did not hand them over",
        _family("stranded_packets", "Packets lost in the table of a program that has ended."),
        part_of="counted_packets",
        said="could not be handed over",
        fails=True,
    ),
    Count(
        "stranded_bytes",
        "bytes",
        "of the packets stranded",
        _family("stranded_bytes", "Bytes of the packets stranded."),
        part_of="counted_bytes",
    ),
    Count(
        "held_packets",
        "packets",
        "counted into flows, not handed over yet (not a counter)",
        _family("held_packets", "Packets counted into flows, not handed over yet.", kind="gauge"),
        part_of="counted_packets",
    ),
    Count(
        "held_bytes",
        "bytes",
        "of the packets held (not a counter)",
        _family("held_bytes", "Bytes of the packets held.", kind="gauge"),
        part_of="counted_bytes",
    ),
    Count(
        "summaries_handed",
        "records",
        "of `vtap_flow` that came out of the kernel",
        _family("handed_summaries", "Summaries of flows that came out of the kernel."),
    ),
    Count(
        "packets_handed",
        "packets",
        "in those summaries",
        _family("handed_packets", "Packets in those summaries."),
        part_of="counted_packets",
    ),
    Count(
        "bytes_handed",
        "bytes",
        "of those packets",
        _family("handed_bytes", "Bytes of those packets."),
        part_of="counted_bytes",
    ),
    Count(
        "ring_full",
        "times",
        "that a summary had to wait because the ring buffer was full",
        _family("ring_full", "Times that a summary had to wait for room in the ring."),
    ),
)
EVENT_COUNTS = (
    Count(
        "events_handed",
        "events",
        "that came out of the kernel",
        _family(
            "handed_events",
            "Sequence errors that came out of the kernel as events.",
            when=_SEQUENCE,
        ),
    ),
    Count(
        "events_suppressed",
        "events",
        "beyond `--max-events`, or without room in the ring buffer",
        _family(
            "suppressed_events",
            "Sequence errors that did not: beyond --max-events, or no room in the ring.",
            when=_SEQUENCE,
        ),
        said="suppressed",
    ),
)


@cache
def rows(*, events: bool) -> Rows:
    """One row for each interface, with counts of EVENTS where sequence numbers are checked."""
    return Rows(
        INTERFACE,
        INTERFACE_COUNTS + (EVENT_COUNTS if events else ()),
        "One record per interface and interval: what became of its packets up to the moment at "
        "which they are handed to the sinks. Counters run since the start, so that a lost record "
        "loses nothing.",
        "The counts of events are there where sequence numbers are checked.",
    )
