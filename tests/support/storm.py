# SPDX-License-Identifier: Apache-2.0
"""Many packets to closed ports, and how many of them the kernel says that it dropped."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Self

from waiting import wait_for

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE, THERE = "192.0.2.1", "192.0.2.2"
HERE6, THERE6 = "2001:db8::1", "2001:db8::2"
PORT = 4000
"""Of the sender."""
INTERFACE = "in0"
PAYLOAD = 18
LENGTH = 14 + 20 + 8 + PAYLOAD
"""Of each frame, in bytes."""

_IN_FLIGHT = 240  # as many wait for the receiver at most: there is room for 1,000, of all on a CPU
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h


class Storm:
    """Two namespaces; what is sent from one to the other is dropped there: no socket listens."""

    def __init__(self) -> None:
        self.source, self.namespace = Namespace(), Namespace()
        ends = (self.source, "out0", self.namespace, INTERFACE)
        veth(*ends, ipv4=(HERE, THERE), ipv6=(HERE6, THERE6))

    def __enter__(self) -> Self:
        """Made already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.source.close()
        self.namespace.close()

    def send(self, packets: int, ports: Iterable[int], *, at_once: int = 60) -> None:
        """Send that many in all, to the PORTS in turn; all of them are dropped when it returns.

        Args:
            packets: A multiple of AT_ONCE.
            ports: Of the receiver.
            at_once: By one call; kernels before 6.11 do not take several without the interface's
                help with checksums.
        """
        numbers = list(ports)
        with self.source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            if at_once > 1:
                sending.setsockopt(socket.SOL_UDP, _UDP_SEGMENT, PAYLOAD)
            sending.bind((HERE, PORT))
            data = bytes(PAYLOAD * at_once)
            before, sent = self.dropped(), 0
            for call in range(packets // at_once):
                sending.sendto(data, (THERE, numbers[call % len(numbers)]))
                sent += at_once
                if sent % _IN_FLIGHT == 0 or sent == packets:
                    wait_for(lambda sent=sent: self.dropped() == before + sent)

    def dropped(self) -> int:
        """How many packets to closed ports the kernel has counted."""
        with self.namespace.entered():
            lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp: "))
        return int(values[names.index("NoPorts")])
