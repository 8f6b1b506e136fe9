# SPDX-License-Identifier: Apache-2.0
"""Packets of every kind, byte by byte, and what must be made of each."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from dissector import Not, Packet
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from program import Flow, Outcome

# The kernel takes the ethertype for programs of layer 3 from bytes 12 and 13, here of the address
SRC4, DST4 = IPv4Address("8.0.2.1"), IPv4Address("198.51.100.2")


SRC6, DST6 = IPv6Address("2001:db8:86dd::1"), IPv6Address("2001:db8::2")


PORTS = (4000, 53)
MACS = bytes.fromhex("020000000002 020000000001")


properties = hypothesis_settings(derandomize=True, deadline=None, max_examples=400)


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
