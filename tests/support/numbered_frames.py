# SPDX-License-Identifier: Apache-2.0
"""Frames to nobody, one after the other."""

from __future__ import annotations

import struct

PORT = 7001


def frame(number: int) -> bytes:
    """A UDP datagram to nobody: Ethernet, IPv4 (RFC 791) and UDP (RFC 768) headers."""
    addresses = bytes((198, 51, 100, 1, 198, 51, 100, 2))
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + number % 100, 0, 0, 64, 17, 0) + addresses
    udp = struct.pack(">HHHH", 5000, PORT, 8 + number % 100, 0)
    return bytes.fromhex("ffffffffffff0200000000010800") + ip + udp + bytes(number % 100)
