# SPDX-License-Identifier: Apache-2.0
"""The records of `vtap-stream -f json` as types, for programs that read them.

Made by `make docs` from the declarations of the probes; do not edit.
"""

from typing import Literal, NotRequired, TypedDict


class VtapFlow(TypedDict):
    """One record per flow and interval in which the flow had a packet."""

    name: Literal["vtap_flow"]
    device: str
    direction: str
    dst_ip: NotRequired[str]
    dst_port: NotRequired[str]
    interface: str
    protocol: NotRequired[str]
    src_ip: NotRequired[str]
    src_port: NotRequired[str]
    tunnel_id: NotRequired[str]
    vlan: NotRequired[str]
    jitter_interval_s: NotRequired[float]
    packets: NotRequired[int]
    bytes: NotRequired[int]
    payload_bytes: NotRequired[int]
    throughput_bytes_per_second: NotRequired[float]
    goodput_bytes_per_second: NotRequired[float]
    iat_mean_ms: NotRequired[float]
    jitter_ms: NotRequired[float]
    iat_min_ms: NotRequired[float]
    iat_max_ms: NotRequired[float]
    iat_deviation_ms: NotRequired[float]
    jitter_rfc3550_ms: NotRequired[float]
    seq_last: NotRequired[int]
    seq_received: NotRequired[int]
    seq_reverse: NotRequired[int]
    seq_small: NotRequired[int]
    seq_big: NotRequired[int]
    seq_duplicate: NotRequired[int]
    seq_errors: NotRequired[int]
    seq_missing: NotRequired[int]
    seq_restarts: NotRequired[int]
    loss_ratio: NotRequired[float]
    rtt_count: NotRequired[int]
    rtt_min_ms: NotRequired[float]
    rtt_mean_ms: NotRequired[float]
    rtt_max_ms: NotRequired[float]
    rtt_jitter_ms: NotRequired[float]
    rtt_handshake_ms: NotRequired[float]
    rtt_invalidated: NotRequired[int]
    timestamp: int | str
    throughput_bits_per_second: NotRequired[float]
    goodput_bits_per_second: NotRequired[float]


class VtapSequenceError(TypedDict):
    """One record per sequence error, at most `--max-events` a second; only where …."""

    name: Literal["vtap_sequence_error"]
    device: str
    direction: str
    dst_ip: NotRequired[str]
    dst_port: NotRequired[str]
    interface: str
    kind: str
    protocol: NotRequired[str]
    src_ip: NotRequired[str]
    src_port: NotRequired[str]
    tunnel_id: NotRequired[str]
    vlan: NotRequired[str]
    expected: int
    received: int
    distance: int
    timestamp: int | str


class DroppedPacketsPacketEthernet(TypedDict):
    """What `DroppedPacketsPacketEthernet` says."""

    etherTypeName: NotRequired[str]
    etherType: NotRequired[int]
    vlanId: NotRequired[int]
    pcp: NotRequired[int]
    outerVlanId: NotRequired[int]
    outerPcp: NotRequired[int]
    srcMac: NotRequired[str]
    dstMac: NotRequired[str]


class DroppedPacketsPacketIp(TypedDict):
    """What `DroppedPacketsPacketIp` says."""

    srcIp: NotRequired[str]
    dstIp: NotRequired[str]
    protocol: NotRequired[int]
    protocolName: NotRequired[str]
    length: NotRequired[int]
    tos: NotRequired[int]
    ttl: NotRequired[int]


class DroppedPacketsPacketTransport(TypedDict):
    """What `DroppedPacketsPacketTransport` says."""

    srcPort: NotRequired[int]
    tcpFlags: NotRequired[int]
    dstPort: NotRequired[int]


class DroppedPacketsPacketIcmp(TypedDict):
    """What `DroppedPacketsPacketIcmp` says."""

    type: NotRequired[int]
    code: NotRequired[int]


class DroppedPacketsPacketOuterIp(TypedDict):
    """What `DroppedPacketsPacketOuterIp` says."""

    encapsulation: NotRequired[str]
    srcIp: NotRequired[str]
    dstIp: NotRequired[str]


class DroppedPacketsPacket(TypedDict):
    """What `DroppedPacketsPacket` says."""

    packetType: str
    ETHERNET: NotRequired[DroppedPacketsPacketEthernet]
    IP: NotRequired[DroppedPacketsPacketIp]
    TRANSPORT: NotRequired[DroppedPacketsPacketTransport]
    ICMP: NotRequired[DroppedPacketsPacketIcmp]
    OUTER_IP: NotRequired[DroppedPacketsPacketOuterIp]


class DroppedPackets(TypedDict):
    """One record per trapped or dropped packet, or for several of one cause."""

    name: Literal["DroppedPackets"]
    deviceIP: str
    dropReason: str
    dropType: str
    ingressPort: str
    message: str
    severity: str
    count: int
    bytes: int
    duration: NotRequired[float]
    description: str
    recordKind: str
    trapName: str
    trapGroup: str
    location: NotRequired[str]
    netns: NotRequired[int]
    packet: NotRequired[DroppedPacketsPacket]
    timestamp: str


class VtapLatency(TypedDict):
    """With `--probe latency`, one record per interface, stage and protocol, and …."""

    name: Literal["vtap_latency"]
    device: str
    interface: str
    stage: str
    protocol: str
    cgroup: str
    netns: str
    dst_port: str
    count: int
    min_ms: NotRequired[float]
    mean_ms: NotRequired[float]
    max_ms: NotRequired[float]
    p50_ms: NotRequired[float]
    p90_ms: NotRequired[float]
    p99_ms: NotRequired[float]
    p999_ms: NotRequired[float]
    timestamp: int | str


class VtapRtt(TypedDict):
    """With `--probe rtt`, one record per interface, side, protocol, `--rtt-key` and …."""

    name: Literal["vtap_rtt"]
    device: str
    dst_ip: str
    dst_net: str
    dst_port: NotRequired[str]
    interface: str
    protocol: str
    side: str
    src_ip: str
    src_net: str
    src_port: NotRequired[str]
    vlan: NotRequired[str]
    rtt_count: int
    rtt_min_ms: NotRequired[float]
    rtt_mean_ms: NotRequired[float]
    rtt_max_ms: NotRequired[float]
    rtt_jitter_ms: NotRequired[float]
    rtt_p50_ms: NotRequired[float]
    rtt_p90_ms: NotRequired[float]
    rtt_p99_ms: NotRequired[float]
    rtt_handshake_ms: NotRequired[float]
    rtt_invalidated: int
    timestamp: int | str


class VtapAgentInterface(TypedDict):
    """One record per interface and interval: what became of its packets up to the …."""

    name: Literal["vtap_agent"]
    device: str
    interface: str
    seen_packets: int
    seen_bytes: int
    counted_packets: int
    counted_bytes: int
    not_ip_packets: int
    not_ip_bytes: int
    malformed_packets: int
    malformed_bytes: int
    filtered_packets: int
    filtered_bytes: int
    no_flow_packets: int
    no_flow_bytes: int
    truncated_packets: int
    truncated_bytes: int
    flows_begun: int
    evicted_packets: int
    evicted_bytes: int
    stranded_packets: int
    stranded_bytes: int
    held_packets: int
    held_bytes: int
    summaries_handed: int
    packets_handed: int
    bytes_handed: int
    ring_full: int
    events_handed: NotRequired[int]
    events_suppressed: NotRequired[int]
    timestamp: int | str


class VtapAgentProbe(TypedDict):
    """With `--probe drops` and `--probe traps`, one record for each and interval: …."""

    name: Literal["vtap_agent"]
    device: str
    probe: str
    seen_packets: int
    events_packets: int
    aggregated_packets: int
    suppressed_packets: int
    left_out_packets: int
    elsewhere_packets: int
    no_packet_packets: int
    missed_packets: int
    records_handed: int
    packets_handed: int
    timestamp: int | str


class VtapAgentStage(TypedDict):
    """With `--probe latency`, one record for each stage and interval: what became of …."""

    name: Literal["vtap_agent"]
    device: str
    stage: str
    seen_packets: int
    measured_packets: int
    unstamped_packets: int
    delivery_packets: int
    blocked_packets: int
    negative_packets: int
    other_packets: int
    missed_packets: int
    records_handed: int
    packets_handed: int
    timestamp: int | str


class VtapAgentProtocol(TypedDict):
    """With `--probe rtt`, one record for each protocol and interval: what became of …."""

    name: Literal["vtap_agent"]
    device: str
    protocol: str
    seen_packets: int
    no_room: int
    probes_set: int
    samples: int
    invalidated: int
    stretched: int
    evicted: int
    unanswered: int
    one_way: int
    waiting: int
    samples_handed: int
    samples_lost: int
    samples_held: int
    records_handed: int
    timestamp: int | str


class VtapAgentSink(TypedDict):
    """One record per sink and interval, also of `vtap_agent`: what became of the …."""

    name: Literal["vtap_agent"]
    device: str
    sink: str
    records_handed: int
    records_recovered: int
    records_delivered: int
    records_queued: int
    records_spooled: int
    records_lost: int
    records_retried: int
    packets_handed: int
    packets_recovered: int
    packets_delivered: int
    packets_queued: int
    packets_spooled: int
    packets_lost: int
    bytes_delivered: int
    lost_memory: int
    lost_undelivered: int
    lost_too_large: int
    lost_refused: int
    lost_failed: int
    lost_spool_full: int
    lost_spool_corrupt: int
    bytes_queued: int
    bytes_spooled: int
    bytes_retried: int
    oldest_age_ms: int
    up: int
    timestamp: int | str


Record = (
    VtapFlow
    | VtapSequenceError
    | DroppedPackets
    | VtapLatency
    | VtapRtt
    | VtapAgentInterface
    | VtapAgentProbe
    | VtapAgentStage
    | VtapAgentProtocol
    | VtapAgentSink
)
"""Any of them."""
