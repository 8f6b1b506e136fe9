# SPDX-License-Identifier: Apache-2.0
"""What a frame is, read from the RFCs in plain Python: the judge of the kernel program's reading.

Written from the documents named below and the rules of the product, not from the program under
test. A frame is never more than 64 KiB here: merged packets that outgrow their own length field are
none of this file's business.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address


class Not(enum.Enum):
    """Why a frame is not a packet that belongs to a flow."""

    IP = "not_ip"
    WELL_FORMED = "malformed"


@dataclass(frozen=True)
class Packet:
    """An IP packet; `vlans`: the VLAN ids, outermost first; `ports`: source, destination."""

    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    protocol: int
    ports: tuple[int, int] | None
    payload: bytes
    vlans: tuple[int, ...] = ()


class _MalformedError(Exception):
    pass


@dataclass
class _Reader:
    """Takes a packet apart from front to back."""

    data: bytes

    def take(self, length: int) -> bytes:
        """The next LENGTH bytes, all of which must be there."""
        if not 0 <= length <= len(self.data):
            raise _MalformedError
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def number(self, length: int) -> int:
        """The next LENGTH bytes as a number in network byte order."""
        return int.from_bytes(self.take(length), "big")

    def cut(self, length: int) -> None:
        """Forget what is behind the next LENGTH bytes, all of which must be there."""
        self.data = self.take(length)


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
FRAGMENT = 44  # RFC 8200 section 4.5: always 8 bytes
AUTHENTICATION = 51  # RFC 4302 section 2.2: in units of 4 bytes, the first 8 not counted

# RFC 768, RFC 3828, RFC 9260 section 3.1, RFC 792, RFC 4443 section 2.1
TRANSPORTS = {17: ("UDP", 8), 136: ("UDP-Lite", 8), 132: ("SCTP", 12)}
PORTLESS = {1: ("ICMP", 8), 58: ("ICMPv6", 8)}
TCP = 6  # RFC 9293 section 3.1


def dissect(frame: bytes, *, ethertype: int | None = None) -> Packet | Not:
    """Read a frame.

    Args:
        frame: Begins with an Ethernet header, ends ahead of the frame check sequence.
        ethertype: If given, the frame begins with what this says instead (layer 3).
    """
    reader = _Reader(frame)
    vlans = []
    try:
        if ethertype is None:
            reader.take(12)
            ethertype = reader.number(2)
            while ethertype in TAGS:  # IEEE 802.1Q section 9.3: 3 + 1 bits, 12 bits of VLAN id
                if len(vlans) == MOST_TAGS:
                    return Not.WELL_FORMED
                vlans.append(reader.number(2) % 4096)
                ethertype = reader.number(2)
        if ethertype == 0x0800:  # RFC 894
            return _ipv4(reader, tuple(vlans))
        if ethertype == 0x86DD:  # RFC 2464 section 3
            return _ipv6(reader, tuple(vlans))
    except _MalformedError:
        return Not.WELL_FORMED
    return Not.IP


def _require(*conditions: bool) -> None:
    if not all(conditions):
        raise _MalformedError


def _ipv4(reader: _Reader, vlans: tuple[int, ...]) -> Packet:
    """RFC 791 section 3.1."""
    there = len(reader.data)
    version, header_words = divmod(reader.number(1), 16)
    reader.take(1)
    total = reader.number(2)
    reader.take(2)
    fragment_offset = reader.number(2) % 8192
    reader.take(1)
    protocol = reader.number(1)
    reader.take(2)
    src, dst = IPv4Address(reader.take(4)), IPv4Address(reader.take(4))
    _require(version == 4, header_words >= 5, header_words * 4 <= total <= there)
    reader.cut(total - 20)
    reader.take(header_words * 4 - 20)
    ports = None if fragment_offset else _transport(reader, protocol)
    return Packet(src, dst, protocol, ports, reader.data, vlans)


def _ipv6(reader: _Reader, vlans: tuple[int, ...]) -> Packet:
    """RFC 8200 sections 3 and 4."""
    version = reader.number(1) // 16
    reader.take(3)
    payload_length = reader.number(2)
    following = reader.number(1)
    reader.take(1)
    src, dst = IPv6Address(reader.take(16)), IPv6Address(reader.take(16))
    _require(version == 6)
    reader.cut(payload_length)
    extensions = 0
    while following in PLAIN_EXTENSIONS or following in (FRAGMENT, AUTHENTICATION):
        extensions += 1
        _require(extensions <= MOST_EXTENSIONS)
        kind, following = following, reader.number(1)
        length = reader.number(1)
        if kind == FRAGMENT:
            fragment_offset = reader.number(2) // 8
            reader.take(4)
            if fragment_offset:
                return Packet(src, dst, following, None, reader.data, vlans)
        elif kind == AUTHENTICATION:
            reader.take(6 + length * 4)
        else:
            reader.take(6 + length * 8)
    ports = _transport(reader, following)
    return Packet(src, dst, following, ports, reader.data, vlans)


def _transport(reader: _Reader, protocol: int) -> tuple[int, int] | None:
    """Take the transport header; its ports, if it has any."""
    if protocol in PORTLESS:
        reader.take(PORTLESS[protocol][1])
        return None
    if protocol in TRANSPORTS:
        ports = reader.number(2), reader.number(2)
        reader.take(TRANSPORTS[protocol][1] - 4)
        return ports
    if protocol == TCP:
        ports = reader.number(2), reader.number(2)
        reader.take(8)
        header_words = reader.number(1) // 16
        reader.take(7)
        _require(header_words >= 5)
        reader.take(header_words * 4 - 20)
        return ports
    return None
