# SPDX-License-Identifier: Apache-2.0
"""The same TCP segment in frames of every kind, from behind the MAC addresses on."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roundtripcases import Step
    from roundtrips import End

_TCP, _HOP, _ROUTING, _DESTINATION = 6, 0, 43, 60
_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32, "E": 64, "C": 128}
_TIMESTAMPS = bytes.fromhex("0101080a")


@dataclass(frozen=True)
class Framing:
    """How a segment is wrapped.

    Args:
        version: Of IP.
        tags: VLANs: ethertype and tag control information of each.
        ip_options: Of IPv4, bytes.
        extensions: Of IPv6, the types of its headers in order.
        tcp_options: Behind the TCP header, bytes.
        shortest: What a frame is filled up to, with bytes that are no data.
    """

    version: int = 4
    tags: tuple[tuple[int, int], ...] = ()
    ip_options: bytes = b""
    extensions: tuple[int, ...] = ()
    tcp_options: bytes = b""
    shortest: int = 0

    def addresses(self) -> tuple[str, str]:
        """Of this machine, and of the one beyond; the kernel knows neither."""
        if self.version == 4:
            return "198.51.100.2", "203.0.113.7"
        return "2001:db8::2", "2001:db8:1::7"

    def frame(self, ends: tuple[End, End], step: Step) -> bytes:
        """The segment of STEP between ENDS, of whom the first is here."""
        source, target = ends if step.leaves else reversed(ends)
        offset = 5 + len(self.tcp_options) // 4
        flags = sum(_FLAGS[letter] for letter in step.flags)
        numbers = source.port, target.port, step.sequence, step.acknowledges
        head = struct.pack(">HHIIBBHHH", *numbers, offset << 4, flags, 1000, 0, 0)
        data = head + self.tcp_options + bytes(step.length)
        return self.wrap(source.address, target.address, data, _TCP)

    def wrap(self, source: str, target: str, data: bytes, protocol: int) -> bytes:
        """DATA of that PROTOCOL, in a packet and a frame."""
        packet = self._ip(source, target, data, protocol)
        tags = b"".join(struct.pack(">HH", *tag) for tag in self.tags)
        ethertype = struct.pack(">H", 0x0800 if self.version == 4 else 0x86DD)
        return (tags + ethertype + packet).ljust(self.shortest - 12, b"\x55")

    def _ip(self, source: str, target: str, data: bytes, protocol: int) -> bytes:
        addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
        if self.version == 4:
            ihl = 5 + len(self.ip_options) // 4
            total = ihl * 4 + len(data)
            head = struct.pack(">BBHHHBBH", 4 << 4 | ihl, 0, total, 7, 0, 64, protocol, 0)
            return head + addresses + self.ip_options + data
        following = protocol
        for kind in reversed(self.extensions):
            data, following = bytes((following, 0)).ljust(8, b"\0") + data, kind
        return struct.pack(">IHBB", 6 << 28, len(data), following, 64) + addresses + data


FRAMINGS = {
    "IPv4": Framing(),
    "IPv4, filled up": Framing(shortest=120),
    "IPv4 with options of IP and TCP": Framing(
        ip_options=b"\1" * 12, tcp_options=_TIMESTAMPS + bytes(8)
    ),
    "VLAN": Framing(tags=((0x8100, 5),)),
    "VLANs, IPv6": Framing(6, tags=((0x88A8, 100), (0x8100, 7))),
    "IPv6": Framing(6),
    "IPv6 with extension headers": Framing(6, extensions=(_HOP, _ROUTING, _DESTINATION)),
    "IPv6, longest TCP header": Framing(6, tcp_options=b"\1" * 40),
}
