# SPDX-License-Identifier: Apache-2.0
"""What a capture says of flows and intervals, computed independently, with scapy and dpkt."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import dpkt
from scapy.utils import RawPcapReader

if TYPE_CHECKING:
    from pathlib import Path

NS = 10**9
_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


class Flow(NamedTuple):
    """What the default key tells apart."""

    src_ip: str
    dst_ip: str
    src_port: str | None
    dst_port: str | None
    protocol: str

    @classmethod
    def of(cls, record: dict[str, object]) -> Flow:
        """The flow of a record of `vtap_flow`."""
        return cls(*(record.get(name) for name in cls._fields))  # type: ignore[arg-type]


class Packet(NamedTuple):
    """One captured packet: time in ns since the epoch, sizes in bytes."""

    time: int
    flow: Flow
    bytes: int
    payload: int
    vlan: str | None


def packets(path: Path) -> list[Packet]:
    """The IP packets of a nanosecond capture, in order, with their lengths on the wire."""
    with RawPcapReader(str(path)) as reader:
        assert reader.nano
        found = [
            _packet((about.sec * NS + about.usec, about.wirelen), frame) for frame, about in reader
        ]
    return [packet for packet in found if packet]


def _packet(header: tuple[int, int], frame: bytes) -> Packet | None:
    when, length = header
    ether = dpkt.ethernet.Ethernet(frame)
    tags = [str(tag.id) for tag in getattr(ether, "vlan_tags", [])]
    vlan = ".".join(tags) or None
    ip = ether.data
    if isinstance(ip, dpkt.ip.IP):
        protocol, size, later = ip.p, ip.len - ip.hl * 4, ip.offset
    elif isinstance(ip, dpkt.ip6.IP6):
        extensions = sum(len(header) for header in ip.all_extension_headers)
        protocol, size = ip.p, ip.plen - extensions
        fragment = ip.extension_hdrs.get(dpkt.ip.IP_PROTO_FRAGMENT)
        later = bool(fragment and fragment.frag_off)
    else:
        return None
    ports: tuple[str | None, str | None] = (None, None)
    payload = size
    if not later:
        transport = bytes(ip.data)
        if protocol in (6, 17):
            ports = (
                str(int.from_bytes(transport[0:2])),
                str(int.from_bytes(transport[2:4])),
            )
        payload = size - {
            1: 8,
            6: (transport[12] >> 4) * 4 if protocol == 6 else 0,
            17: 8,
            58: 8,
        }.get(protocol, 0)
    flow = Flow(
        str(ipaddress.ip_address(ip.src)),
        str(ipaddress.ip_address(ip.dst)),
        *ports,
        _NAMES.get(protocol, str(protocol)),
    )
    return Packet(when, flow, length, payload, vlan)


class Summary(NamedTuple):
    """What one record of `vtap_flow` must say; times in ms."""

    packets: int
    bytes: int
    payload: int
    iat_mean: float | None
    jitter: float | None


def summaries(found: list[Packet], interval: int = NS) -> dict[tuple[Flow, int], Summary]:
    """By flow and end of the interval (ns since the epoch)."""
    groups: dict[tuple[Flow, int], list[tuple[Packet, int | None]]] = defaultdict(list)
    last: dict[Flow, int] = {}
    for packet in found:
        gap = packet.time - last[packet.flow] if packet.flow in last else None
        last[packet.flow] = packet.time
        end = (packet.time // interval + 1) * interval
        groups[packet.flow, end].append((packet, gap))
    result = {}
    for key, members in groups.items():
        gaps = [gap for _, gap in members if gap is not None and gap <= 2 * NS]
        mean = Fraction(sum(gaps), len(gaps)) if gaps else None
        jitter = None
        if mean is not None:
            variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
            jitter = float(variance) ** 0.5 / 1e6
        result[key] = Summary(
            len(members),
            sum(packet.bytes for packet, _ in members),
            sum(packet.payload for packet, _ in members),
            None if mean is None else float(mean) / 1e6,
            jitter,
        )
    return result
