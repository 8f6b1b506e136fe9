# SPDX-License-Identifier: Apache-2.0
"""Every metric family: name, type, unit, labels and meaning; the reference page is made from it.

Names and units are as OpenMetrics and Prometheus want them: base units, `_total` behind counters.

See: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("bytes", "seconds", "packets", "records")


@dataclass(frozen=True)
class Family:
    """A metric family.

    Args:
        name: Without the suffix `_total` of a counter.
        kind: `counter`, `gauge`, `histogram` or `info`.
        labels: Beside the labels that Prometheus adds by itself (`instance`, `job`).
        doc: What `# HELP` says.
        when: Where the family is not always there, the option that it is there with.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    doc: str
    when: str = ""

    @property
    def unit(self) -> str:
        """The name's last word, where that is a unit."""
        word = self.name.rpartition("_")[2]
        return word if word in _UNITS else ""

    @property
    def sample(self) -> str:
        """What its samples are called; those of a histogram have suffixes of their own."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


KEY = "key"
"""Stands for a label for each field of `--key` that the flow has."""

SEQUENCE_KINDS = ("reverse", "small", "big", "duplicate")
"""Values of the label `kind`; what they mean is in docs/sequence.md."""

LINK = ("interface", "direction")
_PROTOCOL = (*LINK, "protocol")
_FLOW = (*LINK, KEY)
_DROP = ("probe", "interface", "reason", "type", "severity")
_SEQUENCE = "--sequence"
_DROPS = "--probe drops, traps"

MEASURED = {
    "packets": "Packets on the wire",
    "bytes": "Bytes on the wire, with Ethernet header and VLAN tags, without FCS",
    "payload_bytes": "Bytes behind the transport header, without padding",
}
"""What is counted of flows, beside sequence errors."""

_LATEST = "in the latest interval; absent where there was none"

PROTOCOL_COUNTERS = tuple(
    Family(f"vtap_protocol_{name}", "counter", _PROTOCOL, f"{doc}, of all flows.")
    for name, doc in MEASURED.items()
)
PROTOCOL_ERRORS = Family(
    "vtap_protocol_sequence_errors",
    "counter",
    (*_PROTOCOL, "kind"),
    "Sequence errors of all flows.",
    _SEQUENCE,
)
PROTOCOL_LOSS = Family(
    "vtap_protocol_loss_ratio",
    "gauge",
    _PROTOCOL,
    "Sequence numbers (TCP: bytes) missing of those expected, of all flows, in the latest "
    "interval; absent where none were expected.",
    _SEQUENCE,
)
PROTOCOL_FLOWS = Family(
    "vtap_protocol_flows", "gauge", _PROTOCOL, "Flows that had a packet in the latest interval."
)
PROTOCOL_MEAN = Family(
    "vtap_protocol_interarrival_mean_seconds",
    "gauge",
    _PROTOCOL,
    f"Mean of all inter-arrival times (each between two packets of one flow) {_LATEST}.",
)
PROTOCOL_JITTER = Family(
    "vtap_protocol_jitter_seconds",
    "gauge",
    _PROTOCOL,
    "Pooled standard deviation of inter-arrival times, each from the mean of its own flow, "
    f"{_LATEST}.",
)
INTERARRIVAL = Family(
    "vtap_interarrival_seconds",
    "histogram",
    _PROTOCOL,
    "Times between two packets of one flow; stops (--stop-gap) are none. Protocols other than tcp, "
    "udp, icmp and icmpv6 are other.",
)

FLOW_COUNTERS = tuple(
    Family(
        f"vtap_flow_{name}",
        "counter",
        _FLOW,
        f"{doc}, of each of the top flows; flow=rest: of all others, while they were not shown.",
    )
    for name, doc in MEASURED.items()
)
FLOW_ERRORS = Family(
    "vtap_flow_sequence_errors",
    "counter",
    (*_FLOW, "kind"),
    "Sequence errors of each of the top flows, a series for each kind that the flow has had; "
    "flow=rest: of all others, while they were not shown.",
    _SEQUENCE,
)
FLOW_LOSS = Family(
    "vtap_flow_loss_ratio",
    "gauge",
    _FLOW,
    "Sequence numbers (TCP: bytes) missing of those expected, of a top flow, in the latest "
    "interval; absent where none were expected.",
    _SEQUENCE,
)
FLOW_MEAN = Family(
    "vtap_flow_interarrival_mean_seconds",
    "gauge",
    _FLOW,
    f"Mean inter-arrival time of a top flow {_LATEST}.",
)
FLOW_JITTER = Family(
    "vtap_flow_jitter_seconds",
    "gauge",
    _FLOW,
    f"Population standard deviation of a top flow's inter-arrival times {_LATEST}.",
)
DEPARTED_COUNTERS = tuple(
    Family(
        f"vtap_flow_departed_{name}",
        "counter",
        (),
        f"{doc}, in series of vtap_flow_{name}_total that are no longer shown.",
    )
    for name, doc in MEASURED.items()
)
DEPARTED_ERRORS = Family(
    "vtap_flow_departed_sequence_errors",
    "counter",
    ("kind",),
    "Sequence errors in series of vtap_flow_sequence_errors_total that are no longer shown.",
    _SEQUENCE,
)

DROPPED = (
    Family(
        "vtap_dropped_packets",
        "counter",
        _DROP,
        "Packets that the kernel dropped, or a driver or device trapped.",
        _DROPS,
    ),
    Family("vtap_dropped_bytes", "counter", _DROP, "Bytes of these packets.", _DROPS),
)

INFO = Family("vtap_agent", "info", ("device", "version"), "Which exporter this is.")

UNCOUNTED = ("not_ip", "malformed", "filtered", "no_flow")
"""Why a packet that was seen is counted into no flow; values of the label `reason`."""


def _agent(name: str, doc: str, *labels: str, when: str = "", kind: str = "counter") -> Family:
    return Family(f"vtap_agent_{name}", kind, ("interface", *labels), doc, when)


AGENT = {
    "seen_packets": _agent("seen_packets", "Packets that reached the kernel program."),
    "seen_bytes": _agent("seen_bytes", "Bytes of the packets seen."),
    "counted_packets": _agent("counted_packets", "Packets that were counted into a flow."),
    "counted_bytes": _agent("counted_bytes", "Bytes of the packets counted."),
    "{reason}_packets": _agent(
        "uncounted_packets", "Packets that were seen and counted into no flow.", "reason"
    ),
    "{reason}_bytes": _agent("uncounted_bytes", "Bytes of the packets not counted.", "reason"),
    "truncated_packets": _agent(
        "truncated_packets", "Packets whose end had been cut off by what mirrored them."
    ),
    "truncated_bytes": _agent("truncated_bytes", "Bytes that had been cut off."),
    "flows_begun": _agent("begun_flows", "Flows that the table got an entry for."),
    "evicted_packets": _agent(
        "evicted_packets",
        "Packets lost with a flow that the table evicted; a lower bound while packets come.",
    ),
    "evicted_bytes": _agent("evicted_bytes", "Bytes of the packets evicted."),
    "stranded_packets": _agent(
        "stranded_packets", "Packets lost in the table of a program that has ended."
    ),
    "stranded_bytes": _agent("stranded_bytes", "Bytes of the packets stranded."),
    "held_packets": _agent(
        "held_packets", "Packets counted into flows, not handed over yet.", kind="gauge"
    ),
    "held_bytes": _agent("held_bytes", "Bytes of the packets held.", kind="gauge"),
    "summaries_handed": _agent(
        "handed_summaries", "Summaries of flows that came out of the kernel."
    ),
    "packets_handed": _agent("handed_packets", "Packets in those summaries."),
    "bytes_handed": _agent("handed_bytes", "Bytes of those packets."),
    "ring_full": _agent("ring_full", "Times that a summary had to wait for room in the ring."),
    "events_handed": _agent(
        "handed_events", "Sequence errors that came out of the kernel as events.", when=_SEQUENCE
    ),
    "events_suppressed": _agent(
        "suppressed_events",
        "Sequence errors that did not: beyond --max-events, or no room in the ring.",
        when=_SEQUENCE,
    ),
}
"""By the names that the counts of an interface have in `vtap_agent`."""


FATES = (*("events", "aggregated", "suppressed", "left_out", "elsewhere", "no_packet", "missed"),)
"""What becomes of a packet that was reported as dropped or trapped; values of the label `fate`."""


def _probe(name: str, doc: str, *labels: str) -> Family:
    return Family(f"vtap_probe_{name}", "counter", ("probe", *labels), doc, _DROPS)


PROBE = {
    "seen_packets": _probe("seen_packets", "Packets that the kernel reported."),
    "{reason}_packets": _probe("packets", "What became of them.", "fate"),
    "records_handed": _probe("handed_records", "Records that came out of the kernel."),
    "packets_handed": _probe("handed_packets", "Packets in those records."),
}
"""By the names that the counts of a probe of drops or traps have in `vtap_agent`."""


def _sink(name: str, kind: str, doc: str, *labels: str) -> Family:
    return Family(f"vtap_sink_{name}", kind, ("sink", *labels), doc)


SINK = {
    "records_handed": _sink("handed_records", "counter", "Records handed to this sink."),
    "records_recovered": _sink(
        "recovered_records", "counter", "Records of an earlier run, found in the spool."
    ),
    "records_delivered": _sink(
        "delivered_records", "counter", "Records that the collector's side has taken."
    ),
    "lost_{reason}": _sink("lost_records", "counter", "Records that were given up.", "reason"),
    "records_retried": _sink(
        "retried_records", "counter", "Records in payloads that had to be sent again."
    ),
    "records_queued": _sink("queued_records", "gauge", "Records that wait in memory."),
    "records_spooled": _sink("spooled_records", "gauge", "Records that wait on disk."),
    "packets_handed": _sink("handed_packets", "counter", "Packets in the records handed."),
    "packets_recovered": _sink("recovered_packets", "counter", "Packets in those recovered."),
    "packets_delivered": _sink("delivered_packets", "counter", "Packets in those delivered."),
    "packets_lost": _sink("lost_packets", "counter", "Packets in those given up."),
    "packets_queued": _sink("queued_packets", "gauge", "Packets in the records queued."),
    "packets_spooled": _sink("spooled_packets", "gauge", "Packets in the records spooled."),
    "bytes_delivered": _sink(
        "delivered_bytes", "counter", "Bytes of payload that the collector's side has taken."
    ),
    "bytes_retried": _sink(
        "retried_bytes", "counter", "Bytes of payload that had to be sent again."
    ),
    "bytes_queued": _sink("queued_bytes", "gauge", "Bytes of payload that wait in memory."),
    "bytes_spooled": _sink("spooled_bytes", "gauge", "Bytes that the spool takes on disk."),
    "oldest_age_ms": _sink(
        "oldest_age_seconds", "gauge", "Time since the oldest record that waits was handed over."
    ),
    "up": _sink("up", "gauge", "1, or 0 while the collector cannot be reached."),
}
"""By the names that the counts of a sink have in `vtap_agent`."""

TOGETHER = frozenset({"records_lost"})
"""What `vtap_agent` has and no family has: the sum of a family's series."""

ALL = (
    INFO,
    *PROTOCOL_COUNTERS,
    PROTOCOL_ERRORS,
    PROTOCOL_LOSS,
    PROTOCOL_FLOWS,
    PROTOCOL_MEAN,
    PROTOCOL_JITTER,
    INTERARRIVAL,
    *FLOW_COUNTERS,
    FLOW_ERRORS,
    FLOW_LOSS,
    FLOW_MEAN,
    FLOW_JITTER,
    *DEPARTED_COUNTERS,
    DEPARTED_ERRORS,
    *DROPPED,
    *AGENT.values(),
    *PROBE.values(),
    *SINK.values(),
)
"""Every family, in the order in which they are exposed."""
