# SPDX-License-Identifier: Apache-2.0
"""Interfaces that take frames for other machines too, as long as a socket asks for it.

See: packet(7), PACKET_MR_PROMISC
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.interfaces import Interface

_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_MR_PROMISC = 1


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
