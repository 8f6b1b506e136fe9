# SPDX-License-Identifier: Apache-2.0
"""What becomes of the interfaces of this network namespace, as the kernel tells it.

See: rtnetlink(7), include/uapi/linux/rtnetlink.h
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_RTM_DELLINK = 17
_IFLA_IFNAME = 3  # include/uapi/linux/if_link.h
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_LARGEST = 1 << 16
_BUFFER = 1 << 18


class Links:
    """Tells which interfaces are gone; anybody may ask.

    Args:
        buffer: Bytes of messages that may wait; when there are more, all are looked at.
    """

    def __init__(self, buffer: int = _BUFFER) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        """Becomes readable when something has changed."""
        return self._socket.fileno()

    def gone(self, known: Mapping[int, str]) -> set[int]:
        """The indices of interfaces that are gone since it was last asked.

        Removed, moved into another namespace, or called by another name.

        Args:
            known: The names of those that matter, by index.
        """
        found: set[int] = set()
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                there = dict(socket.if_nameindex())  # some messages were missed
                found |= {index for index, name in known.items() if there.get(index) != name}
            else:
                said = changes(data)
                found |= {i for i, name in said.items() if i in known and name != known[i]}

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def changes(data: bytes) -> dict[int, str | None]:
    """What netlink messages say of interfaces, by index: their names, or None: they are removed."""
    found: dict[int, str | None] = {}
    at = 0
    while at + _HEADER.size + _LINK.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        # a bridge says so too of a port that leaves it, which goes on (family AF_BRIDGE)
        family, _, index, _, _ = _LINK.unpack_from(data, at + _HEADER.size)
        if family == socket.AF_UNSPEC and kind == _RTM_DELLINK:
            found[index] = None
        elif family == socket.AF_UNSPEC and kind == _RTM_NEWLINK:
            name = _name(data[at + _HEADER.size + _LINK.size : at + length])
            if name:
                found[index] = name
        at += max((length + 3) & ~3, _HEADER.size)
    return found


def _name(attributes: bytes) -> str:
    """What IFLA_IFNAME says among the ATTRIBUTES, or nothing."""
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _IFLA_IFNAME:
            value = attributes[at + _ATTRIBUTE.size : at + length]
            return value.split(b"\0")[0].decode("utf-8", "surrogateescape")
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    return ""
