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
    from collections.abc import Collection

_RTMGRP_LINK = 1
_RTM_DELLINK = 17
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_LARGEST = 1 << 16
_BUFFER = 1 << 18


class Links:
    """Tells which interfaces are removed; anybody may ask.

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

    def removed(self, known: Collection[int]) -> set[int]:
        """The indices of interfaces that have been removed since it was last asked.

        Args:
            known: Those that matter.
        """
        found: set[int] = set()
        while True:
            try:
                data = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return found & set(known)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                there = {index for index, _ in socket.if_nameindex()}
                found |= {index for index in known if index not in there}  # some were missed
            else:
                found |= removals(data)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def removals(data: bytes) -> set[int]:
    """The indices of interfaces that netlink messages say are removed."""
    found, at = set(), 0
    while at + _HEADER.size + _LINK.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        # a bridge says so too of a port that leaves it, which goes on (family AF_BRIDGE)
        family, _, index, _, _ = _LINK.unpack_from(data, at + _HEADER.size)
        if kind == _RTM_DELLINK and family == socket.AF_UNSPEC:
            found.add(index)
        at += max((length + 3) & ~3, _HEADER.size)
    return found
