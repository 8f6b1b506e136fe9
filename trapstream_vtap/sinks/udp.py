# SPDX-License-Identifier: Apache-2.0
"""UDP: a payload is a datagram; settled is what no port-unreachable message came back for."""

from __future__ import annotations

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


class UdpSink:
    """Datagrams to a collector's UDP port.

    What is lost on the way, or in the collector's receive buffer, nobody tells the sender. Only
    that the port is closed, a round trip later: then none of the latest datagrams can be trusted
    to have arrived, and some may come twice.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._sent: deque[float] = deque()  # when, of those that have not settled

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
        self._sent.clear()

    def send(self, payload: Payload) -> None:
        """Send one datagram.

        Raises:
            OSError: Not sent; with ECONNREFUSED, what has not settled is lost, too.
        """
        self._connected().send(payload.data)
        self._sent.append(time.monotonic())

    def settled(self) -> list[None]:
        """One for each datagram that is as good as delivered: no answer has come back in time.

        Raises:
            OSError: The collector's port is closed.
        """
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
