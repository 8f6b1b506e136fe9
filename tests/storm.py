# SPDX-License-Identifier: Apache-2.0
"""Many packets to closed ports, and how many of them the kernel says that it dropped."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

HERE, THERE = "192.0.2.1", "192.0.2.2"
INTERFACE = "in0"
PAYLOAD = 18
LENGTH = 14 + 20 + 8 + PAYLOAD
"""Of each frame, in bytes."""

_UDP_SEGMENT = 103  # include/uapi/linux/udp.h
_SEGMENTS = 60  # packets that one call sends


class Storm:
    """Two namespaces; what is sent from one to the other is dropped there: no socket listens."""

    def __init__(self) -> None:
        self._from, self.namespace = Namespace(), Namespace()
        veth(self._from, "out0", self.namespace, INTERFACE, ipv4=(HERE, THERE))

    def __enter__(self) -> Self:
        """Made already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove it."""
        self._from.close()
        self.namespace.close()

    def send(self, packets: int, ports: Iterable[int], rate: float | None = None) -> None:
        """Send that many in all, to the PORTS in turn; RATE a second, or as many as can be.

        Args:
            packets: A multiple of 60.
            ports: Of the receiver.
            rate: Packets a second.
        """
        begun = time.monotonic()
        numbers = list(ports)
        calls = packets // _SEGMENTS
        with self._from.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, PAYLOAD)
            sending.bind((HERE, 4000))
            data = bytes(PAYLOAD * _SEGMENTS)
            for call in range(calls):
                sending.sendto(data, (THERE, numbers[call % len(numbers)]))
                if rate and call % 16 == 0:
                    time.sleep(max(begun + call * _SEGMENTS / rate - time.monotonic(), 0))

    def dropped(self) -> int:
        """How many packets to closed ports the kernel has counted."""
        with self.namespace.entered():
            lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp: "))
        return int(values[names.index("NoPorts")])
