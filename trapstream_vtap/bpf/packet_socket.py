# SPDX-License-Identifier: Apache-2.0
"""Packet sockets that nobody reads: as a place for a program, and to make interfaces promiscuous.

What is done through a socket the kernel undoes when it closes, also when the process was killed.

See: packet(7), include/uapi/linux/if_packet.h
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.attach import Attachment, Direction
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.interfaces import Interface

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_IGNORE_OUTGOING = 23  # Linux 4.20
_PACKET_MR_PROMISC = 1
_SO_ATTACH_BPF = 50


def attach(program: int, interface: Interface, directions: Sequence[Direction]) -> Attachment:
    """Have PROGRAM, a socket filter that takes nothing, see every packet of INTERFACE.

    Args:
        program: The descriptor.
        interface: Which one.
        directions: Without egress the kernel does not even show what is sent.

    Returns:
        What replaces it, or detaches it again.

    Raises:
        RunError: The kernel refuses.
    """
    # bound to a protocol only when the filter is there: nothing is ever queued
    seeing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    def replace(other: int) -> None:
        seeing.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, other)

    try:
        replace(program)
        if Direction.EGRESS not in directions:
            seeing.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        seeing.bind((interface.name, _ETH_P_ALL))
    except OSError as error:
        seeing.close()
        why = os.strerror(error.errno or 0)
        if error.errno == errno.ENOMEM:  # before 6.7 the limit is 20 KiB by default
            why += "; net.core.optmem_max limits the program's size, raise it with sysctl"
        raise RunError(f"Cannot attach to a packet socket on {interface.name}: {why}.") from error
    return Attachment(seeing.close, replace)


def promiscuous(interfaces: Sequence[Interface]) -> Callable[[], None]:
    """Have INTERFACES take frames for other machines too; what lets go of it.

    Raises:
        RunError: The kernel refuses.
    """
    asking = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for interface in interfaces:
        request = struct.pack("iHH8x", interface.index, _PACKET_MR_PROMISC, 0)
        try:
            asking.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
        except OSError as error:
            asking.close()
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot make {interface.name} promiscuous: {why}.") from error
    return asking.close
