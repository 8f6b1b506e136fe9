# SPDX-License-Identifier: Apache-2.0
"""UDP: a payload is a datagram; settled is what no port-unreachable message came back for."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from trapstream_vtap.sinks.connection import Route

if TYPE_CHECKING:
    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.payload import Payload

_ANSWER_SECONDS = 0.3
"""How long the message that nobody listens may take to come back."""
_PATIENCE = 1.5
"""The same, in seconds, where a port was found closed, or nothing is known of it yet.

Hosts limit how many such messages they send: Linux saves up six to each destination, and adds one
a second (net.ipv4.icmp_ratelimit, net.ipv6.icmp.ratelimit). So after a refusal there is silence for
so long, then a single datagram, and what follows it is waited for as long.
"""
_BATCH = 16
"""Most datagrams in one system call."""
_LATE_SECONDS = 0.001
"""A batch that is not full goes when no more datagrams have come for so long."""

_POLL_MS = 200
_IP_RECVERR = 11  # include/uapi/linux/in.h
_IPV6_RECVERR = 25  # include/uapi/linux/in6.h
_REFUSALS = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
_NUMBER = struct.Struct("=I")  # the first of struct sock_extended_err, linux/errqueue.h

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
        self._given_up = threading.Event()
        self._route = Route(address.hosts[0], socket.SOCK_DGRAM, self._given_up)
        self._socket: socket.socket | None = None
        self._doubt = False  # the port was found closed, and nothing has proved it open
        self._sure_from = 0.0  # when what was sent since the port was opened must be answered
        self._latest_sent = -_PATIENCE
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
        sending = self._route.connect()
        sending.setblocking(True)  # noqa: FBT003 - the standard library's signature
        if sending.family == socket.AF_INET6:
            sending.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        sending.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        self._socket = sending
        self._batch.clear()
        self._sent.clear()
        self._sure_from = 0.0

    def send(self, payload: Payload) -> None:
        """Send a datagram, or keep it for a moment until there are more.

        Raises:
            OSError: Not sent, or refused; what has not settled is lost, too.
        """
        if self._doubt:
            self._probe(payload.data)
            return
        self._batch.append(payload.data)
        self._latest = time.monotonic()
        if len(self._batch) == _BATCH:
            self._flush()

    def _probe(self, data: bytes) -> None:
        """A single datagram, and nothing else until its answer must have come.

        Raises:
            OSError: It is a refusal, or this is the end.
        """
        if self._given_up.wait(self._latest_sent + _PATIENCE - time.monotonic()):
            raise TimeoutError(0, "not sent any more")
        self._batch.append(data)
        self._flush()
        refusal = select.poll()
        refusal.register(self._connected(), 0)  # POLLERR comes unasked
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not refusal.poll(_POLL_MS):
            if self._given_up.is_set():
                raise TimeoutError(0, "not answered")
        self.check()
        self._doubt = False
        self._sent[-1] = 0.0  # it has been waited for
        self._sure_from = time.monotonic() + _PATIENCE

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
                self._refused(ctypes.get_errno())
            self._latest_sent = time.monotonic()
            self._sure_from = self._sure_from or self._latest_sent + _PATIENCE
            self._sent.extend([self._latest_sent] * count)
            short = count < len(self._batch)
            del self._batch[:count]
            if short and (number := _queued(self._connected())):
                self._refused(number)  # the call does not tell (sendmmsg(2), BUGS)

    def _refused(self, number: int) -> NoReturn:
        self._doubt = self._doubt or number in _REFUSALS
        self._batch.clear()
        self._sent.clear()
        raise OSError(number, os.strerror(number))

    def settled(self) -> list[None]:
        """One for each datagram that is as good as delivered: no answer has come back in time.

        Raises:
            OSError: The collector's port is closed.
        """
        if self._batch and time.monotonic() - self._latest > _LATE_SECONDS:
            self._flush()
        self.check()
        count = 0
        now = time.monotonic()
        answered = now - (_PATIENCE if now < self._sure_from else _ANSWER_SECONDS)
        while self._sent and self._sent[0] < answered:
            self._sent.popleft()
            count += 1
        if count:
            self._route.worked()
        return [None] * count

    def check(self) -> None:
        """Notice a port-unreachable message that has come meanwhile.

        Raises:
            OSError: The collector's port is closed.
        """
        connection = self._connected()
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._refused(number)

    def renew(self) -> bool:
        """There are no credentials."""
        return False

    def give_up(self) -> None:
        """Have a `send` that waits for an answer raise instead."""
        self._given_up.set()

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if not self._socket:
            raise ConnectionError("not connected")
        return self._socket


def _queued(connection: socket.socket) -> int:
    """The error of the first message that has come back (ip(7), IP_RECVERR); 0: none has."""
    with suppress(BlockingIOError):
        flags = socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
        _, ancillary, _, _ = connection.recvmsg(0, 512, flags)
        for _level, _kind, data in ancillary:
            number: int = _NUMBER.unpack_from(data)[0]
            if number:
                return number
    return 0
