# SPDX-License-Identifier: Apache-2.0
"""UDP: a payload is a datagram; settled is what no port-unreachable message came back for."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapstream_vtap.sinks.address import Address
    from trapstream_vtap.sinks.sender import Payload

_ANSWER_SECONDS = 0.1
"""How long the message that nobody listens may take to come back."""
_BATCH = 16
"""Most datagrams in one system call."""
_LATE_SECONDS = 0.001
"""A batch that is not full goes when no more datagrams have come for so long."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Part(ctypes.Structure):
    """`struct iovec`, readv(2)."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """`struct mmsghdr`, sendmmsg(2), with the `struct msghdr` in it."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("number_of_parts", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_size_t),  # an int, and as much padding
        ("sent", ctypes.c_uint),
    )


class UdpSink:
    """Datagrams to a collector's UDP port.

    What is lost on the way, or in the collector's receive buffer, nobody tells the sender. Only
    that the port is closed, a round trip later: then none of the latest datagrams can be trusted
    to have arrived, and some may come twice.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._batch: list[bytes] = []
        self._latest = 0.0  # when the batch grew
        self._sent: deque[float] = deque()  # when, of those that have not settled
        self._parts = (_Part * _BATCH)()
        self._messages = (_Message * _BATCH)(
            *(_Message(parts=ctypes.pointer(part), number_of_parts=1) for part in self._parts)
        )

    def __str__(self) -> str:
        """The collector as messages name it."""
        return str(self._address)

    def open(self) -> None:
        """Make a socket for datagrams to the collector.

        Raises:
            OSError: There is no way to it now.
        """
        self.close()
        family, address = self._address.resolve()
        sending = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sending.connect(address)
        except BaseException:
            sending.close()
            raise
        self._socket = sending
        self._batch.clear()
        self._sent.clear()

    def send(self, payload: Payload) -> None:
        """Send a datagram, or keep it for a moment until there are more.

        Raises:
            OSError: Not sent; with ECONNREFUSED, what has not settled is lost, too.
        """
        self._batch.append(payload.data)
        self._latest = time.monotonic()
        if len(self._batch) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Send what is kept.

        Raises:
            OSError: As for `send`.
        """
        descriptor = self._connected().fileno()
        while self._batch:
            for part, data in zip(self._parts, self._batch, strict=False):
                part.base, part.length = data, len(data)
            count = _libc.sendmmsg(descriptor, self._messages, len(self._batch), 0)
            if count < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            self._sent.extend([time.monotonic()] * count)
            del self._batch[:count]

    def settled(self) -> list[None]:
        """One for each datagram that is as good as delivered: no answer has come back in time.

        Raises:
            OSError: The collector's port is closed.
        """
        if self._batch and time.monotonic() - self._latest > _LATE_SECONDS:
            self._flush()
        self.check()
        count = 0
        answered = time.monotonic() - _ANSWER_SECONDS
        while self._sent and self._sent[0] < answered:
            self._sent.popleft()
            count += 1
        return [None] * count

    def check(self) -> None:
        """Notice a port-unreachable message that has come meanwhile.

        Raises:
            OSError: The collector's port is closed.
        """
        error = self._connected().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def give_up(self) -> None:
        """Nothing here waits."""

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if not self._socket:
            raise ConnectionError("not connected")
        return self._socket
