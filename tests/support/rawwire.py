# SPDX-License-Identifier: Apache-2.0
"""An interface at which frames come in and go out exactly as they are given, in that order."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Self

from relay import mac

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "wire0"
_ETH_P_ALL = 3
DEADLINE = 20.0  # seconds


class RawWire:
    """`wire0` in `tapped`; a context manager that holds its thread on one CPU.

    Frames there have the MAC addresses of its two ends, so that a capture tells which way each
    went; the kernel knows no address of theirs, and says nothing.
    """

    def __init__(self) -> None:
        self._beyond, self.tapped = Namespace(), Namespace()
        veth(self._beyond, NAME, self.tapped, NAME)
        self.mac = mac(self.tapped, NAME)
        here, there = (
            bytes.fromhex(address.replace(":", ""))
            for address in (self.mac, mac(self._beyond, NAME))
        )
        self._macs = {True: there + here, False: here + there}
        self._ends = {True: self._open(self.tapped), False: self._open(self._beyond)}
        self._seen = self._open(self.tapped, _ETH_P_ALL)

    def __enter__(self) -> Self:
        # What a CPU takes from its queue of packets it has done before another thread runs there
        self._cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(self._cpus)})
        return self

    def __exit__(self, *_: object) -> None:
        """Let all go."""
        os.sched_setaffinity(0, self._cpus)
        for end in (*self._ends.values(), self._seen):
            end.close()
        self._beyond.close()
        self.tapped.close()

    def put(self, rest: bytes, *, leaves: bool) -> None:
        """One frame, but for its MAC addresses; when this returns, programs there have seen it."""
        self._ends[leaves].send(self._macs[leaves] + rest)
        self._seen.recv(1)

    def put_all(self, rests: Sequence[bytes], *, leaves: bool) -> None:
        """Many, without waiting for any; nothing may be put one by one afterwards."""
        for rest in rests:
            self._ends[leaves].send(self._macs[leaves] + rest)

    @staticmethod
    def _open(namespace: Namespace, protocol: int = 0) -> socket.socket:
        end = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.bind((NAME, protocol))
        end.settimeout(DEADLINE)
        return end
