# SPDX-License-Identifier: Apache-2.0
"""What becomes of the interfaces of this network namespace, as the kernel tells it.

See: rtnetlink(7), include/uapi/linux/rtnetlink.h
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from trapstream_vtap.interfaces import RTM_DELLINK, messages

if TYPE_CHECKING:
    from collections.abc import Mapping

_RTMGRP_LINK = 1
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
    for said in messages(data):
        # a bridge says so too of a port that leaves it, which goes on (family AF_BRIDGE)
        if said.family == socket.AF_UNSPEC and said.kind == RTM_DELLINK:
            found[said.index] = None
        elif said.family == socket.AF_UNSPEC and said.name:
            found[said.index] = said.name
    return found
