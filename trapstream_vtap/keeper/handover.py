# SPDX-License-Identifier: Apache-2.0
"""Messages with descriptors between processes, over a stream socket.

A message is its length and the number of descriptors (32 bits each), the data, and the descriptors,
some at a time, each time with a byte.

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

WAYS = ("read", "look", "same")
"""From which settings to load: the configuration read anew, with the interfaces that are there now;
those in force, with the interfaces that are there now; those from which was loaded last, as they
are: so that several probes are of one mind.
"""
_HEAD = struct.Struct("=II")
_DESCRIPTORS_AT_ONCE = 64  # of 253 that the kernel takes, SCM_MAX_FD
_NO_LIMIT = 1 << 32


def send(to: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send DATA and DESCRIPTORS, which stay open here too.

    Raises:
        OSError: Nobody is there any more.
    """
    to.sendall(_HEAD.pack(len(data), len(descriptors)) + data)
    for first in range(0, len(descriptors), _DESCRIPTORS_AT_ONCE):
        some = array.array("i", descriptors[first : first + _DESCRIPTORS_AT_ONCE])
        to.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)])


def receive(source: socket.socket) -> tuple[bytes, list[int]]:
    """The next message of a peer that we trust: data, and descriptors that no program inherits.

    Raises:
        EOFError: There is none any more, or a part of it is missing.
        OSError: Likewise.
    """
    length, count = _HEAD.unpack(_exactly(source, _HEAD.size))
    data = _exactly(source, length)
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            descriptors += _some(source)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return data, descriptors


def request(source: socket.socket, most: int) -> bytes:
    """The next message of a peer that we do not trust, of at most MOST bytes.

    Descriptors that come with it are not taken: the kernel closes them.

    Raises:
        EOFError: There is none any more, or it is longer.
        OSError: Likewise.
    """
    length, count = _HEAD.unpack(_exactly(source, _HEAD.size))
    data = _exactly(source, length, most)
    _exactly(source, -(-count // _DESCRIPTORS_AT_ONCE), most)
    return data


def _some(source: socket.socket) -> list[int]:
    space = socket.CMSG_SPACE(4 * _DESCRIPTORS_AT_ONCE)
    said, ancillary, flags, _ = source.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % 4])
    if not said or not found or flags & socket.MSG_CTRUNC:
        for descriptor in found:
            os.close(descriptor)
        raise EOFError
    return list(found)


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
