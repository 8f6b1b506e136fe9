# SPDX-License-Identifier: Apache-2.0
"""UDP: a payload is a datagram; settled is what no port-unreachable message came back for."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapstream_vtap.config import Collector

_ANSWER_SECONDS = 0.1
"""How long the message that nobody listens may take to come back."""


class UdpSink:
    """Datagrams to a collector's UDP port.

    What is lost on the way, or in the collector's receive buffer, nobody tells the sender. Only that
    the port is closed: then the latest datagram is known to be lost.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._socket: socket.socket | None = None
        self._unsettled = 0
        self._latest = 0.0

    def __str__(self) -> str:
        """The collector as messages name it."""
        return f"{self._collector} (udp)"

    def open(self) -> None:
        """Make a socket for datagrams to the collector.

        Raises:
            OSError: There is no way to it now.
        """
        self.close()
        sending = socket.socket(self._collector.family, socket.SOCK_DGRAM)
        try:
            sending.connect(self._collector.address)
        except BaseException:
            sending.close()
            raise
        self._socket, self._unsettled = sending, 0

    def send(self, data: bytes) -> None:
        """Send one datagram.

        Raises:
            OSError: Not sent; with ECONNREFUSED, what has not settled is lost, too.
        """
        self._connected().send(data)
        self._unsettled += 1
        self._latest = time.monotonic()

    def settled(self) -> int:
        """How many more datagrams are as good as delivered: all but one that may yet come back.

        Raises:
            OSError: The collector's port is closed.
        """
        self.check()
        young = time.monotonic() - self._latest < _ANSWER_SECONDS
        count = max(0, self._unsettled - young)
        self._unsettled -= count
        return count

    def check(self) -> None:
        """Notice a port-unreachable message that has come meanwhile.

        Raises:
            OSError: The collector's port is closed.
        """
        error = self._connected().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self._socket:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if not self._socket:
            raise ConnectionError("not connected")
        return self._socket
