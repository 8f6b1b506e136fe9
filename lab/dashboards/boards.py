# SPDX-License-Identifier: Apache-2.0
"""The dashboards: what is shown, whatever the data source."""

from __future__ import annotations

from lab.dashboards.description import (
    AGENT,
    DROPS,
    LATENCY,
    RTT,
    Board,
    How,
    Kind,
    Panel,
    Row,
    Series,
)
from trapstream_vtap.ledger import LOSSES

BITS = 8  # in a byte
TOP = 20  # talkers
ERRORS = ("reverse", "small", "big", "duplicate")
EXITS = ("not_ip", "malformed", "filtered", "no_flow", "evicted")
ENDS = ("src_ip", "src_port", "dst_ip", "dst_port", "protocol", "interface")

_IDLE = "A gap: no packet came, or no record; the dashboard of the agent says which."
_TWO = "Empty: no flow had two packets within an interval and --stop-gap."
_NUMBERS = "Empty: sequence numbers are not checked; start vtap-stream with --sequence."
_AGENT = "Empty: vtap-stream does not run, or nothing of it arrives here."
_NO_LATENCY = "Empty: --probe latency is not on."
_NO_RTT = (
    "Empty: --probe rtt is not on, its times stand in the records of flows, or nothing is answered."
)
_NO_DROPS = "Empty: nothing was dropped, or drops are not watched."


def _rates(by: tuple[str, ...] = ()) -> tuple[Series, Series]:
    return (
        Series("throughput", "bytes", by=by, scale=BITS),
        Series("goodput", "payload_bytes", by=by, scale=BITS),
    )


def _errors(by: tuple[str, ...] = ()) -> tuple[Series, ...]:
    return tuple(Series(kind, f"seq_{kind}", by=by) for kind in ERRORS)


def _loss(by: tuple[str, ...] = ()) -> tuple[Series, Series]:
    return (
        Series("mean", "loss_ratio", How.MEAN, by=by),
        Series("largest", "loss_ratio", How.LARGEST, by=by),
    )


TRAFFIC = Board(
    name="traffic",
    title="vtap: traffic",
    doc="What crosses the measured interfaces: rates, talkers, delay variation, errors, drops.",
    variables=("device", "interface", "direction", "protocol"),
    annotated=True,
    rows=(
        Row(
            "Rates",
            (
                Panel(
                    "Throughput and goodput",
                    "Bits per second of all flows: throughput with Ethernet header, without FCS; "
                    f"goodput is the payload of TCP, UDP and ICMP. {_IDLE}",
                    "bps",
                    _rates(),
                ),
                Panel(
                    "Packets",
                    f"Packets per second, by protocol. {_IDLE}",
                    "pps",
                    (Series("", "packets", by=("protocol",)),),
                    Kind.STACKED,
                ),
                Panel(
                    "Throughput by protocol",
                    f"With Ethernet header, without FCS. {_IDLE}",
                    "bps",
                    (Series("", "bytes", by=("protocol",), scale=BITS),),
                    Kind.STACKED,
                ),
                Panel(
                    "Goodput by protocol",
                    f"Payload only. {_IDLE}",
                    "bps",
                    (Series("", "payload_bytes", by=("protocol",), scale=BITS),),
                    Kind.STACKED,
                ),
                Panel(
                    "Throughput by interface",
                    f"With Ethernet header, without FCS. {_IDLE}",
                    "bps",
                    (Series("", "bytes", by=("device", "interface"), scale=BITS),),
                ),
                Panel(
                    "Top talkers",
                    f"The {TOP} flows with the most bytes in the time shown; a click on an address "
                    "opens the flow. Empty: no packet came, or no record.",
                    "bytes",
                    (Series("bytes", "bytes", How.TOTAL, by=ENDS, top=TOP),),
                    Kind.TABLE,
                ),
            ),
        ),
        Row(
            "Delay variation",
            (
                Panel(
                    "Inter-arrival time by protocol",
                    "Mean over flows and intervals of each interval's mean; from Prometheus also "
                    f"what 99 in 100 are not above. {_TWO}",
                    "ms",
                    (
                        Series("mean", "iat_mean_ms", How.MEAN, by=("protocol",)),
                        Series(
                            "99 %",
                            "iat_ms",
                            How.PERCENTILE,
                            by=("protocol",),
                            only=("prometheus",),
                        ),
                    ),
                ),
                Panel(
                    "Jitter by protocol",
                    "Standard deviation of inter-arrival times: mean over flows and intervals, "
                    f"and the largest of any flow. {_TWO}",
                    "ms",
                    (
                        Series("mean", "jitter_ms", How.MEAN, by=("protocol",)),
                        Series("largest", "jitter_ms", How.LARGEST, by=("protocol",)),
                    ),
                ),
            ),
        ),
        Row(
            "Sequence errors",
            (
                Panel(
                    "Loss, %",
                    "Numbers (TCP: bytes) missing of those expected in an interval: mean over "
                    f"flows and intervals, and the largest of any flow. {_NUMBERS}",
                    "percentunit",
                    _loss(("protocol",)),
                ),
                Panel(
                    "Sequence errors by kind",
                    "Packets per second; reverse: number smaller than the one before (TCP: fills "
                    "a hole); small, big: numbers left out, up to the threshold and beyond it; "
                    f"duplicate: the same again. {_NUMBERS}",
                    "pps",
                    _errors(),
                ),
                Panel(
                    "Flows with most sequence errors",
                    f"In the time shown. {_NUMBERS}",
                    "none",
                    (Series("errors", "seq_errors", How.TOTAL, by=ENDS, top=TOP),),
                    Kind.TABLE,
                ),
            ),
        ),
    ),
)

FLOW = Board(
    name="flow",
    title="vtap: flow",
    doc="One flow, or those between two addresses: rates, delay variation, sequence numbers.",
    variables=("device", "interface", "direction", "protocol", "src_ip", "dst_ip"),
    annotated=True,
    rows=(
        Row(
            "Flow",
            (
                Panel(
                    "Throughput and goodput",
                    f"All flows chosen above together. {_IDLE}",
                    "bps",
                    _rates(),
                ),
                Panel(
                    "Throughput by ports",
                    f"One line for each flow. {_IDLE}",
                    "bps",
                    (Series("", "bytes", by=("src_port", "dst_port"), scale=BITS),),
                ),
                Panel(
                    "Packets",
                    f"Packets per second. {_IDLE}",
                    "pps",
                    (Series("packets", "packets"),),
                ),
                Panel(
                    "Inter-arrival time",
                    f"Mean of the intervals' means, and the longest single one. {_TWO}",
                    "ms",
                    (
                        Series("mean", "iat_mean_ms", How.MEAN),
                        Series("longest", "iat_max_ms", How.LARGEST),
                    ),
                ),
                Panel(
                    "Jitter",
                    f"Standard deviation of inter-arrival times. {_TWO}",
                    "ms",
                    (
                        Series("mean", "jitter_ms", How.MEAN),
                        Series("largest", "jitter_ms", How.LARGEST),
                    ),
                ),
                Panel(
                    "Loss, %",
                    "Numbers (TCP: bytes) missing of those expected in an interval: mean, and the "
                    f"largest. {_NUMBERS}",
                    "percentunit",
                    _loss(),
                ),
                Panel(
                    "Sequence errors by kind", f"Packets per second. {_NUMBERS}", "pps", _errors()
                ),
                Panel(
                    "Missing numbers",
                    "Numbers (TCP: bytes) never seen, since each flow began; the largest of the "
                    f"flows. {_NUMBERS}",
                    "none",
                    (Series("missing", "seq_missing", How.LARGEST),),
                ),
            ),
        ),
    ),
)


def _agent(field: str, label: str, how: How, whose: str) -> Series:
    return Series(label, field, how, by=("device", whose), measurement=AGENT)


HEALTH = Board(
    name="agent",
    title="vtap: agent",
    doc="Whether the figures are whole: what was seen, what arrived, what was lost, by name.",
    variables=("device",),
    measurement=AGENT,
    rows=(
        Row(
            "Collectors",
            (
                Panel(
                    "Collector up",
                    f"1, or 0 while it cannot be reached. {_AGENT}",
                    "none",
                    (_agent("up", "", How.LATEST, "sink"),),
                    Kind.STATE,
                ),
                Panel(
                    "Records lost by name",
                    "Records per second given up, by reason; each has a name because each has "
                    f"another cure (docs/accounting.md). {_AGENT}",
                    "cps",
                    tuple(_agent(f"lost_{n}", n, How.GROWTH, "sink") for n in LOSSES),
                    alarm=0.000001,
                ),
                Panel(
                    "Records handed and delivered",
                    f"Per second, by collector. {_AGENT}",
                    "cps",
                    (
                        _agent("records_handed", "handed", How.GROWTH, "sink"),
                        _agent("records_delivered", "delivered", How.GROWTH, "sink"),
                    ),
                ),
                Panel(
                    "Records that wait",
                    f"In memory, and on disk (--spool). {_AGENT}",
                    "none",
                    (
                        _agent("records_queued", "memory", How.LATEST, "sink"),
                        _agent("records_spooled", "disk", How.LATEST, "sink"),
                    ),
                ),
                Panel(
                    "Memory and disk that waiting takes",
                    _AGENT,
                    "bytes",
                    (
                        _agent("bytes_queued", "memory", How.LATEST, "sink"),
                        _agent("bytes_spooled", "disk", How.LATEST, "sink"),
                    ),
                ),
                Panel(
                    "Oldest record that waits",
                    f"Since it was handed over. {_AGENT}",
                    "ms",
                    (_agent("oldest_age_ms", "", How.LATEST, "sink"),),
                ),
                Panel(
                    "Sent again",
                    f"Records per second in payloads sent once more. {_AGENT}",
                    "cps",
                    (_agent("records_retried", "", How.GROWTH, "sink"),),
                ),
            ),
        ),
        Row(
            "Packets",
            (
                Panel(
                    "Packets seen",
                    f"Per second, by interface. {_AGENT}",
                    "pps",
                    (_agent("seen_packets", "", How.GROWTH, "interface"),),
                ),
                Panel(
                    "Packets not counted",
                    f"Per second, by reason (docs/accounting.md). {_AGENT}",
                    "pps",
                    tuple(_agent(f"{n}_packets", n, How.GROWTH, "interface") for n in EXITS),
                ),
                Panel(
                    "Summaries that had to wait",
                    f"Times per second that the ring buffer was full; loses nothing. {_AGENT}",
                    "cps",
                    (_agent("ring_full", "", How.GROWTH, "interface"),),
                ),
            ),
        ),
    ),
)


def _drops(*by: str) -> Series:
    return Series("", "count", by=by, measurement=DROPS)


TRAPS = Board(
    name="drops",
    title="vtap: traps and drops",
    doc="What the hardware, the driver or the kernel threw away, and why.",
    variables=("device", "interface"),
    measurement=DROPS,
    rows=(
        Row(
            "Traps and drops",
            (
                Panel(
                    "By reason",
                    f"Packets per second. {_NO_DROPS}",
                    "pps",
                    (_drops("dropReason"),),
                    Kind.STACKED,
                ),
                Panel(
                    "By severity",
                    f"Packets per second. {_NO_DROPS}",
                    "pps",
                    (_drops("severity"),),
                    Kind.STACKED,
                ),
                Panel(
                    "By interface",
                    f"Packets per second. {_NO_DROPS}",
                    "pps",
                    (_drops("ingressPort"),),
                    Kind.STACKED,
                ),
                Panel(
                    "Reasons",
                    f"Packets in the time shown. {_NO_DROPS}",
                    "none",
                    (
                        Series(
                            "packets",
                            "count",
                            How.TOTAL,
                            by=("dropReason", "dropType", "severity", "ingressPort"),
                            measurement=DROPS,
                            top=TOP,
                        ),
                    ),
                    Kind.TABLE,
                ),
            ),
        ),
    ),
)


def _stages(field: str, how: How) -> Series:
    return Series("", field, how, by=("stage",), measurement=LATENCY)


RECEIVE = Board(
    name="latency",
    title="vtap: receive latency",
    doc="How long packets take from the network card's driver to the application, by stage.",
    variables=("device", "interface", "stage"),
    measurement=LATENCY,
    rows=(
        Row(
            "Receive latency",
            (
                Panel(
                    "Mean",
                    "Since the receive timestamp; what two stages differ by lies between them. "
                    f"{_NO_LATENCY}",
                    "ms",
                    (_stages("mean_ms", How.MEAN),),
                ),
                Panel(
                    "99 of 100 packets",
                    f"No more than one packet in a hundred took longer. {_NO_LATENCY}",
                    "ms",
                    (_stages("p99_ms", How.LARGEST),),
                ),
                Panel(
                    "Median",
                    f"Half of the packets took longer. {_NO_LATENCY}",
                    "ms",
                    (_stages("p50_ms", How.MEAN),),
                ),
                Panel(
                    "Packets",
                    f"Packets per second that were measured. {_NO_LATENCY}",
                    "pps",
                    (Series("", "count", by=("stage", "protocol"), measurement=LATENCY),),
                ),
            ),
        ),
        Row(
            "Distribution",
            (
                Panel(
                    "Heat map: $stage",
                    "Packets by latency and time: the brighter, the more of them took so long. Two "
                    f"bands are two ways through the kernel, or two readers. {_NO_LATENCY}",
                    "s",
                    (
                        Series(
                            "",
                            "",
                            How.BUCKETS,
                            measurement=LATENCY,
                            only=("prometheus",),
                        ),
                    ),
                    Kind.HEAT,
                    each="stage",
                ),
            ),
        ),
    ),
)


def _destinations(field: str, how: How = How.MEAN) -> Series:
    by = ("dst_ip", "protocol", "side")
    return Series("", field, how, by=by, measurement=RTT)


TRIPS = Board(
    name="rtt",
    title="vtap: round-trip times",
    doc="How long answers take, from here to their sender and back, by who answers.",
    variables=("device", "interface", "side"),
    measurement=RTT,
    rows=(
        Row(
            "Round-trip times",
            (
                Panel("Mean", f"Of all samples. {_NO_RTT}", "ms", (_destinations("rtt_mean_ms"),)),
                Panel(
                    "Shortest",
                    "What the way takes without queues, if anything came through without. "
                    f"{_NO_RTT}",
                    "ms",
                    (_destinations("rtt_min_ms"),),
                ),
                Panel(
                    "Median",
                    f"Half of the answers took longer. {_NO_RTT}",
                    "ms",
                    (_destinations("rtt_p50_ms"),),
                ),
                Panel(
                    "99 of 100 answers",
                    f"No more than one answer in a hundred took longer. {_NO_RTT}",
                    "ms",
                    (_destinations("rtt_p99_ms", How.LARGEST),),
                ),
                Panel(
                    "Jitter",
                    f"What two that follow one another in a connection differ by. {_NO_RTT}",
                    "ms",
                    (_destinations("rtt_jitter_ms"),),
                ),
                Panel(
                    "Handshake",
                    "From SYN to SYN-ACK, and from that to the answer to it. "
                    f"Empty also where no connection begins. {_NO_RTT}",
                    "ms",
                    (_destinations("rtt_handshake_ms"),),
                ),
            ),
        ),
        Row(
            "Samples",
            (
                Panel(
                    "Samples",
                    f"Answers per second that were measured. {_NO_RTT}",
                    "short",
                    (
                        Series(
                            "", "rtt_count", by=("protocol", "side", "interface"), measurement=RTT
                        ),
                    ),
                ),
                Panel(
                    "Dropped",
                    "Probes per second that were dropped: sent again, reset, or covered by an "
                    f"acknowledgement of more. {_NO_RTT}",
                    "short",
                    (_destinations("rtt_invalidated", How.RATE),),
                ),
                Panel(
                    "Heat map: $side",
                    "Answers by how long they took, and time: the brighter, the more of them. Two "
                    f"bands are two ways, or two kinds of destinations. {_NO_RTT}",
                    "s",
                    (Series("", "", How.BUCKETS, measurement=RTT, only=("prometheus",)),),
                    Kind.HEAT,
                    each="side",
                ),
            ),
        ),
    ),
)

BOARDS = (TRAFFIC, FLOW, HEALTH, TRAPS, RECEIVE, TRIPS)
