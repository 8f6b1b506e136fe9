# SPDX-License-Identifier: Apache-2.0
"""Messages with descriptors between processes, over a stream socket.

A message is its length (32 bits), with which the descriptors come, and the data.

See: unix(7), SCM_RIGHTS
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LENGTH = struct.Struct("=I")
_MOST_DESCRIPTORS = 64
_NO_LIMIT = 1 << 32


def send(to: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send DATA and DESCRIPTORS, which stay open here too.

    Raises:
        OSError: Nobody is there any more.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    to.sendmsg([_LENGTH.pack(len(data))], rights if descriptors else [])
    to.sendall(data)


def receive(source: socket.socket, most: int = _NO_LIMIT) -> tuple[bytes, list[int]]:
    """The next message: data, and descriptors that no other program inherits.

    Args:
        source: Where from.
        most: Bytes that it may have.

    Raises:
        EOFError: There is none any more, or it is too long.
        OSError: Likewise.
    """
    head, ancillary, _, _ = source.recvmsg(
        _LENGTH.size, socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % 4])
    try:
        head += _exactly(source, _LENGTH.size - len(head))
        (length,) = _LENGTH.unpack(head)
        return _exactly(source, length, most), list(descriptors)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _exactly(source: socket.socket, size: int, most: int = _NO_LIMIT) -> bytes:
    if size > most:
        raise EOFError
    parts = []
    while size:
        part = source.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
