# SPDX-License-Identifier: Apache-2.0
"""A wire that withholds one segment of a TCP connection until others have passed it."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import Self

from lab.namespace import Namespace, veth

V4 = ("192.0.2.1", "192.0.2.2")
_ALL = 3  # ETH_P_ALL, include/uapi/linux/if_ether.h
_IGNORE_OUTGOING = 23  # PACKET_IGNORE_OUTGOING, include/uapi/linux/if_packet.h
_PACKET = 263  # SOL_PACKET


class Relay:
    """Two namespaces, `sender` and `receiver`, and a third one between them that copies frames.

    Segments get their receive timestamps as behind a real wire.

    Args:
        held: Which of the sender's segments with data is withheld, from 1; 0: none.
        seconds: How long. What is sent again of it meanwhile is lost.

    Attributes:
        waits: Seconds that each segment behind it was ahead of it, once it has passed.
    """

    def __init__(self, held: int, seconds: float) -> None:
        self._held, self._seconds = held, seconds
        self._passed = 0
        self._frame, self._number, self._since = b"", -1, 0.0
        self._behind: list[float] = []
        self.waits: list[float] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.sender, middle, self.receiver = (stack.enter_context(Namespace()) for _ in "123")
            veth(self.sender, "wire0", middle, "left")
            veth(middle, "right", self.receiver, "wire0")
            for namespace, own, other, there in (
                (self.sender, *V4, self.receiver),
                (self.receiver, *V4[::-1], self.sender),
            ):
                namespace.run("ip", "address", "add", f"{own}/24", "dev", "wire0")
                known = ("lladdr", _mac(there), "dev", "wire0", "nud", "permanent")
                namespace.run("ip", "neighbour", "add", other, *known)
            self._ends = []
            for name in ("left", "right"):
                kind = socket.htons(_ALL)
                end = stack.enter_context(middle.socket(socket.AF_PACKET, socket.SOCK_RAW, kind))
                end.bind((name, _ALL))
                end.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
                self._ends.append(end)
            self._done = threading.Event()
            self._copying = threading.Thread(target=self._copy)
            self._copying.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._copying.join()
        self._stack.close()

    def connection(self, port: int) -> tuple[socket.socket, socket.socket]:
        """A TCP connection from the sender: its two ends."""
        with self.receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind((V4[1], port))
            listener.listen()
            ours = self._stack.enter_context(self.sender.socket(socket.AF_INET, socket.SOCK_STREAM))
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ours.connect((V4[1], port))
            return ours, self._stack.enter_context(listener.accept()[0])

    def _copy(self) -> None:
        left, right = self._ends
        while not self._done.is_set():
            ready, _, _ = select.select(self._ends, [], [], 0.005)
            for end in ready:
                frame = end.recv(65536)
                if end is right:
                    left.send(frame)
                elif not self._withholds(frame):
                    right.send(frame)
            if self._frame and time.monotonic() - self._since >= self._seconds:
                right.send(self._frame)
                self._frame, self._number = b"", -1
                self.waits = [time.monotonic() - moment for moment in self._behind]

    def _withholds(self, frame: bytes) -> bool:
        number, size = _segment(frame)
        if not size:
            return False
        if number == self._number:  # sent again
            return True
        self._passed += 1
        if self._passed != self._held:
            if self._frame:
                self._behind.append(time.monotonic())
            return False
        self._frame, self._number, self._since = frame, number, time.monotonic()
        return True


def _mac(namespace: Namespace) -> str:
    """Of its end of the wire."""
    shown = namespace.run("ip", "-json", "link", "show", "dev", "wire0").stdout
    return str(json.loads(shown)[0]["address"])


def _segment(frame: bytes) -> tuple[int, int]:
    """Sequence number and bytes of data of a TCP segment in IPv4 (RFC 791, RFC 9293); else 0."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
        return 0, 0
    header = (frame[14] & 15) * 4
    (length,) = struct.unpack_from("!H", frame, 16)
    (number,) = struct.unpack_from("!I", frame, 14 + header + 4)
    return number, length - header - (frame[14 + header + 12] >> 4) * 4
