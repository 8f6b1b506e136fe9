# SPDX-License-Identifier: Apache-2.0
"""What the kernel program makes of packets of every kind, one at a time."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from dissector import Not, Packet, dissect
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from program import LONGEST, LOOPBACK, NOT_LINEAR, Flow, FlowProgram, Outcome, Wire, settings
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    MIP6MH_BE,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from lab.namespace import Namespace
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.clock import NS
from trapstream_vtap.probes.flows import program as flow_probe
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

# The kernel takes the ethertype for programs of layer 3 from bytes 12 and 13, here of the address
SRC4, DST4 = IPv4Address("8.0.2.1"), IPv4Address("198.51.100.2")
SRC6, DST6 = IPv6Address("2001:db8:86dd::1"), IPv6Address("2001:db8::2")
PORTS = (4000, 53)
MACS = bytes.fromhex("020000000002 020000000001")

properties = hypothesis_settings(derandomize=True, deadline=None, max_examples=400)


# Frames, field by field


def ether(packet: bytes, ethertype: int = 0x0800, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet frame; TAGS: ethertype and tag control information of each."""
    tagged = b"".join(struct.pack(">HH", *tag) for tag in tags)
    return MACS + tagged + struct.pack(">H", ethertype) + packet


def ipv4(
    data: bytes,
    protocol: int = 17,
    *,
    options: bytes = b"",
    ihl: int | None = None,
    total: int | None = None,
    fragment: int = 0,
    version: int = 4,
) -> bytes:
    """An IPv4 packet; FRAGMENT: flags and offset."""
    ihl = 5 + len(options) // 4 if ihl is None else ihl
    total = 20 + len(options) + len(data) if total is None else total
    start = struct.pack(">BBHHHBBH", version << 4 | ihl, 0, total, 7, fragment, 64, protocol, 0)
    return start + SRC4.packed + DST4.packed + options + data


def ipv6(data: bytes, following: int = 17, *, length: int | None = None, version: int = 6) -> bytes:
    """An IPv6 packet."""
    length = len(data) if length is None else length
    start = struct.pack(">IHBB", version << 28, length, following, 64)
    return start + SRC6.packed + DST6.packed + data


def udp(data: bytes = b"") -> bytes:
    """A UDP datagram, or one of UDP-Lite."""
    return struct.pack(">HHHH", *PORTS, (8 + len(data)) % 0x10000, 0) + data


def tcp(data: bytes = b"", options: bytes = b"", *, offset: int | None = None) -> bytes:
    """A TCP segment."""
    offset = 5 + len(options) // 4 if offset is None else offset
    return struct.pack(">HHIIBBHHH", *PORTS, 1, 2, offset << 4, 16, 3, 0, 0) + options + data


def sctp(data: bytes = b"") -> bytes:
    """An SCTP packet."""
    return struct.pack(">HHII", *PORTS, 1, 0) + data


def icmp(data: bytes = b"") -> bytes:
    """An echo request of ICMP, or alike."""
    return b"\x08\0\0\0\0\1\0\2" + data


def extension(following: int, data: bytes = b"", size: int = 8, length: int | None = None) -> bytes:
    """An IPv6 extension header of SIZE bytes and what is behind it."""
    length = size // 8 - 1 if length is None else length
    return bytes((following, length)).ljust(size, b"\1") + data


def fragment6(following: int, data: bytes, offset: int = 0, *, more: bool = True) -> bytes:
    """An IPv6 fragment header, OFFSET in units of 8 bytes, and what is behind it."""
    return struct.pack(">BBHI", following, 0, offset << 3 | more, 9) + data


def chain(kinds: list[int], data: bytes, last: int = 17) -> tuple[bytes, int]:
    """DATA behind extension headers of KINDS, and the type of the first."""
    for kind in reversed(kinds):
        data, last = extension(last, data), kind
    return data, last


HOP, ROUTING, AH, DESTINATION, MOBILITY, HIP, SHIM6 = 0, 43, 51, 60, 135, 139, 140
PLAIN = {
    "hop-by-hop": HOP,
    "routing": ROUTING,
    "destination": DESTINATION,
    "mobility": MOBILITY,
    "HIP": HIP,
    "shim6": SHIM6,
}
Q, AD, OLD = 0x8100, 0x88A8, 0x9100
X11 = b"x" * 11
SNAP = b"\xaa\xaa\x03\0\0\0\x08\0"

# name: frame, its length, protocol, ports, length of what is behind the transport header, VLAN ids
COUNTED = {
    "UDP": (ether(ipv4(udp(X11))), 53, 17, PORTS, 11, ()),
    "UDP without payload": (ether(ipv4(udp())), 42, 17, PORTS, 0, ()),
    "TCP": (ether(ipv4(tcp(X11), 6)), 65, 6, PORTS, 11, ()),
    "TCP with options": (ether(ipv4(tcp(X11, bytes(12)), 6)), 77, 6, PORTS, 11, ()),
    "TCP, 40 bytes of options": (ether(ipv4(tcp(b"", bytes(40)), 6)), 94, 6, PORTS, 0, ()),
    "SCTP": (ether(ipv4(sctp(X11), 132)), 57, 132, PORTS, 11, ()),
    "UDP-Lite": (ether(ipv4(udp(X11), 136)), 53, 136, PORTS, 11, ()),
    "ICMP": (ether(ipv4(icmp(X11), 1)), 53, 1, None, 11, ()),
    "GRE": (ether(ipv4(bytes(4) + X11, 47)), 49, 47, None, 15, ()),
    "protocol 255, nothing behind": (ether(ipv4(b"", 255)), 34, 255, None, 0, ()),
    "ESP": (ether(ipv4(bytes(32), 50)), 66, 50, None, 32, ()),
    "AH": (ether(ipv4(extension(6, tcp(X11), 24, length=4), 51)), 89, 6, PORTS, 11, ()),
    "later fragment of AH": (ether(ipv4(X11, 51, fragment=1)), 45, 51, None, 11, ()),
    "UDP shorter than IP": (ether(ipv4(udp(X11) + bytes(9))), 62, 17, PORTS, 11, ()),
    "UDP shorter than IP, of nothing": (ether(ipv4(udp() + bytes(9))), 51, 17, PORTS, 0, ()),
    "UDP cut behind its end": (ether(ipv4(udp(X11), total=60)), 53, 17, PORTS, 11, ()),
    "UDP-Lite, 8 bytes covered": (
        ether(ipv4(struct.pack(">HHHH", *PORTS, 8, 0) + X11, 136)), 53, 136, PORTS, 11, (),
    ),
    "IPv4 first fragment of a long datagram": (
        ether(ipv4(udp(bytes(3000))[:64], fragment=0x2000)), 98, 17, PORTS, 56, (),
    ),
    "IPv4 first fragment, 8 bytes of TCP": (
        ether(ipv4(tcp(X11)[:8], 6, fragment=0x2000)), 42, 6, PORTS, 0, (),
    ),
    "IPv4 first fragment, padded, 16 bytes of TCP": (
        ether(ipv4(tcp(X11)[:16], 6, fragment=0x2000)).ljust(60, b"\7"), 60, 6, PORTS, 0, (),
    ),
    "IPv4 first fragment within TCP's options": (
        ether(ipv4(tcp(X11, bytes(12))[:24], 6, fragment=0x2000)), 58, 6, PORTS, 0, (),
    ),
    "LLC and SNAP": (ether(SNAP + ipv4(udp(X11)), 47), 61, 17, PORTS, 11, ()),
    "LLC and SNAP, VLAN, IPv6": (
        ether(SNAP[:6] + b"\x86\xdd" + ipv6(udp(X11)), 67, ((Q, 5),)), 85, 17, PORTS, 11, (5,),
    ),
    "VN-tag": (ether(bytes(4) + b"\x08\0" + ipv4(udp(X11)), 0x8926), 59, 17, PORTS, 11, ()),
    "VN-tag and VLAN": (
        ether(b"\x80\1\0\2" + struct.pack(">HHH", Q, 9, 0x0800) + ipv4(udp(X11)), 0x8926),
        63, 17, PORTS, 11, (9,),
    ),
    "802.1ah": (
        ether(bytes(16) + struct.pack(">HHH", Q, 9, 0x0800) + ipv4(udp(X11)), 0x88E7, ((AD, 7),)),
        79, 17, PORTS, 11, (7, 9),
    ),
    "MPLS": (ether(b"\0\1\1\xff" + ipv4(udp(X11)), 0x8847), 57, 17, PORTS, 11, ()),
    "MPLS, four labels, IPv6": (
        ether(b"\0\1\0\xff" * 3 + b"\0\2\1\xff" + ipv6(udp(X11)), 0x8848), 89, 17, PORTS, 11, (),
    ),
    "PPPoE": (
        ether(b"\x11\0\0\1\0\x29\0\x21" + ipv4(udp(X11)), 0x8864, ((Q, 6),)),
        65, 17, PORTS, 11, (6,),
    ),
    "PPPoE, IPv6": (
        ether(b"\x11\0\0\1\0\x3d\0\x57" + ipv6(udp(X11)), 0x8864), 81, 17, PORTS, 11, (),
    ),
    "IPv4 options": (ether(ipv4(udp(X11), options=bytes(8))), 61, 17, PORTS, 11, ()),
    "IPv4, 40 bytes of options": (ether(ipv4(udp(X11), options=bytes(40))), 93, 17, PORTS, 11, ()),
    "do not fragment": (ether(ipv4(udp(X11), fragment=0x4000)), 53, 17, PORTS, 11, ()),
    "IPv4 first fragment": (ether(ipv4(udp(X11), fragment=0x2000)), 53, 17, PORTS, 11, ()),
    "IPv4 later fragment": (ether(ipv4(X11, fragment=0x2001)), 45, 17, None, 11, ()),
    "IPv4 last fragment of TCP": (ether(ipv4(X11, 6, fragment=0x1FFF)), 45, 6, None, 11, ()),
    "padded to 60": (ether(ipv4(udp(b"ab"))).ljust(60, b"\0"), 60, 17, PORTS, 2, ()),
    "padded, nothing behind TCP": (ether(ipv4(tcp(), 6)).ljust(60, b"\7"), 60, 6, PORTS, 0, ()),
    "padded fragment": (ether(ipv4(b"ab", fragment=5)).ljust(60, b"\7"), 60, 17, None, 2, ()),
    "VLAN": (ether(ipv4(udp(X11)), tags=((Q, 0x2005),)), 57, 17, PORTS, 11, (5,)),
    "VLAN 0": (ether(ipv4(udp(X11)), tags=((Q, 0xE000),)), 57, 17, PORTS, 11, (0,)),
    "VLAN 4095": (ether(ipv4(udp(X11)), tags=((Q, 0xFFFF),)), 57, 17, PORTS, 11, (4095,)),
    "802.1ad": (ether(ipv4(udp(X11)), tags=((AD, 5),)), 57, 17, PORTS, 11, (5,)),
    "QinQ": (ether(ipv4(udp(X11)), tags=((AD, 100), (Q, 7))), 61, 17, PORTS, 11, (100, 7)),
    "old QinQ": (ether(ipv4(udp(X11)), tags=((OLD, 1), (OLD, 2))), 61, 17, PORTS, 11, (1, 2)),
    "QinQ, IPv6": (
        ether(ipv6(udp(X11)), 0x86DD, ((Q, 4095), (Q, 0))), 81, 17, PORTS, 11, (4095, 0),
    ),
    "IPv6 UDP": (ether(ipv6(udp(X11)), 0x86DD), 73, 17, PORTS, 11, ()),
    "IPv6 TCP": (ether(ipv6(tcp(X11), 6), 0x86DD), 85, 6, PORTS, 11, ()),
    "ICMPv6": (ether(ipv6(icmp(X11), 58), 0x86DD), 73, 58, None, 11, ()),
    **{
        f"IPv6 {name}, nothing behind": (
            ether(ipv6(extension(59, b"", 16), kind), 0x86DD), 70, kind, None, 0, (),
        )
        for name, kind in (("mobility", MOBILITY), ("HIP", HIP), ("shim6", SHIM6))
    },
    "IPv6 first fragment, 8 bytes of TCP": (
        ether(ipv6(fragment6(6, tcp(X11)[:8]), 44), 0x86DD), 70, 6, PORTS, 0, (),
    ),
    "IPv6 no next header": (ether(ipv6(X11, 59), 0x86DD), 65, 59, None, 11, ()),
    "IPv6 nothing behind": (ether(ipv6(b"", 59), 0x86DD), 54, 59, None, 0, ()),
    "IPv6 ESP": (ether(ipv6(bytes(32), 50), 0x86DD), 86, 50, None, 32, ()),
    "IPv6 padded": (ether(ipv6(b"", 59), 0x86DD) + b"\7" * 9, 63, 59, None, 0, ()),
    **{
        f"IPv6 {name}": (ether(ipv6(extension(17, udp(X11)), kind), 0x86DD), 81, 17, PORTS, 11, ())
        for name, kind in PLAIN.items()
    },
    **{
        f"IPv6 long {name}": (
            ether(ipv6(extension(17, udp(X11), 2048), kind), 0x86DD), 2121, 17, PORTS, 11, (),
        )
        for name, kind in PLAIN.items()
    },
    "IPv6 AH": (
        ether(ipv6(extension(6, tcp(X11), 24, length=4), AH), 0x86DD), 109, 6, PORTS, 11, (),
    ),
    "IPv6 longest AH": (
        ether(ipv6(extension(6, tcp(X11), 1028, length=255), AH), 0x86DD), 1113, 6, PORTS, 11, (),
    ),
    "IPv6 first fragment": (
        ether(ipv6(fragment6(17, udp(X11)), 44), 0x86DD), 81, 17, PORTS, 11, (),
    ),
    "IPv6 whole fragment": (
        ether(ipv6(fragment6(17, udp(X11), more=False), 44), 0x86DD), 81, 17, PORTS, 11, (),
    ),
    "IPv6 fragment's reserved bits": (
        ether(ipv6(b"\x11\xff\0\x06\0\0\0\1" + udp(X11), 44), 0x86DD), 81, 17, PORTS, 11, (),
    ),
    "IPv6 later fragment": (ether(ipv6(fragment6(17, X11, 1), 44), 0x86DD), 73, 17, None, 11, ()),
    "IPv6 later fragment, extension inside": (
        ether(ipv6(fragment6(DESTINATION, X11, 1), 44), 0x86DD), 73, 60, None, 11, (),
    ),
    "IPv6 extension ahead of later fragment": (
        ether(ipv6(extension(44, fragment6(6, X11, 8191)), HOP), 0x86DD), 81, 6, None, 11, (),
    ),
    "IPv6 eight extension headers": (
        ether(ipv6(*chain([HOP, DESTINATION, ROUTING, MOBILITY] * 2, udp(X11))), 0x86DD),
        137, 17, PORTS, 11, (),
    ),
}  # fmt: skip

NOT_IP = {
    "ARP": ether(bytes.fromhex("0001080006040001") + bytes(20), 0x0806),
    "LLDP": ether(bytes.fromhex("0207040200000000010403020000010602003c0000"), 0x88CC),
    "IEEE 802.3 with LLC": ether(bytes.fromhex("424203") + bytes(35), 38),
    "LLC and SNAP of another organization": ether(b"\xaa\xaa\x03\0\0\x0c\x08\0" + ipv4(udp()), 36),
    "LLC and SNAP of ARP": ether(SNAP[:6] + b"\x08\6" + bytes(28), 36),
    "MPLS of a pseudowire": ether(b"\0\1\1\xff" + bytes(4) + ether(ipv4(udp())), 0x8847),
    "MPLS, five labels": ether(b"\0\1\0\xff" * 4 + b"\0\1\1\xff" + ipv4(udp()), 0x8847),
    "MPLS, cut off": ether(b"\0\1\1\xff", 0x8847),
    "PPPoE, not a session's": ether(b"\x11\x09\0\1\0\x1e\0\x21" + ipv4(udp()), 0x8864),
    "PPPoE, LCP": ether(b"\x11\0\0\1\0\6\xc0\x21" + bytes(20), 0x8864),
    "VN-tag, ARP": ether(bytes(4) + b"\x08\6" + bytes(28), 0x8926),
    "PPPoE": ether(bytes(8), 0x8864),
    "nothing behind the header": ether(b"", 0),
    "ARP in a VLAN": ether(bytes(28), 0x0806, ((Q, 5),)),
    "LLDP in two": ether(bytes(28), 0x88CC, ((AD, 5), (Q, 5))),
}

MALFORMED = {
    "three tags": ether(ipv4(udp()), tags=((AD, 1), (Q, 2), (Q, 3))),
    "three tags, not IP": ether(bytes(28), 0x0806, ((Q, 1), (Q, 2), (Q, 3))),
    "third tag cut off": ether(b"", Q, ((Q, 1), (Q, 2))),
    **{
        f"IPv4 of version {version}": ether(ipv4(udp(X11), version=version))
        for version in (0, 5, 6, 15)
    },
    **{f"IPv4 header of {n} words": ether(ipv4(udp(X11), ihl=n)) for n in range(5)},
    "IPv4 header beyond the packet": ether(ipv4(udp(X11), ihl=15)),
    "IPv4 header beyond the packet, not the padding": ether(ipv4(udp(X11), ihl=15)) + bytes(60),
    "total length 0": ether(ipv4(udp(X11), total=0)),
    "total length 0, not more than 64 KiB": ether(ipv4(udp(bytes(65507)), total=0)),
    "total length 19": ether(ipv4(udp(X11), total=19)),
    "total length below the header with options": ether(ipv4(udp(), options=bytes(8), total=27)),
    **{
        f"UDP length {n}": ether(ipv4(struct.pack(">HHHH", *PORTS, n, 0) + X11))
        for n in (0, 1, 7, 20, 65535)
    },
    "UDP length beyond IPv6": ether(ipv6(struct.pack(">HHHH", *PORTS, 20, 0) + X11), 0x86DD),
    "UDP length 7 in a fragment": ether(
        ipv4(struct.pack(">HHHH", *PORTS, 7, 0) + X11, fragment=0x2000)
    ),
    "AH beyond the packet": ether(ipv4(extension(6, b"", 8, length=1), 51)),
    "VN-tag, cut off": ether(bytes(5), 0x8926),
    "VN-tag, three tags": ether(
        bytes(4) + struct.pack(">HHHHHHH", Q, 1, Q, 2, Q, 3, 0x0800) + ipv4(udp()), 0x8926
    ),
    "first fragment, 7 bytes of TCP": ether(ipv4(tcp()[:7], 6, fragment=0x2000)),
    "total length cuts UDP": ether(ipv4(udp(X11), total=27)),
    "total length cuts TCP": ether(ipv4(tcp(X11), 6, total=39)),
    "total length cuts TCP's options": ether(ipv4(tcp(X11, bytes(8)), 6, total=47)),
    "total length cuts SCTP": ether(ipv4(sctp(X11), 132, total=31)),
    "total length cuts UDP-Lite": ether(ipv4(udp(X11), 136, total=27)),
    "total length cuts ICMP": ether(ipv4(icmp(X11), 1, total=27)),
    "no UDP at all": ether(ipv4(b"")),
    "first fragment without ports": ether(ipv4(b"\0\1", fragment=0x2000)),
    **{f"TCP data offset {n}": ether(ipv4(tcp(X11, offset=n), 6)) for n in range(5)},
    "TCP data offset 15": ether(ipv4(tcp(X11, offset=15), 6)),
    "TCP data offset in the padding": ether(ipv4(tcp(offset=6), 6)).ljust(60, b"\0"),
    **{
        f"IPv6 of version {version}": ether(ipv6(udp(X11), version=version), 0x86DD)
        for version in (0, 4, 7, 15)
    },
    "payload length 0": ether(ipv6(udp(X11), length=0), 0x86DD),
    "payload length cuts UDP": ether(ipv6(udp(X11), length=7), 0x86DD),
    "payload length cuts ICMPv6": ether(ipv6(icmp(X11), 58, length=7), 0x86DD),
    "payload length cuts an extension header": ether(
        ipv6(extension(17, udp(X11)), HOP, length=7), 0x86DD
    ),
    "payload length cuts behind an extension header": ether(
        ipv6(extension(17, udp(X11)), HOP, length=15), 0x86DD
    ),
    "payload length cuts a fragment header": ether(
        ipv6(fragment6(17, X11, 1), 44, length=7), 0x86DD
    ),
    "extension header in the padding": ether(ipv6(b"", HOP) + extension(59), 0x86DD),
    **{
        f"{name} of length 255": ether(ipv6(extension(17, udp(X11), length=255), kind), 0x86DD)
        for name, kind in {**PLAIN, "AH": AH}.items()
    },
    "AH one word too long": ether(ipv6(extension(59, b"", 24, length=5), AH), 0x86DD),
    "nine extension headers": ether(
        ipv6(*chain([DESTINATION] * 9, udp(X11))), 0x86DD
    ),
    "later fragment behind eight": ether(
        ipv6(*chain([DESTINATION] * 8, fragment6(17, X11, 1), 44)), 0x86DD
    ),
    "twenty extension headers": ether(ipv6(*chain([HOP] * 20, udp(X11))), 0x86DD),
}  # fmt: skip

REPRESENTATIVE = {
    name: COUNTED[name][0]
    for name in (
        "UDP",
        "TCP with options",
        "IPv4 options",
        "QinQ",
        "QinQ, IPv6",
        "IPv6 TCP",
        "IPv6 AH",
        "IPv6 extension ahead of later fragment",
        "IPv6 eight extension headers",
    )
}


# What to expect


def counted(name: str) -> tuple[bytes, Flow]:
    """A frame of `COUNTED`, and the flow of which it is the only packet."""
    frame, length, protocol, ports, payload, vlans = COUNTED[name]
    six = "IPv6" in name or name == "ICMPv6"
    src, dst = (SRC6, DST6) if six else (SRC4, DST4)
    return frame, Flow(src, dst, protocol, ports, length, payload, vlans=vlans)


def balanced(outcome: Outcome) -> None:
    """Assert that each packet and byte seen is in one count, and what is counted in the table."""
    reasons = ("counted", "not_ip", "malformed", "filtered", "no_flow")
    by_reason = [outcome.count(reason) for reason in reasons]
    assert outcome.count("seen") == tuple(map(sum, zip(*by_reason, strict=True)))
    assert outcome.count("no_flow") == (0, 0)
    held = sum(f.packets for f in outcome.flows), sum(f.bytes for f in outcome.flows)
    assert outcome.count("counted") == held


def flow_of(said: Packet, length: int, *, egress: bool = False) -> Flow:
    """The flow of the packet that the dissector SAID, of LENGTH bytes that are there."""
    octets, payload = length + said.missing, len(said.payload) + said.missing
    flow = Flow(said.src, said.dst, said.protocol, said.ports, octets, payload)
    return replace(flow, vlans=said.vlans, tunnel=said.tunnel, egress=egress)


def agrees(outcome: Outcome, said: Packet | Not, length: int, *, egress: bool = False) -> None:
    """Assert that the program made of one frame of LENGTH bytes what the dissector SAID."""
    balanced(outcome)
    if isinstance(said, Not):
        assert outcome.count("seen") == (1, length)
        assert (outcome.reason, outcome.flows) == (said.value, ())
        return
    assert outcome.count("seen") == (1, length + said.missing)
    assert outcome.count("truncated") == (said.missing > 0, said.missing)
    assert outcome.reason == "counted"
    assert outcome.flow == flow_of(said, length, egress=egress)


@pytest.fixture(scope="module")
def program() -> Iterator[FlowProgram]:
    """All four programs, with every key field."""
    loaded = FlowProgram(settings())
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def outgoing(program: FlowProgram) -> Iterator[Wire]:
    """A real interface, seen at egress: frames as they were sent."""
    with Wire(program, Direction.EGRESS) as wire:
        yield wire


@pytest.fixture(scope="module")
def incoming(program: FlowProgram) -> Iterator[Wire]:
    """A real interface, seen at ingress: the outermost tag is off the frame."""
    with Wire(program, Direction.INGRESS) as wire:
        yield wire


# Examples


@pytest.mark.parametrize("name", COUNTED)
def test_counts(program: FlowProgram, outgoing: Wire, incoming: Wire, name: str) -> None:
    """A well-formed packet is counted into its flow, in both directions, wherever its tag is."""
    frame, flow = counted(name)
    assert program.run(frame, "vtap_ingress").flow == flow
    assert program.run(frame, "vtap_egress").flow == replace(flow, egress=True)
    assert incoming.send(frame).flow == flow
    assert outgoing.send(frame).flow == replace(flow, egress=True)


@pytest.mark.parametrize("name", COUNTED)
def test_counts_what_is_not_linear(outgoing: Wire, incoming: Wire, name: str) -> None:
    """Headers outside of linear memory are read as well, and padding is not payload."""
    frame, flow = counted(name)
    padded, flow = frame.ljust(NOT_LINEAR, b"\7"), replace(flow, bytes=NOT_LINEAR)
    assert outgoing.send(padded).flow == replace(flow, egress=True)
    assert incoming.send(padded).flow == flow


@pytest.mark.parametrize("name", NOT_IP)
def test_not_ip(outgoing: Wire, incoming: Wire, name: str) -> None:
    """What is not IP is counted as such."""
    for outcome in (outgoing.send(NOT_IP[name]), incoming.send(NOT_IP[name])):
        balanced(outcome)
        assert outcome.count("not_ip") == (1, len(NOT_IP[name]))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(outgoing: Wire, name: str) -> None:
    """A packet that contradicts itself is counted as malformed."""
    outcome = outgoing.send(MALFORMED[name])
    balanced(outcome)
    assert outcome.count("malformed") == (1, len(MALFORMED[name]))


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_truncated_at_every_byte(outgoing: Wire, name: str) -> None:
    """A frame that ends within its headers is malformed; one that ends later is its flow's."""
    whole = REPRESENTATIVE[name]
    said = dissect(whole)
    assert isinstance(said, Packet)
    headers = len(whole) - len(said.payload)
    for length in range(14, len(whole)):
        outcome = outgoing.send(whole[:length])
        balanced(outcome)
        if length < headers:
            assert outcome.count("malformed") == (1, length)
        else:
            assert outcome.flow == flow_of(said, len(whole), egress=True)
            assert outcome.count("truncated") == (1, len(whole) - length)


@pytest.mark.parametrize(
    ("protocol", "segment", "header"),
    [
        (6, tcp(X11, bytes(8)), 28),
        (17, udp(X11), 8),
        (136, udp(X11), 8),
        (132, sctp(X11), 12),
        (1, icmp(X11), 8),
        (58, icmp(X11), 8),
        (47, X11, 0),
    ],
)
def test_short_packets(
    program: FlowProgram, outgoing: Wire, protocol: int, segment: bytes, header: int
) -> None:
    """A packet that says that it is short is malformed if its transport header is not whole."""
    for length in range(len(segment) + 1):
        if protocol == 17:
            segment = segment[:4] + struct.pack(">H", max(length, 8)) + segment[6:]
        for packet, ethertype in ((ipv4, 0x0800), (ipv6, 0x86DD)):
            frame = ether(packet(segment[:length], protocol), ethertype)
            for outcome in (program.run(frame), outgoing.send(frame + bytes(40))):
                if length < header:
                    assert outcome.reason == "malformed"
                else:
                    assert outcome.flow.payload_bytes == length - header


def test_longer_than_a_length_field(outgoing: Wire) -> None:
    """Where the length field cannot say the length and is 0, the frame's own counts."""
    v4 = outgoing.send(ether(ipv4(udp(bytes(65508)), total=0)))
    assert v4.flow == Flow(SRC4, DST4, 17, PORTS, 65550, 65508, egress=True)
    v6 = outgoing.send(ether(ipv6(udp(bytes(65528)), length=0), 0x86DD))
    assert v6.flow == Flow(SRC6, DST6, 17, PORTS, 65590, 65528, egress=True)
    jumbo = b"\x11\0\xc2\4\0\1\0\x10" + udp(bytes(65536 - 8))  # RFC 2675: an option of hop-by-hop
    v6 = outgoing.send(ether(ipv6(jumbo, HOP, length=0), 0x86DD))
    assert v6.flow == Flow(SRC6, DST6, 17, PORTS, 65598, 65528, egress=True)


def test_three_tags_one_of_them_off_the_frame(incoming: Wire) -> None:
    """A third tag is too much also where the first is not in the frame any more."""
    frame = MALFORMED["three tags"]
    assert incoming.send(frame).count("malformed") == (1, len(frame))


def test_tells_flows_apart(program: FlowProgram) -> None:
    """Packets that differ in any one part of the key are in different flows."""
    frames = [ether(ipv4(udp())), ether(ipv4(tcp(), 6)), ether(ipv4(udp()), tags=((Q, 0),))]
    frames += [ether(ipv4(udp()), tags=((Q, 1),)), ether(ipv4(udp()), tags=((Q, 1), (Q, 0)))]
    for at in (29, 33, 34, 35, 36, 37):
        frames.append(frames[0][:at] + b"\xaa" + frames[0][at + 1 :])
    flows = [program.run(frame).flow for frame in frames]
    keys = {(f.src, f.dst, f.protocol, f.ports, f.vlans) for f in flows}
    assert len(keys) == len(frames)


def test_interface_is_part_of_the_key() -> None:
    """Interfaces of any index have flows of their own; one that is not measured has none."""
    frame, flow = counted("UDP")
    indices = (77, 78, 77 + 64, 1_000_000, 0x7FFF_FFFF)
    plain = settings()
    others = tuple(replace(plain.interfaces[0], index=index) for index in (*indices, LOOPBACK))
    program = FlowProgram(replace(plain, interfaces=others))
    with Namespace() as namespace:
        for index in (*indices, 79):
            link = (f"w{index}", "index", str(index), "type", "veth", "peer", "name", f"p{index}")
            namespace.run("ip", "link", "add", "name", *link)
        with namespace.entered():
            for index in indices:
                outcome = program.run(frame, ifindex=index)
                balanced(outcome)
                assert outcome.flow == replace(flow, interface=index)
            program.show(frame, ifindex=79)
    assert program.watch(lambda: program.show(frame)).flow == flow
    program.close()


def test_places_of_interfaces_follow_their_number() -> None:
    """However large their indices are, a few interfaces take the room of a few."""
    plain = settings().interfaces[0]
    draw = random.Random(1).sample(range(1, 1 << 31), 600)  # noqa: S311
    for indices in (range(1, 601), range(10**6, 10**6 + 600), range(4096, 601 * 4096, 4096), draw):
        links, places = flow_probe.link_places([replace(plain, index=i) for i in indices])
        assert sorted(places) == sorted(indices)
        assert len({*places.values()}) == 600
        assert max(places.values()) < links <= 8192
    assert flow_probe.link_places([replace(plain, index=1 << 30)])[0] == 64


# Merged packets: frame, context, and packets, bytes, payload bytes on the wire
MERGED = {
    "TCP, 3 segments": (tcp(bytes(2500)), 6, {"gso_size": 1000, "gso_segs": 3}, 3, 2662, 2500),
    "TCP, uncounted": (tcp(bytes(2500)), 6, {"gso_size": 1000}, 3, 2662, 2500),
    "TCP, uncounted, exact": (tcp(bytes(2000)), 6, {"gso_size": 1000}, 2, 2108, 2000),
    "TCP, options": (tcp(bytes(20), bytes(12)), 6, {"gso_size": 10, "gso_segs": 2}, 2, 152, 20),
    "UDP, uncounted": (udp(bytes(2500)), 17, {"gso_size": 1000}, 3, 2626, 2500),
    "one segment": (tcp(bytes(9)), 6, {"gso_size": 1000, "gso_segs": 1}, 1, 63, 9),
    "one segment, uncounted": (tcp(bytes(9)), 6, {"gso_size": 1000}, 1, 63, 9),
    "no payload, uncounted": (tcp(), 6, {"gso_size": 1000}, 1, 54, 0),
    "not merged, segments said": (tcp(bytes(9)), 6, {"gso_segs": 5}, 1, 63, 9),
    "the kernel's length": (
        tcp(bytes(2500)), 6, {"gso_size": 1000, "gso_segs": 3, "wire_len": 2662}, 3, 2662, 2500,
    ),
    # 42 bytes of headers ahead of the inner ones, which are 50 bytes; all of them twice on the wire
    "tunnel": (
        udp(bytes(2050)), 17, {"gso_size": 1000, "gso_segs": 2, "wire_len": 2184}, 2, 2184, 2100,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_merged(program: FlowProgram, name: str) -> None:
    """A merged packet is counted as what is on the wire: every segment, each with all headers."""
    segment, protocol, context, packets, length, payload = MERGED[name]
    frame = ether(ipv4(segment, protocol))
    flow = Flow(SRC4, DST4, protocol, PORTS, length, payload, packets)
    assert program.run(frame, **context).flow == flow
    assert program.run(frame, "vtap_egress", **context).flow == replace(flow, egress=True)


def test_merged_behind_tag_and_extension(program: FlowProgram) -> None:
    """The headers of each segment include tags and extension headers."""
    packet = ipv6(extension(6, tcp(bytes(2500))), DESTINATION)
    outcome = program.run(ether(packet, 0x86DD, ((Q, 5),)), gso_size=1000, gso_segs=3)
    # 14 + 4 + 40 + 8 + 20 = 86 bytes of headers
    assert outcome.flow == Flow(SRC6, DST6, 6, PORTS, 2500 + 3 * 86, 2500, packets=3, vlans=(5,))


@pytest.mark.parametrize("name", ["ARP", "nine extension headers"])
def test_merged_but_not_counted(program: FlowProgram, name: str) -> None:
    """What is no flow's packet balances also if it says that it is merged."""
    frame = (NOT_IP | MALFORMED)[name]
    for segments, packets in ((7, 7), (0, 1)):
        outcome = program.run(frame, gso_size=10, gso_segs=segments)
        balanced(outcome)
        assert outcome.count("seen") == (packets, len(frame))


def fits_layer_3(name: str) -> bool:
    """Whether the kernel builds such a frame for a test run."""
    frame, flow = counted(name)
    least = 34 if flow.src == SRC4 else 54
    plain = frame[12:14] in (b"\x08\0", b"\x86\xdd")
    return plain and least <= len(frame) - 14 <= LONGEST and not flow.vlans


@pytest.mark.parametrize("name", [*filter(fits_layer_3, COUNTED)])
def test_layer_3(program: FlowProgram, name: str) -> None:
    """Frames without Ethernet header are counted with the length that they have."""
    frame, flow = counted(name)
    flow = replace(flow, bytes=flow.bytes - 14)
    assert program.run(frame[14:], "vtap_ingress_l3").flow == flow
    assert program.run(frame[14:], "vtap_egress_l3").flow == replace(flow, egress=True)


def test_layer_3_not_ip(program: FlowProgram) -> None:
    """On layer 3 the kernel says what is IP, whatever the bytes look like."""
    packet = bytearray(ipv4(udp(X11)))
    packet[12:14] = b"\x0a\0"
    assert program.run(bytes(packet), "vtap_ingress_l3").count("not_ip") == (1, 39)


# Properties


@st.composite
def segments(draw: st.DrawFn, protocol: int) -> bytes:
    """A transport header, or bytes that are none, and payload."""
    data = bytearray(draw(st.binary(max_size=50)))
    if draw(st.sampled_from((True, True, True, False))):
        data = data.rjust(30, b"\x5a")
    if protocol == 17 and len(data) >= 8:
        right = len(data)
        length = draw(st.sampled_from((right,) * 9 + (right - 1, right + 1, 0, 7, 8, 3000)))
        data[4:6] = length.to_bytes(2)
    if protocol == 6 and len(data) > 12:
        data[12] = draw(st.sampled_from((5, 5, 5, 6, 7, 4, 0, 15))) << 4
    return bytes(data)


PROTOCOLS = st.sampled_from((6, 17, 1, 58, 132, 136, 47)) | st.integers(0, 255)
MOSTLY_RIGHT = st.sampled_from((0,) * 14 + (-1, 1, -8, 8, -21, 3000, -3000))


@st.composite
def packets4(draw: st.DrawFn) -> bytes:
    """IPv4, mostly well-formed."""
    protocol = draw(PROTOCOLS)
    data = draw(segments(protocol))
    options = bytes(4 * draw(st.sampled_from((0, 0, 0, 1, 5, 10))))
    right = 20 + len(options) + len(data)
    return ipv4(
        data,
        protocol,
        options=options,
        ihl=draw(st.sampled_from((None,) * 9 + (0, 4, 5, 6, 15))),
        total=max(0, right + draw(MOSTLY_RIGHT)),
        fragment=draw(st.sampled_from((0, 0, 0, 0x4000, 0x2000, 0x2001, 1, 0x1000, 0x1FFF))),
        version=draw(st.sampled_from((4,) * 19 + (6,))),
    )


@st.composite
def packets6(draw: st.DrawFn) -> bytes:
    """IPv6 with extension headers, mostly well-formed."""
    following = draw(PROTOCOLS)
    data = draw(segments(following))
    kinds = st.sampled_from((*PLAIN.values(), 44, AH))
    for kind in draw(st.lists(kinds, max_size=3) | st.lists(kinds, max_size=10)):
        size = draw(st.sampled_from((8, 8, 8, 16, 24, 64)))
        if kind == 44:
            offset = draw(st.sampled_from((0, 0, 0, 1, 2, 6, 8, 0xFFF8)))
            data = struct.pack(">BBHI", following, 255, offset, 1) + data
        else:
            right = size // 4 - 2 if kind == AH else size // 8 - 1
            length = draw(st.sampled_from((right,) * 19 + (right + 1, 0, 255)))
            data = extension(following, data, size, length)
        following = kind
    length = max(0, len(data) + draw(MOSTLY_RIGHT))
    version = draw(st.sampled_from((6,) * 19 + (4,)))
    return ipv6(data, following, length=length, version=version)


PACKETS = st.tuples(packets4(), st.just(0x0800)) | st.tuples(packets6(), st.just(0x86DD))


@st.composite
def shims(draw: st.DrawFn, packet: bytes, ethertype: int) -> tuple[bytes, int]:
    """A packet behind one or two of what may stand ahead of it, and the type of the first."""
    kind = draw(st.sampled_from(("SNAP", "MPLS", "PPPoE", "none")))
    if kind == "SNAP":
        packet = SNAP[:6] + struct.pack(">H", ethertype) + packet
        ethertype = min(len(packet), 1500)
    elif kind == "MPLS":
        labels = draw(st.integers(0, 4))
        packet, ethertype = b"\0\1\0\xff" * labels + b"\0\1\1\xff" + packet, 0x8847
    elif kind == "PPPoE":
        protocol = 0x21 if ethertype == 0x0800 else 0x57
        packet = struct.pack(">BBHHH", 0x11, 0, 1, len(packet) + 2, protocol) + packet
        ethertype = 0x8864
    if draw(st.booleans()):
        outer, size = draw(st.sampled_from(((0x8926, 4), (0x88E7, 16))))
        packet, ethertype = bytes(size) + struct.pack(">H", ethertype) + packet, outer
    return packet, ethertype


@st.composite
def frames(draw: st.DrawFn, least: int = 14) -> bytes:
    """Ethernet frames, mostly well-formed, cut, padded and corrupted behind the addresses."""
    packet, ethertype = draw(PACKETS)
    tag = st.tuples(st.sampled_from((Q, AD, OLD)), st.integers(0, 0xFFFF))
    tags = draw(st.sampled_from((0, 0, 0, 1, 1, 2, 2, 3)).flatmap(lambda n: st.tuples(*[tag] * n)))
    ethertype = draw(st.sampled_from((ethertype,) * 19 + (0x0806,)))
    if draw(st.sampled_from((False,) * 7 + (True,))):
        packet, ethertype = draw(shims(packet, ethertype))
    frame = bytearray(ether(packet, ethertype, tags))
    for _ in range(draw(st.sampled_from((0, 0, 0, 0, 1, 2)))):
        at = draw(st.integers(12, 20) | st.integers(20, len(frame) - 1))
        frame[at] = draw(st.integers(0, 255))
    if draw(st.sampled_from((False,) * 5 + (True,))):
        frame = frame[: draw(st.integers(least, len(frame)))]
    return bytes(frame) + bytes(draw(st.sampled_from((0, 0, 0, 6, 46))))


@properties
@given(frame=frames(), padded=st.booleans())
def test_reads_what_the_dissector_reads(outgoing: Wire, frame: bytes, padded: bool) -> None:  # noqa: FBT001 - pytest and Hypothesis pass it by name
    """Whatever a frame is, in linear memory or not, program and dissector agree."""
    if padded:
        frame = frame.ljust(NOT_LINEAR, b"\0")
    agrees(outgoing.send(frame), dissect(frame), len(frame), egress=True)


@properties
@given(frame=frames(least=20))  # the kernel itself drops a frame that ends within its tag
def test_reads_the_same_at_ingress(incoming: Wire, frame: bytes) -> None:
    """With the outermost tag taken off by the kernel, it is the same packet of the same length."""
    agrees(incoming.send(frame), dissect(frame), len(frame))


@properties
@given(packet=PACKETS, cut=st.integers(34, 200))
def test_reads_layer_3(program: FlowProgram, packet: tuple[bytes, int], cut: int) -> None:
    """Without an Ethernet header, program and dissector agree as well."""
    data, ethertype = packet
    least = 34 if ethertype == 0x0800 else 54
    frame = data[: max(cut, least)].ljust(least, b"\0")
    said = dissect(frame, ethertype=ethertype)
    agrees(program.run(frame, "vtap_ingress_l3"), said, len(frame))
    agrees(program.run(frame, "vtap_egress_l3"), said, len(frame), egress=True)


@properties
@given(
    packet=PACKETS,
    gso_size=st.integers(1, 100) | st.integers(1, 0xFFFF),
    gso_segs=st.integers(0, 5) | st.integers(0, 0xFFFF),
    beyond=st.none() | st.integers(0, 20_000),
)
def test_merged_packets_balance(
    program: FlowProgram,
    packet: tuple[bytes, int],
    gso_size: int,
    gso_segs: int,
    beyond: int | None,
) -> None:
    """However merged, each packet and byte seen is in one count; headers are not payload."""
    frame = ether(*packet)
    wire_len = 0 if beyond is None else len(frame) + beyond
    outcome = program.run(frame, gso_size=gso_size, gso_segs=gso_segs, wire_len=wire_len)
    balanced(outcome)
    said = dissect(frame)
    if isinstance(said, Not):
        assert outcome.reason == said.value
        assert outcome.count("seen") == (gso_segs or 1, len(frame))
        return
    if said.missing:  # no merged packet is cut off
        assert outcome.flow == flow_of(said, len(frame))
        return
    packets = gso_segs or max(1, -(-len(said.payload) // gso_size))
    assert outcome.flow.packets == packets
    data, ethertype = packet
    claimed = data[2:4] if ethertype == 0x0800 else data[4:6]
    claims = int.from_bytes(claimed, "big") + (0 if ethertype == 0x0800 else 40)
    # no padding, which no merged packet has, neither behind IP nor behind UDP
    if claims == len(data) and packets > 1 and said.protocol != 17:
        headers = len(frame) - len(said.payload)
        length = max(len(frame) + (packets - 1) * headers, wire_len)
        assert outcome.flow.bytes == length
        assert outcome.flow.payload_bytes == length - packets * headers


# The judge judged


ADDRESSES4 = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
ADDRESSES6 = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
TRANSPORTS = {
    "tcp": (6, lambda a, b: TCP(sport=a, dport=b, options=[("MSS", 1460), ("NOP", None)])),
    "udp": (17, lambda a, b: UDP(sport=a, dport=b)),
    "sctp": (132, lambda a, b: SCTP(sport=a, dport=b)),
}


@st.composite
def scapy_packets(draw: st.DrawFn) -> tuple[Ether, Packet]:
    """A well-formed packet as scapy builds it, and what it is."""
    payload = draw(st.binary(max_size=30))
    ports = draw(st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
    vlans = tuple(draw(st.lists(st.integers(0, 4095), max_size=2)))
    six = draw(st.booleans())
    if ports:
        protocol, make = TRANSPORTS[draw(st.sampled_from(sorted(TRANSPORTS)))]
        segment = make(*ports)
    elif draw(st.booleans()):
        protocol, segment = (58, ICMPv6EchoRequest()) if six else (1, ICMP())
    else:
        protocol, segment, payload = 47, GRE(proto=0x6558), b"\0\0\x65\x58" + payload
        segment = Raw()
    segment = segment / Raw(payload)
    if six:
        src, dst = draw(ADDRESSES6), draw(ADDRESSES6)
        network = IPv6(src=src, dst=dst)
        headers = [
            IPv6ExtHdrHopByHop(options=[PadN(optdata=b"abc")]),
            IPv6ExtHdrRouting(addresses=[src, dst]),
            IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]),
            IPv6ExtHdrFragment(m=1),
            MIP6MH_BE(nh=protocol),
        ]
        for header in draw(st.lists(st.sampled_from(headers[:4]), max_size=8)):
            network = network / header.copy()
        last = network.lastlayer()
        last.nh = protocol
        network = network / segment
    else:
        src, dst = draw(ADDRESSES4), draw(ADDRESSES4)
        options = [IPOption(b"\x83\x03\x10")] * draw(st.integers(0, 3))
        network = IP(src=src, dst=dst, proto=protocol, options=options) / segment
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for position, vlan in enumerate(vlans):
        frame = frame / (Dot1AD(vlan=vlan) if position < len(vlans) - 1 else Dot1Q(vlan=vlan))
    said = Packet(
        (IPv6Address if six else IPv4Address)(src),
        (IPv6Address if six else IPv4Address)(dst),
        protocol,
        ports,
        payload,
        vlans,
    )
    return frame / network, said


@hypothesis_settings(properties, max_examples=200)
@given(scapy_packets())
def test_dissector_reads_what_scapy_builds(built: tuple[Ether, Packet]) -> None:
    """The dissector finds what scapy was told to put into a packet."""
    frame, said = built
    assert dissect(bytes(frame)) == said


@pytest.mark.parametrize("name", COUNTED)
def test_dissector_knows_the_examples(name: str) -> None:
    """The dissector finds in the examples what was computed by hand."""
    frame, flow = counted(name)
    found = dissect(frame)
    assert isinstance(found, Packet)
    assert (found.src, found.dst, found.vlans) == (flow.src, flow.dst, flow.vlans)
    assert (found.protocol, found.ports, len(found.payload), len(frame)) == (
        *(flow.protocol, flow.ports, flow.payload_bytes),
        flow.bytes,
    )


def test_dissector_knows_the_exceptions() -> None:
    """The dissector finds nothing in what is not IP, nor in what is malformed."""
    assert {dissect(frame) for frame in NOT_IP.values()} == {Not.IP}
    assert {dissect(frame) for frame in MALFORMED.values()} == {Not.WELL_FORMED}
    assert dissect(bytes(Ether() / ARP())) == Not.IP


# The verifier

# Every field in and out, every direction, layer, and extremes of length and size, in a few programs
MASKS = (0b1111111, 0b000000, 0b011111, 0b100000, 0b010101, 0b101010, 0b001100, 0b110011)
INTERVALS = (NS // 10, NS, 3600 * NS)
SIZES = (64, 65536, 1 << 20)
DIRECTIONS = ("ingress", "egress", "both")
LAYERS = ((True,), (True, False), (False,))


def subset(mask: int) -> tuple[str, ...]:
    """The key fields whose bits are set."""
    return tuple(name for bit, name in enumerate(KEY_FIELDS) if mask >> bit & 1)


@pytest.mark.parametrize(
    ("mask", "interval", "size", "direction", "layers"),
    list(
        zip(
            MASKS,
            cycle(INTERVALS),
            cycle((*SIZES, SIZES[0])),
            cycle(DIRECTIONS),
            cycle((*LAYERS, LAYERS[0])),
            strict=False,
        )
    ),
)
def test_loads_with_any_key(
    mask: int, interval: int, size: int, direction: str, layers: tuple[bool, ...]
) -> None:
    """The verifier accepts what is generated, and what is not in the key tells no flows apart."""
    chosen = settings(subset(mask), direction, interval, size, layers)
    program = FlowProgram(chosen)
    try:
        name = next(name for name in program.objects.programs if name != "vtap_sweep")
        layer3 = name.endswith("_l3")
        frame, flow = counted("UDP" if layer3 else "QinQ, IPv6")
        found = program.run(frame[14 * layer3 :], name).flow
    finally:
        program.close()
    addresses = "src_ip" in chosen.key or "dst_ip" in chosen.key
    nowhere = type(flow.src)(0) if addresses else None
    ports = tuple(
        port if name in chosen.key else 0
        for name, port in zip(("src_port", "dst_port"), PORTS, strict=True)
    )
    assert found == replace(
        flow,
        bytes=flow.bytes - 14 * layer3,
        src=flow.src if "src_ip" in chosen.key else nowhere,
        dst=flow.dst if "dst_ip" in chosen.key else nowhere,
        ports=ports if "src_port" in chosen.key or "dst_port" in chosen.key else None,
        protocol=flow.protocol if "protocol" in chosen.key else 0,
        vlans=flow.vlans if "vlan" in chosen.key else (),
        egress="egress" in name,
    )
