# SPDX-License-Identifier: Apache-2.0
"""Frames that the kernel drops, why it does so, and what is to be told of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

A4, B4, A6, B6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
BEHIND, NOWHERE = "198.51.100.9", "203.0.113.9"
CLOSED, OPEN, FILTERED, SMALL = 9, 7001, 7002, 7003
UDP_LITE = 136
TOS = 0xB8  # of what the program at traffic control drops
DATA = Raw(b"drop" * 10)
EXTENSIONS = (IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting)
UDP_TO = {port: UDP(sport=4000 + port % 1000, dport=port) / DATA for port in (9, 7001, 7002, 7003)}


@dataclass(frozen=True)
class Case:
    """A frame that is sent COUNT times, all dropped for REASON."""

    reason: str
    frame: Packet
    count: int = 3


TO4 = IP(src=A4, dst=B4)
TO6 = IPv6(src=A6, dst=B6)
TC6 = IPv6(src=A6, dst=B6, tc=0x0B, fl=0x80000)  # the program takes bits of both for a TOS
CASES = {
    "closed port": Case("NO_SOCKET", TO4 / UDP_TO[CLOSED], 5),
    "closed port, IPv6": Case("NO_SOCKET", TO6 / UDP_TO[CLOSED]),
    "closed port, IPv6 options": Case(
        "NO_SOCKET", IPv6(src=A6, dst=B6, tc=0x28, hlim=7) / IPv6ExtHdrHopByHop() / UDP_TO[CLOSED]
    ),
    "closed port, TCP": Case("NO_SOCKET", TO4 / TCP(sport=4100, dport=CLOSED, flags="S")),
    "UDP checksum": Case("UDP_CSUM", TO4 / UDP(sport=4200, dport=OPEN, chksum=0x1234) / DATA),
    "TCP checksum": Case("TCP_CSUM", TO4 / TCP(sport=4201, dport=CLOSED, chksum=0x1234)),
    "ICMP checksum": Case("ICMP_CSUM", TO4 / ICMP(type=8, code=0, chksum=0x1234) / DATA),
    "IP checksum": Case("IP_CSUM", IP(src=A4, dst=B4, chksum=0x1234) / UDP_TO[OPEN]),
    "time to live": Case("IP_INHDR", IP(src=A4, dst=BEHIND, ttl=1, tos=0x20) / UDP_TO[OPEN]),
    "no route": Case("IP_INNOROUTES", IP(src=A4, dst=NOWHERE) / UDP_TO[OPEN]),
    "from our own address": Case("IP_LOCAL_SOURCE", IP(src=B4, dst=B4) / UDP_TO[OPEN]),
    "martian": Case("IP_INVALID_SOURCE", IP(src="255.255.255.255", dst=B4) / UDP_TO[OPEN]),
    "reverse path": Case("IP_RPFILTER", IP(src=NOWHERE, dst=B4) / UDP_TO[OPEN]),
    "netfilter": Case("NETFILTER_DROP", TO4 / UDP_TO[FILTERED], 4),
    "traffic control": Case("TC_INGRESS", IP(src=A4, dst=B4, tos=TOS) / UDP_TO[OPEN], 6),
    "one VLAN": Case("TC_INGRESS", Dot1Q(vlan=100, prio=5) / TO4 / UDP_TO[OPEN]),
    "two VLANs": Case(
        "TC_INGRESS", Dot1AD(vlan=200, prio=3) / Dot1Q(vlan=300, prio=6) / TO6 / UDP_TO[OPEN]
    ),
    "TCP flags": Case("TCP_FLAGS", TO4 / TCP(sport=4300, dport=OPEN, flags="SF")),
    "protocol": Case("IP_NOPROTO", IP(src=A4, dst=B4, proto=253) / DATA),
    "IP in IP": Case(
        "IP_NOPROTO", TO4 / IP(src="10.1.0.1", dst="10.1.0.2", tos=8, ttl=9) / UDP_TO[SMALL]
    ),
    "IPv6 in IP": Case("IP_NOPROTO", TO4 / IPv6(src="fd00::1", dst="fd00::2") / UDP_TO[SMALL]),
    "GRE": Case(
        "IP_NOPROTO", TO4 / GRE(key_present=1, key=7) / IP(src="10.2.0.1", dst="10.2.0.2") / TCP()
    ),
    "GRE with Ethernet": Case(
        "IP_NOPROTO",
        TO4 / GRE(proto=0x6558) / Ether() / Dot1Q(vlan=9) / TO6 / UDP_TO[CLOSED],
    ),
    "UDP-Lite": Case("TC_INGRESS", IP(src=A4, dst=B4, tos=TOS, proto=UDP_LITE) / UDP_TO[OPEN]),
    "IPv4 options": Case(
        "TC_INGRESS", IP(src=A4, dst=B4, tos=TOS, options=[IPOption_NOP()] * 8) / UDP_TO[OPEN]
    ),
    "first fragment": Case("TC_INGRESS", IP(src=A4, dst=B4, tos=TOS, flags="MF") / UDP_TO[OPEN]),
    "later fragment": Case(
        "TC_INGRESS", IP(src=A4, dst=B4, tos=TOS, frag=100, proto=17) / UDP_TO[OPEN]
    ),
    "cut off": Case("TC_INGRESS", IP(src=A4, dst=B4, tos=TOS, proto=17) / Raw(b"\x12\x34")),
    "ICMPv6": Case("TC_INGRESS", TC6 / ICMPv6EchoRequest()),
    "IPv6 extensions": Case(
        "TC_INGRESS",
        TC6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / UDP_TO[OPEN],
    ),
    "later fragment, IPv6": Case(
        "TC_INGRESS", TC6 / IPv6ExtHdrFragment(offset=9, nh=17) / UDP_TO[OPEN]
    ),
    "IPv6 in IPv6": Case("TC_INGRESS", TC6 / IPv6(src="fd00::3", dst="fd00::4") / UDP_TO[OPEN]),
    "IP in IPv6": Case("TC_INGRESS", TC6 / IP(src="10.3.0.1", dst="10.3.0.2", ttl=3) / ICMP()),
    "IP in IP in IP": Case(
        "TC_INGRESS",
        IP(src=A4, dst=B4, tos=TOS)
        / IP(src="10.4.0.1", dst="10.4.0.2")
        / IP(src="10.5.0.1", dst="10.5.0.2")
        / UDP_TO[OPEN],
    ),
    "GRE with all fields": Case(
        "TC_INGRESS",
        IP(src=A4, dst=B4, tos=TOS)
        / GRE(chksum_present=1, key_present=1, key=5, seqnum_present=1, sequence_number=3)
        / IPv6(src="fd00::5", dst="fd00::6")
        / UDP_TO[OPEN],
    ),
    "ethertype": Case("UNHANDLED_PROTO", Ether(type=0x88B5) / DATA),
}


def mac_of(number: int) -> str:
    """The source address by which the frames of case NUMBER are known."""
    return f"02:00:00:00:00:{number:02x}"


@cache
def build(destination: str) -> dict[str, bytes]:
    """The frames of all cases, to the interface with the address DESTINATION."""
    frames = {}
    for number, (name, case) in enumerate(CASES.items()):
        inner = case.frame
        if isinstance(inner, Ether):
            whole = Ether(src=mac_of(number), dst=destination, type=inner.type) / inner.payload
        else:
            whole = Ether(src=mac_of(number), dst=destination) / inner
        frames[name] = bytes(whole)
    return frames


def by_mac(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of dropped packets by their source address."""
    found = defaultdict(list)
    for record in records:
        if record["name"] == "DroppedPackets":
            found[record["packet"].get("ETHERNET", {}).get("srcMac", "")].append(record)
    return found


def _header(ip: Packet) -> dict[str, Any]:
    """What the record says of an IP header."""
    found = {"srcIp": ip.src, "dstIp": ip.dst}
    if isinstance(ip, IP):
        return found | {"protocol": ip.proto, "length": ip.len, "tos": ip.tos, "ttl": ip.ttl}
    protocol, inner = ip.nh, ip.payload
    while isinstance(inner, EXTENSIONS):
        protocol, inner = inner.nh, inner.payload
    return found | {"protocol": protocol, "length": ip.plen + 40, "tos": ip.tc, "ttl": ip.hlim}


def expected(frame: bytes) -> dict[str, Any]:
    """What the record of FRAME says of the packet, by scapy."""
    packet = Ether(frame)
    layers = [packet.getlayer(i) for i in range(len(packet.layers()))]
    tags = [layer for layer in layers if isinstance(layer, (Dot1Q, Dot1AD))]
    inside = next((i for i, layer in enumerate(layers) if isinstance(layer, GRE)), len(layers))
    tags = [tag for tag in tags if layers.index(tag) < inside]  # a tunnel's are not noted
    kind = tags[-1].type if tags else packet.type
    ethernet = {
        "etherTypeName": f"{kind:#x}",
        "etherType": kind,
        "srcMac": packet.src,
        "dstMac": packet.dst,
    }
    if tags:
        ethernet |= {"vlanId": tags[-1].vlan, "pcp": tags[-1].prio}
    if len(tags) > 1:
        ethernet |= {"outerVlanId": tags[0].vlan, "outerPcp": tags[0].prio}
    found: dict[str, Any] = {"ETHERNET": ethernet}
    ips = [layer for layer in layers if isinstance(layer, (IP, IPv6))]
    if ips:
        found["IP"] = _header(ips[-1])
    if len(ips) > 1:
        around = "gre" if inside < len(layers) else "ipip"
        found["OUTER_IP"] = {
            "encapsulation": around,
            "srcIp": ips[0].src,
            "dstIp": ips[0].dst,
        }
    last = packet.getlayer(TCP) or packet.getlayer(UDP)
    if ips and found["IP"]["protocol"] == UDP_LITE:
        last = UDP(bytes(ips[-1].payload))  # scapy does not know it; ports are where UDP has them
    if last:
        found["TRANSPORT"] = {"srcPort": last.sport, "dstPort": last.dport}
        if isinstance(last, TCP):
            found["TRANSPORT"]["tcpFlags"] = int(last.flags)
    if icmp := packet.getlayer(ICMP) or packet.getlayer(ICMPv6EchoRequest):
        found["ICMP"] = {"type": icmp.type, "code": icmp.code}
    return found


def check(events: list[dict[str, Any]], reason: str, frame: bytes, count: int) -> None:
    """COUNT events say that FRAME was dropped for REASON, and all that the packet says."""
    assert [event["trapName"] for event in events] == [reason] * count
    wanted = expected(frame)
    for event in events:
        packet = dict(event["packet"])
        packet.pop("packetType")
        packet["IP"] = {k: v for k, v in packet.get("IP", {}).items() if k != "protocolName"}
        assert {part: said for part, said in packet.items() if said} == wanted
        assert event["bytes"] == len(frame)
        assert (event["count"], event["recordKind"]) == (1, "event")
        assert event["ingressPort"] == "in0"
