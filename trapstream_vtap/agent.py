# SPDX-License-Identifier: Apache-2.0
"""The exporter's own account, measurement `vtap_agent`: one record per interface, one per sink."""

from __future__ import annotations

from trapstream_vtap.ledger import LOSSES
from trapstream_vtap.records import DEVICE, INTERFACE, TIME
from trapstream_vtap.schema import Column, Field, Kind, Layout, Role, Schema

MEASUREMENT = "vtap_agent"

_INTERFACE_COUNTS = {
    "seen_packets": ("packets", "that reached the kernel program"),
    "seen_bytes": ("bytes", "of the packets seen"),
    "counted_packets": ("packets", "that were counted into a flow"),
    "counted_bytes": ("bytes", "of the packets counted"),
    "not_ip_packets": ("packets", "that are neither IPv4 nor IPv6"),
    "not_ip_bytes": ("bytes", "of the packets that are not IP"),
    "malformed_packets": ("packets", "whose headers are cut off or contradict themselves"),
    "malformed_bytes": ("bytes", "of the malformed packets"),
    "filtered_packets": ("packets", "that no rule matches"),
    "filtered_bytes": ("bytes", "of the packets filtered"),
    "no_flow_packets": ("packets", "for which the flow table gave no entry"),
    "no_flow_bytes": ("bytes", "of the packets without an entry"),
    "truncated_packets": ("packets", "of those seen, whose end had been cut off; they are counted"),
    "truncated_bytes": ("bytes", "that these packets say they have, and had not"),
    "flows_begun": (
        "flows",
        "that the table got an entry for; one that was evicted and comes back begins once more",
    ),
    "evicted_packets": (
        "packets",
        "lost with an evicted flow; a lower bound until the last record, which is exact",
    ),
    "evicted_bytes": ("bytes", "of the packets evicted"),
    "stranded_packets": (
        "packets",
        "lost: the table of a program that has ended did not hand them over",
    ),
    "stranded_bytes": ("bytes", "of the packets stranded"),
    "held_packets": ("packets", "counted into flows, not handed over yet (not a counter)"),
    "held_bytes": ("bytes", "of the packets held (not a counter)"),
    "summaries_handed": ("records", "of `vtap_flow` that came out of the kernel"),
    "packets_handed": ("packets", "in those summaries"),
    "bytes_handed": ("bytes", "of those packets"),
    "ring_full": ("times", "that a summary had to wait because the ring buffer was full"),
}

_EVENT_COUNTS = {
    "events_handed": ("events", "that came out of the kernel"),
    "events_suppressed": ("events", "beyond `--max-events`, or without room in the ring buffer"),
}

_PROBE_COUNTS = {
    "seen_packets": ("packets", "that the kernel reported; the sum of the next seven"),
    "events_packets": ("packets", "handed over one by one"),
    "aggregated_packets": ("packets", "counted into records of several"),
    "suppressed_packets": ("packets", "counted by their cause alone, in records of their own"),
    "left_out_packets": ("packets", "of a reason that is not asked for"),
    "elsewhere_packets": ("packets", "at interfaces that are not asked for"),
    "no_packet_packets": ("packets", "that never go over a network: Unix sockets, netlink"),
    "missed_packets": (
        "packets",
        "lost: reported while the kernel program was busy on that processor, or of too many causes",
    ),
    "records_handed": ("records", "of `DroppedPackets` that came out of the kernel"),
    "packets_handed": ("packets", "in those records: one by one, aggregated and suppressed"),
}

_SINK_COUNTS = {
    "records_handed": ("records", "handed to this sink, events among them"),
    "records_recovered": ("records", "of an earlier run, found in the spool at the start"),
    "records_delivered": ("records", "that the collector's side has taken"),
    "records_queued": ("records", "that wait in memory (not a counter)"),
    "records_spooled": ("records", "that wait on disk (not a counter)"),
    "records_lost": ("records", "that were given up, for whatever reason"),
    "records_retried": ("records", "in payloads that had to be sent again"),
    "packets_handed": ("packets", "in the summaries handed to this sink"),
    "packets_recovered": ("packets", "in the records recovered"),
    "packets_delivered": ("packets", "in the records delivered"),
    "packets_queued": ("packets", "in the records queued (not a counter)"),
    "packets_spooled": ("packets", "in the records spooled (not a counter)"),
    "packets_lost": ("packets", "in the records lost"),
    "bytes_delivered": ("bytes", "of payload that the collector's side has taken"),
    **{f"lost_{reason}": ("records", meaning) for reason, meaning in LOSSES.items()},
    "bytes_queued": ("bytes", "of payload that wait in memory (not a counter)"),
    "bytes_spooled": ("bytes", "that the spool takes on disk (not a counter)"),
    "bytes_retried": ("bytes", "of payload that had to be sent again"),
    "oldest_age_ms": ("ms", "since the oldest record that waits was handed over (not a counter)"),
    "up": ("", "1, or 0 while the collector cannot be reached (not a counter)"),
}

_PROBE = Field("probe", Role.TAG, Kind.LABEL, ("probe",), "", "`drops` or `traps`")
_SINK = Field("sink", Role.TAG, Kind.LABEL, ("sink",), "", "where to, as `--sink` says it")


def interface_schema(*, events: bool) -> Schema:
    """What the kernel side counted, with EVENTS where sequence numbers are checked."""
    return _schema(
        INTERFACE,
        _INTERFACE_COUNTS | (_EVENT_COUNTS if events else {}),
        "One record per interface and interval: what became of its packets up to the moment at "
        "which they are handed to the sinks. Counters run since the start, so that a lost record "
        "loses nothing.",
    )


def probe_schema() -> Schema:
    """What became of dropped or trapped packets."""
    return _schema(
        _PROBE,
        _PROBE_COUNTS,
        "With `--probe drops` and `--probe traps`, one record for each and interval: what became "
        "of the packets that the kernel reported. Counters run since the start.",
    )


def sink_schema() -> Schema:
    """What became of the records at one sink."""
    return _schema(
        _SINK,
        _SINK_COUNTS,
        "One record per sink and interval, also of `vtap_agent`: what became of the records. "
        "Counters run since the start.",
    )


def _schema(whose: Field, counts: dict[str, tuple[str, str]], doc: str) -> Schema:
    """Records with tags `device` and WHOSE, and COUNTS: unit and meaning by name."""
    return Schema(
        measurement=MEASUREMENT,
        doc=doc,
        layout=Layout(
            "agent_record",
            (
                Column(whose.name, "u32"),
                Column("reserved", "u32"),
                Column("time", "u64"),
                *(Column(name, "u64") for name in counts),
            ),
        ),
        fields=(
            DEVICE,
            whose,
            *(
                Field(name, Role.VALUE, Kind.COUNT, (name,), unit, doc)
                for name, (unit, doc) in counts.items()
            ),
            TIME,
        ),
    )
