# SPDX-License-Identifier: Apache-2.0
"""A packet socket that nobody reads, as a place for a socket filter.

What is done through a socket the kernel undoes when it closes, also when the process was killed.

See: packet(7), include/uapi/linux/if_packet.h
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.bpf.attach.place import Direction
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.interfaces import Interface

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_IGNORE_OUTGOING = 23  # Linux 4.20
_SO_ATTACH_BPF = 50


class PacketSocket(Attachment):
    """Has a program, a socket filter that takes nothing, see every packet of an interface.

    Args:
        program: The descriptor.
        interface: Which one.
        directions: Without egress the kernel does not even show what is sent.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, interface: Interface, directions: Sequence[Direction]) -> None:
        # bound to a protocol only when the filter is there: nothing is ever queued
        self._seeing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self.replace(program)
            if Direction.EGRESS not in directions:
                self._seeing.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._seeing.bind((interface.name, _ETH_P_ALL))
        except OSError as error:
            self._seeing.close()
            why = os.strerror(error.errno or 0)
            if error.errno == errno.ENOMEM:  # before 6.7 the limit is 20 KiB by default
                why += "; net.core.optmem_max limits the program's size, raise it with sysctl"
            raise RunError(
                f"Cannot attach to a packet socket on {interface.name}: {why}."
            ) from error

    def replace(self, program: int) -> None:
        """The kernel exchanges a socket's filter in one step."""
        self._seeing.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)

    def detach(self) -> None:
        """Close the socket."""
        self._seeing.close()
