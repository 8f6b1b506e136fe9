# SPDX-License-Identifier: Apache-2.0
"""The metric families of flows."""

from __future__ import annotations

from trapstream_vtap.metrics.family import Family

KEY = "key"
"""Stands for a label for each field of `--key` that the flow has."""

SEQUENCE_KINDS = ("reverse", "small", "big", "duplicate")
"""Values of the label `kind`; what they mean is in docs/sequence.md."""

LINK = ("interface", "direction")
_PROTOCOL = (*LINK, "protocol")
_FLOW = (*LINK, KEY)
_SEQUENCE = "--sequence"

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

ALL = (
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
)
"""Every one, in the order in which they are exposed."""
