# SPDX-License-Identifier: Apache-2.0
"""TCP: payloads one behind the other; settled is what the peer's kernel has acknowledged."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from trapstream_vtap.sinks.connection import Route

if TYPE_CHECKING:
    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.payload import Payload

_POLL_MS = 200
_MOST_TAKEN_IN = 64  # times 64 KiB of what a collector says, between two other steps
_MOST_UNANSWERED = 5
"""Retransmissions, or probes of a closed window, that may stay without an answer.

The next one is sent after 12.6 s, if the time-out begins with its least, 0.2 s; it doubles each
time. The kernel by itself goes on for a quarter of an hour (tcp_retries2; RFC 1122, 4.2.3.5).
TCP_USER_TIMEOUT would also end a connection to a peer that answers, but does not read.
"""
_INFO = struct.Struct("=2xBB40xI8xI")
"""Of `struct tcp_info`, linux/tcp.h: retransmits, probes, last_data_sent and last_ack_recv (ms)."""


class TcpSink:
    """One connection at a time to a collector's TCP port.

    Args:
        address: Where to.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._given_up = threading.Event()
        self._route = Route(address.hosts[0], socket.SOCK_STREAM, self._given_up)
        self._socket: socket.socket | None = None
        self._written = 0
        self._ends: deque[int] = deque()

    def __str__(self) -> str:
        """The collector as messages name it."""
        return str(self._address)

    def open(self) -> None:
        """Connect.

        Raises:
            OSError: It is not to be had now.
        """
        self.close()
        connection = self._route.connect()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._written = 0
            self._ends.clear()
            self._greet(connection)
        except BaseException:
            connection.close()
            raise
        self._socket = connection

    def _greet(self, connection: socket.socket) -> None:
        """What comes ahead of the first payload: nothing."""

    def send(self, payload: Payload) -> None:
        """Write a whole payload, however long the peer takes.

        Raises:
            OSError: The connection is lost, and with it everything that has not settled.
        """
        self._put(payload.data)
        self._ends.append(self._written)

    def _put(self, data: bytes) -> None:
        connection = self._connected()
        rest = memoryview(data)
        writable = select.poll()  # select(2) takes no descriptor above 1023
        writable.register(connection, select.POLLOUT | select.POLLIN)
        while rest:
            ready = writable.poll(_POLL_MS)
            if ready and ready[0][1] & select.POLLIN:
                self._take_in(connection)  # or a collector that answers waits for us for ever
            if ready and ready[0][1] & ~select.POLLIN:
                done = connection.send(rest)
                self._written += done
                rest = rest[done:]
            elif self._given_up.is_set():
                raise TimeoutError("the collector does not read")
            else:
                self._hear(connection)

    def settled(self) -> list[None]:
        """One for each payload that the peer has acknowledged since the last call.

        Raises:
            OSError: The connection is lost.
        """
        connection = self._connected()
        waiting = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
        acknowledged = self._written - struct.unpack("i", waiting)[0]
        count = 0
        while self._ends and self._ends[0] <= acknowledged:
            self._ends.popleft()
            count += 1
        if count:
            self._route.worked()
        elif self._ends:
            self._listen(connection)
            self._hear(connection)
        return [None] * count

    def renew(self) -> bool:
        """There are no credentials."""
        return False

    def give_up(self) -> None:
        """Have a `send` that waits for the peer to read raise instead."""
        self._given_up.set()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def check(self) -> None:
        """Notice a peer that has gone while there was nothing to send.

        Raises:
            OSError: It has.
        """
        self._listen(self._connected())

    def _listen(self, connection: socket.socket) -> None:
        with suppress(BlockingIOError):
            for _ in range(_MOST_TAKEN_IN):  # it may go on for ever
                self._take_in(connection)

    def _take_in(self, connection: socket.socket) -> None:
        """What the collector says, which is nothing to us.

        Raises:
            OSError: It has gone, or says nothing (BlockingIOError).
        """
        self._received(connection)

    @staticmethod
    def _hear(connection: socket.socket) -> None:
        """Notice that nothing has come back for long, not even from the peer's kernel.

        Raises:
            OSError: So it is.
        """
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        retransmits, probes, last_sent, last_heard = _INFO.unpack(info)
        silent = retransmits > _MOST_UNANSWERED and last_heard > last_sent
        if silent or probes > _MOST_UNANSWERED:
            # Reset it, or the kernel goes on sending what will be sent again.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise TimeoutError("no answer from the collector's machine")

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        received = connection.recv(1 << 16)
        if not received:
            raise ConnectionResetError("the collector closed the connection")
        return received

    def _connected(self) -> socket.socket:
        if not self._socket:
            raise ConnectionError("not connected")
        return self._socket
