# SPDX-License-Identifier: Apache-2.0
"""A capture's TCP segments for the judge of round-trip times, and what tshark says of them."""

from __future__ import annotations

import ipaddress
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import dpkt
from roundtrips import End, Segment
from scapy.utils import RawPcapReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from roundtrips import Sample

NS = 10**9
_FIELDS = ("ip.src", "ipv6.src", "ip.dst", "ipv6.dst", "tcp.srcport", "tcp.dstport")


class Captured(NamedTuple):
    """A captured packet: when (ns), the MAC address that sent it, and its IP packet."""

    time: int
    sender: bytes
    ip: dpkt.ip.IP | dpkt.ip6.IP6


class Answer(NamedTuple):
    """An acknowledgement: of whom to whom, and its number."""

    source: End
    target: End
    number: int


def captured(path: Path) -> Iterator[Captured]:
    """The IP packets of a nanosecond capture, in its order."""
    with RawPcapReader(str(path)) as reader:
        assert reader.nano
        for frame, about in reader:
            ether = dpkt.ethernet.Ethernet(frame)
            if isinstance(ether.data, dpkt.ip.IP | dpkt.ip6.IP6):
                yield Captured(about.sec * NS + about.usec, ether.src, ether.data)


def segments(path: Path, mac: str) -> list[Segment]:
    """The TCP segments; those that the interface with that MAC address sent leave there."""
    ours = bytes.fromhex(mac.replace(":", ""))
    read = ((_segment(packet, packet.sender == ours)) for packet in captured(path))
    return [segment for segment in read if segment]


def _segment(packet: Captured, leaves: bool) -> Segment | None:  # noqa: FBT001 - by name it is
    ip, size = packet.ip, 0
    if isinstance(ip, dpkt.ip.IP):
        size = ip.len - ip.hl * 4
    else:
        size = ip.plen - sum(len(header) for header in ip.all_extension_headers)
    if ip.p != dpkt.ip.IP_PROTO_TCP:
        return None
    head = bytes(ip.data)
    flags = head[13]
    source, target = (str(ipaddress.ip_address(address)) for address in (ip.src, ip.dst))
    return Segment(
        time=packet.time,
        source=End(source, int.from_bytes(head[0:2])),
        target=End(target, int.from_bytes(head[2:4])),
        sequence=int.from_bytes(head[4:8]),
        acknowledges=int.from_bytes(head[8:12]) if flags & dpkt.tcp.TH_ACK else None,
        length=size - (head[12] >> 4) * 4,
        syn=bool(flags & dpkt.tcp.TH_SYN),
        fin=bool(flags & dpkt.tcp.TH_FIN),
        rst=bool(flags & dpkt.tcp.TH_RST),
        leaves=leaves,
        stamps=_stamps(head[20 : (head[12] >> 4) * 4]),
    )


def _stamps(options: bytes) -> tuple[int, int] | None:
    """Out of TCP's options: RFC 7323, section 3.2."""
    for kind, value in dpkt.tcp.parse_opts(options):
        if kind == dpkt.tcp.TCP_OPT_TIMESTAMP and len(value) == 8:
            return int.from_bytes(value[:4]), int.from_bytes(value[4:])
    return None


def answer(sample: Sample) -> Answer:
    """What made a sample."""
    return Answer(sample.target, sample.source, sample.number)


def by_tshark(path: Path) -> dict[Answer, list[float]]:
    """Of each acknowledgement the round-trip times that tshark has for it, ns."""
    command = ["tshark", "-n", "-r", str(path), "-o", "tcp.relative_sequence_numbers:false"]
    command += ["-Y", "tcp.analysis.ack_rtt", "-T", "fields"]
    for name in (*_FIELDS, "tcp.ack", "tcp.analysis.ack_rtt"):
        command += ["-e", name]
    # its warning that it runs as root goes with its errors
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[Answer, list[float]] = {}
    for line in said.splitlines():
        src4, src6, dst4, dst6, sport, dport, number, seconds = line.split("\t")
        source, target = End(src4 or src6, int(sport)), End(dst4 or dst6, int(dport))
        found.setdefault(Answer(source, target, int(number)), []).append(float(seconds) * NS)
    return found
