# SPDX-License-Identifier: Apache-2.0
"""A way to a server that breaks in the middle of what is said: connections are reset by chance."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from typing import Self

from waiting import wait_for


class Cutting:
    """Passes connections on to a port of loopback; while it CUTS, each is reset sooner or later.

    Args:
        target: The port.
        seed: Of chance.
        port: Its own; 0: any.
    """

    def __init__(self, target: int, seed: int, port: int = 0) -> None:
        self._target = target
        self._chance = random.Random(seed)  # noqa: S311 - chance for a test
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self.cutting = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        """Bytes in both directions, so many and no more."""
        left = self._chance.randrange(20_000, 400_000)
        with near, far:
            try:
                while True:
                    ready, _, _ = select.select([near, far], [], [])
                    for source in ready:
                        data = source.recv(min(left, 1 << 14) if self.cutting else 1 << 14)
                        if not data:
                            return
                        (far if source is near else near).sendall(data)
                        left -= len(data)
                    if left <= 0 and self.cutting:
                        self.cuts += 1
                        near.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                        return
                    left = max(left, 1)
            except OSError:
                return


def until_cut(cutting: Cutting, times: int) -> None:
    """Wait until so many connections were reset, and let the others live."""
    wait_for(lambda: cutting.cuts >= times)
    cutting.cutting = False
