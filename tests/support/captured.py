# SPDX-License-Identifier: Apache-2.0
"""The packets of a capture, taken apart by scapy and dpkt."""

from __future__ import annotations

import ipaddress
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
    data: bytes
    """What is behind the transport header, as far as captured; empty in later fragments."""
    segment: tuple[int, int] | None
    """Sequence number and flags of a TCP segment."""


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
    payload, data, segment = size, b"", None
    if not later:
        transport = bytes(ip.data)
        if protocol in (6, 17, 132, 136):
            ports = (
                str(int.from_bytes(transport[0:2])),
                str(int.from_bytes(transport[2:4])),
            )
        payload = size - {
            1: 8,
            6: (transport[12] >> 4) * 4 if protocol == 6 else 0,
            17: 8,
            58: 8,
            132: 12,  # SCTP
            136: 8,  # UDP-Lite
        }.get(protocol, 0)
        data = transport[size - payload :]
        if protocol == 6:
            segment = int.from_bytes(transport[4:8]), transport[13]
    flow = Flow(
        str(ipaddress.ip_address(ip.src)),
        str(ipaddress.ip_address(ip.dst)),
        *ports,
        _NAMES.get(protocol, str(protocol)),
    )
    return Packet(when, flow, length, payload, vlan, data, segment)
