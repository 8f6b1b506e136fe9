# SPDX-License-Identifier: Apache-2.0
"""Packets inside others, byte by byte, and what must be made of each."""

from __future__ import annotations

import struct
from dataclasses import replace

from dissector import Packet, dissect
from packets import (
    DST4,
    DST6,
    PORTS,
    SRC4,
    SRC6,
    X11,
    Q,
    ether,
    fragment6,
    ipv4,
    ipv6,
    tcp,
    udp,
)
from program import Flow

VXLAN_PORT, GENEVE_PORT, GTPU_PORT = 4789, 6081, 2152


BRIDGED, ERSPAN, ERSPAN3 = 0x6558, 0x88BE, 0x22EB


def to(port: int, data: bytes) -> bytes:
    """A UDP datagram to PORT."""
    return struct.pack(">HHHH", 50000, port, (8 + len(data)) % 0x10000, 0) + data


def vxlan(data: bytes, vni: int = 5, flags: int = 8) -> bytes:
    """RFC 7348."""
    return to(VXLAN_PORT, struct.pack(">BxxxI", flags, vni << 8) + data)


def geneve(
    data: bytes, protocol: int = BRIDGED, vni: int = 5, options: bytes = b"", **fields: int
) -> bytes:
    """RFC 8926; FIELDS: version, words, flags."""
    words = fields.get("words", len(options) // 4)
    first = fields.get("version", 0) << 6 | words
    head = struct.pack(">BBHI", first, fields.get("flags", 0), protocol, vni << 8)
    return to(GENEVE_PORT, head + options + data)


def gre(data: bytes, protocol: int, flags: int = 0, key: int = 77) -> bytes:
    """RFC 2784 and RFC 2890: FLAGS says which optional fields there are."""
    head = struct.pack(">HH", flags, protocol)
    head += bytes(4) if flags & 0x8000 else b""
    head += struct.pack(">I", key) if flags & 0x2000 else b""
    head += struct.pack(">I", 9) if flags & 0x1000 else b""
    return head + data


def erspan2(
    data: bytes, session: int = 100, version: int = 1, bits: int = 0, vlan: int = 7
) -> bytes:
    """ERSPAN type II over GRE; BITS: of class, encapsulation, truncation."""
    words = struct.pack(">HHI", version << 12 | vlan, bits << 10 | session, 3)
    return gre(words + data, ERSPAN, 0x1000)


def erspan3(
    data: bytes, session: int = 100, version: int = 2, frame: int = 0, more: int = 0
) -> bytes:
    """ERSPAN type III over GRE; MORE: whether there is a platform specific header."""
    words = struct.pack(">HHIHH", version << 12 | 7, session, 99, 0, frame << 10 | more)
    return gre(words + bytes(8 * more) + data, ERSPAN3, 0x1000)


def gtpu(
    data: bytes, teid: int = 0xABCD0123, flags: int = 0x30, kind: int = 255, extra: int = 0
) -> bytes:
    """TS 29.281; DATA begins with the optional fields if FLAGS says that there are any."""
    return to(GTPU_PORT, struct.pack(">BBHI", flags, kind, len(data) + extra, teid) + data)


IN4 = ipv4(tcp(X11), 6)
IN6 = ipv6(udp(X11))


FRAME4, FRAME6 = ether(IN4), ether(IN6, 0x86DD)


OPTIONAL = b"\0\1\0\0"
FOUR = b"\0\0\0\x20" + b"\1\0\0\x20" * 2 + b"\2" + bytes(6) + b"\x85" + b"\1\0\0\0"
SESSION = b"\0\1\0\x85" + b"\1\0\1\0"
DNS = struct.pack(">HHHHHH", 0x0831, 0x8180, 1, 0, 0, 0) + b"\7example\3com\0\0\1\0\1"


# name: the outer packet, whether it is IPv6; tunnel id; the inner one: is it IPv6, VLAN ids
DECAPSULATED: dict[str, tuple[bytes, bool, int | None, bool, tuple[int, ...]]] = {
    "VXLAN": (ipv4(vxlan(FRAME4)), False, 5, False, ()),
    "VXLAN, IPv6 inside": (ipv4(vxlan(FRAME6, 0xFFFFFF)), False, 0xFFFFFF, True, ()),
    "VXLAN over IPv6": (ipv6(vxlan(FRAME4, 0)), True, 0, False, ()),
    "VXLAN, reserved bits": (ipv4(vxlan(FRAME4, flags=0xFF)), False, 5, False, ()),
    "VXLAN, VLAN inside": (
        ipv4(vxlan(ether(IN4, tags=((Q, 9),)))), False, 5, False, (9,),
    ),
    "VXLAN, two VLANs inside": (
        ipv4(vxlan(ether(IN6, 0x86DD, ((Q, 9), (Q, 8))))), False, 5, True, (9, 8),
    ),
    "VXLAN, padded inside": (ipv4(vxlan(FRAME4 + bytes(9))), False, 5, False, ()),
    "Geneve": (ipv4(geneve(FRAME4)), False, 5, False, ()),
    "Geneve, options": (
        ipv4(geneve(FRAME6, options=bytes(252), flags=0x40)), False, 5, True, (),
    ),
    "Geneve, IPv4": (ipv4(geneve(IN4, 0x0800, 6)), False, 6, False, ()),
    "Geneve, IPv6 over IPv6": (ipv6(geneve(IN6, 0x86DD, options=bytes(8))), True, 5, True, ()),
    "GRE": (ipv4(gre(IN4, 0x0800), 47), False, None, False, ()),
    "GRE, IPv6": (ipv4(gre(IN6, 0x86DD), 47), False, None, True, ()),
    "GRE, key": (ipv4(gre(IN4, 0x0800, 0x2000, 0xFFFFFFFF), 47), False, 0xFFFFFFFF, False, ()),
    "GRE, key 0": (ipv4(gre(IN4, 0x0800, 0x2000, 0), 47), False, 0, False, ()),
    "GRE, checksum, key, sequence": (ipv6(gre(IN6, 0x86DD, 0xB000), 47), True, 77, True, ()),
    "GRE, checksum": (ipv4(gre(IN4, 0x0800, 0x8000), 47), False, None, False, ()),
    "GRE, sequence": (ipv4(gre(IN4, 0x0800, 0x1000), 47), False, None, False, ()),
    "GRE, bridged": (ipv4(gre(FRAME4, BRIDGED), 47), False, None, False, ()),
    "GRE, bridged, key": (ipv6(gre(FRAME6, BRIDGED, 0x2000), 47), True, 77, True, ()),
    "ERSPAN I": (ipv4(gre(FRAME4, ERSPAN), 47), False, None, False, ()),
    "ERSPAN II": (ipv4(erspan2(FRAME4), 47), False, 100, False, ()),
    "ERSPAN II, tag in the frame": (
        ipv4(erspan2(ether(IN4, tags=((Q, 9),)), bits=0b00110), 47), False, 100, False, (9,),
    ),
    "ERSPAN II, tag taken off": (
        ipv4(erspan2(FRAME4, bits=0b00100), 47), False, 100, False, (7,),
    ),
    "ERSPAN II, outer tag taken off": (
        ipv4(erspan2(ether(IN4, tags=((Q, 9),)), bits=0b11010), 47), False, 100, False, (7, 9),
    ),
    "ERSPAN II, said to be truncated": (
        ipv4(erspan2(FRAME4, session=1023, bits=1), 47), False, 1023, False, (),
    ),
    "ERSPAN III": (ipv6(erspan3(FRAME6), 47), True, 100, True, ()),
    "ERSPAN III, platform": (ipv4(erspan3(FRAME4, more=1), 47), False, 100, False, ()),
    "ERSPAN III, IP": (ipv4(erspan3(IN6, frame=2), 47), False, 100, True, ()),
    "GTP-U": (ipv4(gtpu(IN4)), False, 0xABCD0123, False, ()),
    "GTP-U, IPv6": (ipv6(gtpu(IN6)), True, 0xABCD0123, True, ()),
    "GTP-U, sequence": (ipv4(gtpu(OPTIONAL + IN4, flags=0x32)), False, 0xABCD0123, False, ()),
    "GTP-U, no extension said": (
        ipv4(gtpu(SESSION[:4] + IN4, flags=0x31)), False, 0xABCD0123, False, (),
    ),
    "GTP-U, session": (ipv4(gtpu(SESSION + IN4, flags=0x34)), False, 0xABCD0123, False, ()),
    "GTP-U, four extensions": (
        ipv4(gtpu(FOUR + IN6, flags=0x37)),
        False, 0xABCD0123, True, (),
    ),
    "IPv4 in IPv4": (ipv4(IN4, 4), False, None, False, ()),
    "IPv6 in IPv4": (ipv4(IN6, 41), False, None, True, ()),
    "IPv4 in IPv6": (ipv6(IN4, 4), True, None, False, ()),
    "IPv6 in IPv6": (ipv6(IN6, 41), True, None, True, ()),
    "IPv4 behind options": (ipv4(IN4, 4, options=bytes(40)), False, None, False, ()),
    "in an atomic fragment": (
        ipv6(fragment6(17, vxlan(FRAME4), more=False), 44), True, 5, False, (),
    ),
}  # fmt: skip


# What stays a packet of the outer flow: the outer packet, protocol, ports, payload length
OUTER = {
    "VXLAN-GPE": (ipv4(to(4790, vxlan(FRAME4)[8:])), 17, (50000, 4790)),
    "from the VXLAN port": (ipv4(struct.pack(">HHHH", 4789, 7, 73, 0) + bytes(65)), 17, (4789, 7)),
    "Geneve control": (ipv4(geneve(FRAME4, flags=0x80)), 17, (50000, 6081)),
    "Geneve version 1": (ipv4(geneve(FRAME4, version=1)), 17, (50000, 6081)),
    "Geneve of something else": (ipv4(geneve(FRAME4, 0x8847)), 17, (50000, 6081)),
    "GRE version 1": (ipv4(gre(IN4, 0x880B, 0x2001), 47), 47, None),
    "GRE of something else": (ipv4(gre(IN4, 0x8847), 47), 47, None),
    "ERSPAN II of version 0": (ipv4(erspan2(FRAME4, version=0), 47), 47, None),
    "ERSPAN III of version 1": (ipv4(erspan3(FRAME4, version=1), 47), 47, None),
    "ERSPAN III of InfiniBand": (ipv4(erspan3(FRAME4, frame=1), 47), 47, None),
    "GTP-U echo": (ipv4(gtpu(OPTIONAL, flags=0x32, kind=1)), 17, (50000, 2152)),
    "GTP-U version 2": (ipv4(gtpu(IN4, flags=0x50)), 17, (50000, 2152)),
    "GTP prime": (ipv4(gtpu(IN4, flags=0x20)), 17, (50000, 2152)),
    "GTP-U of something else": (ipv4(gtpu(b"\xff\3\0\x21" + IN4)), 17, (50000, 2152)),
    "GRE of type 0, a keep-alive": (ipv4(gre(b"", 0), 47), 47, None),
    "GRE of type 0, an IPv4 packet": (ipv4(gre(IN4, 0), 47), 47, None),
    "GRE of type 0, with key, an IPv6 packet": (ipv4(gre(IN6, 0, 0x2000), 47), 47, None),
    "GRE of type 1, text": (ipv4(gre(b"Keepalive Request", 1), 47), 47, None),
    "Geneve of type 0, an IPv4 packet": (ipv4(geneve(IN4, 0)), 17, (50000, 6081)),
    "ARP in VXLAN": (ipv4(vxlan(ether(bytes(28), 0x0806))), 17, (50000, 4789)),
    "LLDP in ERSPAN": (ipv4(erspan2(ether(bytes(28), 0x88CC)), 47), 47, None),
    "first fragment": (ipv4(vxlan(FRAME4), fragment=0x2000), 17, (50000, 4789)),
    "later fragment": (ipv4(IN4, 4, fragment=0x2001), 4, None),
    "first fragment of IPv6": (ipv6(fragment6(17, vxlan(FRAME4)), 44), 17, (50000, 4789)),
    "later fragment of IPv6": (ipv6(fragment6(41, IN6, 3), 44), 41, None),
}


BROKEN = {
    "VXLAN without id": ipv4(vxlan(FRAME4, flags=0)),
    "VXLAN of nothing": ipv4(vxlan(b"")),
    "VXLAN, three tags inside": ipv4(vxlan(ether(IN4, tags=((Q, 1), (Q, 2), (Q, 3))))),
    "VXLAN, an answer of DNS": ipv4(to(VXLAN_PORT, DNS)),
    "Geneve, an answer of DNS": ipv4(to(GENEVE_PORT, b"\x12" + DNS[1:])),
    "GTP-U, an answer of DNS": ipv4(to(GTPU_PORT, b"\x30\xff" + DNS[2:])),
    "VXLAN, inner IPv6 in the padding": ipv4(vxlan(ether(b"", 0x86DD))) + IN6,
    "VXLAN, inner IPv4 in the padding": ipv4(vxlan(ether(b""))) + IN4,
    "Geneve, options beyond": ipv4(geneve(b"", words=1)) + bytes(60),
    "GRE, routing": ipv4(gre(IN4, 0x0800, 0x4000), 47),
    "GRE, strict source route": ipv4(gre(IN4, 0x0800, 0x0800), 47),
    "GRE, reserved bit 5": ipv4(gre(IN4, 0x0800, 0x0400), 47),
    "GRE, key cut off": ipv4(struct.pack(">HHH", 0x2000, 0x0800, 0), 47) + bytes(60),
    "GRE, checksum cut off": ipv4(struct.pack(">HHH", 0x8000, 0x0800, 0), 47) + bytes(60),
    "GRE, sequence cut off": ipv4(struct.pack(">HHH", 0x1000, 0x0800, 0), 47) + bytes(60),
    "GRE, IPv6 called IPv4": ipv4(gre(IN6, 0x0800), 47),
    "ERSPAN II, cut off": ipv4(gre(bytes(7), ERSPAN, 0x1000), 47) + bytes(60),
    "ERSPAN II, truncated within TCP": ipv4(erspan2(FRAME4[:50], bits=1), 47),
    "ERSPAN III, cut off": ipv4(gre(b"\x20" + bytes(10), ERSPAN3, 0x1000), 47) + bytes(60),
    "ERSPAN III, platform cut off": ipv4(erspan3(b"", more=1), 47, total=20 + 8 + 19) + bytes(60),
    "ERSPAN III of no IP at all": ipv4(erspan3(b"", frame=2), 47) + IN4,
    "GTP-U, length beyond": ipv4(gtpu(IN4, extra=1)) + bytes(60),
    "GTP-U of nothing": ipv4(gtpu(b"")) + IN4,
    "GTP-U, optional fields cut off": ipv4(gtpu(b"\0\0\0", flags=0x31)) + bytes(60),
    "GTP-U, extension of no words": ipv4(gtpu(SESSION[:4] + b"\0\0\0\0" + IN4, flags=0x34)),
    "GTP-U, extension beyond": ipv4(gtpu(SESSION[:4] + b"\2\0\0\0", flags=0x34)) + bytes(60),
    "GTP-U, five extensions": ipv4(
        gtpu(b"\0\0\0\x20" + b"\1\0\0\x20" * 4 + b"\1\0\0\0" + IN4, flags=0x34)
    ),
    "IPv4 of nothing": ipv4(b"", 4) + IN4,
    "IPv6 of nothing": ipv4(b"", 41) + IN6,
    "IPv6 called IPv4": ipv4(IN6, 4),
    "IPv4 called IPv6": ipv6(IN4, 41),
}


# Whose inner packet has been cut off behind its headers, and by how many bytes
CUT = {
    "VXLAN, by a mirror": (ipv4(vxlan(FRAME4[:-4])), 4),
    "VXLAN, inner longer than outer": (ipv4(vxlan(ether(ipv4(tcp(X11), 6, total=60)))), 9),
    "GTP-U, length cuts": (ipv4(gtpu(IN4, extra=-1)), 1),
    "ERSPAN III, by a switch": (ipv4(erspan3(FRAME4[:-11]), 47), 11),
    "ERSPAN II, said": (ipv4(erspan2(FRAME4[:-6], bits=1), 47), 6),
    "IPv6 in IPv4": (ipv4(ipv6(tcp(X11), 6)[:-3], 41), 3),
}


def framed(packet: bytes, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """An Ethernet frame of an IP packet of either version."""
    return ether(packet, 0x0800 if packet[0] >> 4 == 4 else 0x86DD, tags)


def inner(name: str) -> tuple[bytes, Flow]:
    """A frame of `DECAPSULATED`, and the flow of the packet inside."""
    packet, _, tunnel, six, vlans = DECAPSULATED[name]
    frame = framed(packet)
    flow = Flow(SRC4, DST4, 6, PORTS, len(frame), 11, vlans=vlans, tunnel=tunnel)
    if six:
        flow = replace(flow, src=SRC6, dst=DST6, protocol=17)
    return frame, flow


def outer(packet: bytes, protocol: int, ports: tuple[int, int] | None) -> Flow:
    """The flow of PACKET, which is a tunnel's, itself."""
    six = packet[0] >> 4 == 6
    said = dissect(framed(packet))
    assert isinstance(said, Packet)
    assert (said.protocol, said.ports) == (protocol, ports)
    src, dst = (SRC6, DST6) if six else (SRC4, DST4)
    return Flow(src, dst, protocol, ports, len(framed(packet)), len(said.payload))
