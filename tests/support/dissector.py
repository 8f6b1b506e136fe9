# SPDX-License-Identifier: Apache-2.0
"""What a frame is, read from the RFCs in plain Python: the judge of the kernel program's reading.

Written from the documents named below and the rules of the product, not from the program under
test. A frame is never more than 64 KiB here: merged packets that outgrow their own length field are
none of this file's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Not(enum.Enum):
    """Why a frame is not a packet that belongs to a flow."""

    IP = "not_ip"
    WELL_FORMED = "malformed"


@dataclass(frozen=True)
class Packet:
    """An IP packet.

    Args:
        src: Where from.
        dst: Where to.
        protocol: The last that its headers name.
        ports: Source and destination, where there are any.
        payload: What is there of it.
        vlans: The VLAN ids, outermost first.
        tunnel: The tunnel's id.
        missing: So many bytes more the headers promise.
    """

    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    protocol: int
    ports: tuple[int, int] | None
    payload: bytes
    vlans: tuple[int, ...] = ()
    tunnel: int | None = None
    missing: int = 0


class _MalformedError(Exception):
    pass


@dataclass
class _Reader:
    """Takes a packet apart from front to back; at its end bytes may be promised and MISSING."""

    data: bytes
    missing: int = 0

    def take(self, length: int) -> bytes:
        """The next LENGTH bytes, all of which must be there."""
        if not 0 <= length <= len(self.data):
            raise _MalformedError
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def number(self, length: int) -> int:
        """The next LENGTH bytes as a number in network byte order."""
        return int.from_bytes(self.take(length), "big")

    def peek(self) -> int:
        """The next byte, which must be there."""
        _require(len(self.data) > 0)
        return self.data[0]

    def promise(self, length: int) -> None:
        """A header says that there are LENGTH bytes from here on."""
        self.missing = max(length - len(self.data), 0)
        self.data = self.data[:length]

    @property
    def room(self) -> int:
        """How many bytes are promised from here on."""
        return len(self.data) + self.missing


TAGS = {0x8100: "802.1Q", 0x88A8: "802.1ad", 0x9100: "QinQ before 802.1ad"}
MOST_TAGS = 2
MOST_EXTENSIONS = 8

# RFC 8200 section 4.1, RFC 6275 section 6.1.1, RFC 7401 section 5.1, RFC 5533 section 5.1:
# the header's length follows its type, in units of 8 bytes, the first 8 not counted
PLAIN_EXTENSIONS = {0: "hop-by-hop", 43: "routing", 60: "destination options"} | {
    135: "mobility",
    139: "HIP",
    140: "shim6",
}
LAST = (135, 139, 140)
"""Protocols of their own where nothing follows them, which 59 says (RFC 8200 section 4.7)."""
FRAGMENT = 44  # RFC 8200 section 4.5: always 8 bytes
AUTHENTICATION = 51  # RFC 4302 section 2.2: in units of 4 bytes, the first 8 not counted

# RFC 768, RFC 3828, RFC 9260 section 3.1, RFC 792, RFC 4443 section 2.1
TRANSPORTS = {17: ("UDP", 8), 136: ("UDP-Lite", 8), 132: ("SCTP", 12)}
PORTLESS = {1: ("ICMP", 8), 58: ("ICMPv6", 8)}
TCP = 6  # RFC 9293 section 3.1


def dissect(
    frame: bytes, *, ethertype: int | None = None, tunnels: Collection[str] = ()
) -> Packet | Not:
    """Read a frame.

    Args:
        frame: Begins with an Ethernet header, ends ahead of the frame check sequence.
        ethertype: If given, the frame begins with what this says instead (layer 3).
        tunnels: What to look into, one level deep.
    """
    try:
        outer = _frame(_Reader(frame), ethertype)
        if isinstance(outer, Not) or outer.part:
            return outer.packet if isinstance(outer, _Read) else outer
    except _MalformedError:
        return Not.WELL_FORMED
    try:
        inside = _inside(outer.packet, tunnels)
        if inside is None:
            return outer.packet
        inner = _frame(inside.reader, inside.ethertype, inside.vlans, outer=False)
    except _MalformedError:
        return outer.packet
    return outer.packet if isinstance(inner, Not) else replace(inner.packet, tunnel=inside.tunnel)


@dataclass(frozen=True)
class _Read:
    """A packet, and whether it is a fragment: only a part of what its header is of."""

    packet: Packet
    part: bool = False


def _frame(
    reader: _Reader, ethertype: int | None, tags: tuple[int, ...] = (), *, outer: bool = True
) -> _Read | Not:
    """An Ethernet frame or, if its type is given, what is in it."""
    vlans = list(tags)
    if ethertype is None:
        reader.take(12)
        ethertype = _tags(reader, vlans)
        if outer:
            ethertype = _shims(reader, ethertype, vlans)
    if ethertype == 0x0800:  # RFC 894
        return _ipv4(reader, tuple(vlans))
    if ethertype == 0x86DD:  # RFC 2464 section 3
        return _ipv6(reader, tuple(vlans))
    return Not.IP


def _tags(reader: _Reader, vlans: list[int]) -> int:
    """The ethertype behind VLAN tags, IEEE 802.1Q section 9.3: 3 + 1 bits, 12 bits of VLAN id."""
    ethertype = reader.number(2)
    while ethertype in TAGS:
        _require(len(vlans) < MOST_TAGS)
        vlans.append(reader.number(2) % 4096)
        ethertype = reader.number(2)
    return ethertype


VN_TAG, I_TAG = 0x8926, 0x88E7  # IEEE 802.1BR's forerunner; IEEE 802.1Q section 9.7
PPPOE = 0x8864  # RFC 2516 section 4
MPLS = (0x8847, 0x8848)  # RFC 3032 section 2.1, RFC 5332
MOST_LABELS = 4


def _shims(reader: _Reader, ethertype: int, vlans: list[int]) -> int:
    """The ethertype of what is behind what may stand ahead of an IP packet."""
    if ethertype in (VN_TAG, I_TAG):
        reader.take(4 if ethertype == VN_TAG else 16)
        ethertype = _tags(reader, vlans)
    ahead = reader.data
    if ethertype < 0x600 and ahead[:6] == b"\xaa\xaa\x03\0\0\0" and len(ahead) >= 8:  # RFC 1042
        reader.take(6)
        return reader.number(2)
    if ethertype == PPPOE and ahead[:2] == b"\x11\0" and len(ahead) >= 8:
        reader.take(6)
        return {0x21: 0x0800, 0x57: 0x86DD}.get(reader.number(2), 0)
    if ethertype in MPLS:
        for _ in range(MOST_LABELS):
            if len(reader.data) < 5:
                return ethertype
            if reader.number(4) & 0x100:
                return {4: 0x0800, 6: 0x86DD}.get(reader.peek() >> 4, 0)
    return ethertype


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise _MalformedError


def _ipv4(reader: _Reader, vlans: tuple[int, ...]) -> _Read:
    """RFC 791 section 3.1."""
    there = len(reader.data)
    version, header_words = divmod(reader.number(1), 16)
    reader.take(1)
    total = reader.number(2)
    reader.take(2)
    more, fragment_offset = divmod(reader.number(2) % 16384, 8192)
    reader.take(1)
    protocol = reader.number(1)
    reader.take(2)
    src, dst = IPv4Address(reader.take(4)), IPv4Address(reader.take(4))
    _require(version == 4, header_words >= 5, header_words * 4 <= min(total, there))
    reader.promise(total - 20)
    reader.take(header_words * 4 - 20)
    ports = None
    if not fragment_offset:
        if protocol == AUTHENTICATION:
            protocol, length = reader.number(1), reader.number(1)
            reader.take(6 + length * 4)
        ports = _transport(reader, protocol, first=bool(more))
    part = bool(more or fragment_offset)
    return _read(reader, Packet(src, dst, protocol, ports, b"", vlans), part=part)


def _read(reader: _Reader, packet: Packet, *, part: bool) -> _Read:
    """PACKET with what is left as its payload."""
    return _Read(replace(packet, payload=reader.data, missing=reader.missing), part)


def _ipv6(reader: _Reader, vlans: tuple[int, ...]) -> _Read:
    """RFC 8200 sections 3 and 4."""
    version = reader.number(1) // 16
    reader.take(3)
    payload_length = reader.number(2)
    following = reader.number(1)
    reader.take(1)
    src, dst = IPv6Address(reader.take(16)), IPv6Address(reader.take(16))
    _require(version == 6)
    reader.promise(payload_length)
    extensions, kind, part = 0, -1, False
    while following in PLAIN_EXTENSIONS or following in (FRAGMENT, AUTHENTICATION):
        extensions += 1
        _require(extensions <= MOST_EXTENSIONS)
        kind, following = following, reader.number(1)
        length = reader.number(1)
        if kind == FRAGMENT:
            fragment_offset, flags = divmod(reader.number(2), 8)
            reader.take(4)
            part = part or bool(fragment_offset or flags % 2)
            if fragment_offset:
                packet = Packet(src, dst, following, None, b"", vlans)
                return _read(reader, packet, part=part)
        elif kind == AUTHENTICATION:
            reader.take(6 + length * 4)
        else:
            reader.take(6 + length * 8)
    if following == 59 and kind in LAST:
        following = kind
    ports = _transport(reader, following, first=part)
    return _read(reader, Packet(src, dst, following, ports, b"", vlans), part=part)


def _transport(reader: _Reader, protocol: int, *, first: bool) -> tuple[int, int] | None:
    """Take the transport header, which a FIRST fragment need not have whole; its ports, if any."""
    if protocol in PORTLESS:
        reader.take(PORTLESS[protocol][1])
        return None
    if protocol == 17:  # RFC 768; in a first fragment the length is that of the whole datagram
        room = reader.room
        ports = reader.number(2), reader.number(2)
        length = reader.number(2)
        reader.take(2)
        _require(length >= 8, first or length <= room)
        if length < room:
            reader.promise(length - 8)
        return ports
    if protocol in TRANSPORTS:
        ports = reader.number(2), reader.number(2)
        reader.take(TRANSPORTS[protocol][1] - 4)
        return ports
    if protocol == TCP and first and reader.room < 20:  # RFC 791 section 3.2: 8 bytes may be all
        _require(reader.room >= 8, not reader.missing)
        ports = reader.number(2), reader.number(2)
        reader.take(len(reader.data))
        return ports
    if protocol == TCP:
        ports = reader.number(2), reader.number(2)
        reader.take(8)
        header_words = reader.number(1) // 16
        reader.take(7)
        _require(header_words >= 5)
        options = header_words * 4 - 20
        if first and options > reader.room:
            _require(not reader.missing)
            options = len(reader.data)
        reader.take(options)
        return ports
    return None


@dataclass(frozen=True)
class _Inside:
    """What a tunnel header leads to: an Ethernet frame where there is no ethertype."""

    reader: _Reader
    ethertype: int | None
    tunnel: int | None = None
    vlans: tuple[int, ...] = ()


BRIDGED = 0x6558
MOST_GTPU_EXTENSIONS = 4


def _inside(outer: Packet, tunnels: Collection[str]) -> _Inside | None:
    """What is in a tunnel packet; None where we were not told to look, or it holds no packet."""
    reader = _Reader(outer.payload)
    if outer.protocol == 17 and outer.ports:
        for name, port, read in (
            ("vxlan", 4789, _vxlan),
            ("geneve", 6081, _geneve),
            ("gtpu", 2152, _gtpu),
        ):
            if name in tunnels and outer.ports[1] == port:
                return read(reader)
    if outer.protocol == 47:
        return _gre(reader, tunnels)
    if "ipip" in tunnels:  # RFC 2003, RFC 2473, RFC 4213
        ethertype = {4: 0x0800, 41: 0x86DD}.get(outer.protocol)
        return _Inside(reader, ethertype) if ethertype else None
    return None


def _carried(reader: _Reader, protocol: int, tunnel: int | None) -> _Inside | None:
    """What an ethertype in a tunnel header leads to."""
    if protocol == BRIDGED:
        return _Inside(reader, None, tunnel)
    return _Inside(reader, protocol, tunnel) if protocol in (0x0800, 0x86DD) else None


def _by_version(reader: _Reader, tunnel: int | None) -> _Inside | None:
    """An IP packet of which nothing else says which IP it is."""
    ethertype = {4: 0x0800, 6: 0x86DD}.get(reader.peek() >> 4)
    return _Inside(reader, ethertype, tunnel) if ethertype else None


def _vxlan(reader: _Reader) -> _Inside:
    """RFC 7348 section 5."""
    flags = reader.number(1)
    reader.take(3)
    vni = reader.number(3)
    reader.take(1)
    _require(flags & 8 == 8)
    return _Inside(reader, None, vni)


def _geneve(reader: _Reader) -> _Inside | None:
    """RFC 8926 section 3.4."""
    version, options = divmod(reader.number(1), 64)
    control = reader.number(1) >= 128
    protocol = reader.number(2)
    vni = reader.number(3)
    reader.take(1)
    if version or control:
        return None
    reader.take(options * 4)
    return _carried(reader, protocol, vni)


def _gre(reader: _Reader, tunnels: Collection[str]) -> _Inside | None:
    """RFC 2784 section 2, RFC 2890 section 2."""
    if not {"gre", "erspan"} & set(tunnels):
        return None
    bits = f"{reader.number(2):016b}"
    protocol = reader.number(2)
    if bits[13:] != "000":
        return None
    _require(bits[1] == bits[4] == bits[5] == "0")
    if bits[0] == "1":
        reader.take(4)
    key = reader.number(4) if bits[2] == "1" else None
    if bits[3] == "1":
        reader.take(4)
    if "erspan" in tunnels and protocol == 0x88BE:
        return _erspan_2(reader) if bits[3] == "1" else _Inside(reader, None)
    if "erspan" in tunnels and protocol == 0x22EB:
        return _erspan_3(reader)
    return _carried(reader, protocol, key) if "gre" in tunnels else None


def _erspan_2(reader: _Reader) -> _Inside | None:
    """draft-foschiano-erspan-03 section 4.2."""
    version, vlan = divmod(reader.number(2), 4096)
    rest, session = divmod(reader.number(2), 1024)
    reader.take(4)
    if version != 1:
        return None
    vlans = (vlan,) if rest // 2 % 4 in (1, 2) else ()
    return _Inside(reader, None, session, vlans)


def _erspan_3(reader: _Reader) -> _Inside | None:
    """draft-foschiano-erspan-03 section 4.3."""
    version = reader.number(2) >> 12
    session = reader.number(2) % 1024
    reader.take(4)
    if version != 2:
        return None
    reader.take(2)
    last = f"{reader.number(2):016b}"
    if last[15] == "1":
        reader.take(8)
    frame_type = int(last[1:6], 2)
    if frame_type == 2:
        return _by_version(reader, session)
    return _Inside(reader, None, session) if frame_type == 0 else None


def _gtpu(reader: _Reader) -> _Inside | None:
    """3GPP TS 29.281 sections 5.1 and 5.2."""
    flags = reader.number(1)
    kind = reader.number(1)
    length = reader.number(2)
    teid = reader.number(4)
    if flags >> 4 != 3 or kind != 255:
        return None
    _require(length <= len(reader.data))
    reader.promise(length)
    if flags & 7:
        reader.take(3)
        following = reader.number(1)
        extensions = 0
        while flags & 4 and following:
            extensions += 1
            _require(extensions <= MOST_GTPU_EXTENSIONS)
            words = reader.number(1)
            _require(words > 0)
            reader.take(words * 4 - 2)
            following = reader.number(1)
    return _by_version(reader, teid)
