# SPDX-License-Identifier: Apache-2.0
"""A flow table of a loaded program, and what it hands over."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from program import FlowProgram, settings

from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.running import FlowRunning

if TYPE_CHECKING:
    from trapstream_vtap.clock import Clock


NS = 10**9
MOST_SWEEPS = 100


def frame(number: int = 0, size: int = 100) -> bytes:
    """A UDP datagram of flow NUMBER with SIZE bytes of payload."""
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + size, 0, 0, 64, 17, 0, 0xC0000201, number)
    return (
        bytes(12) + b"\x08\x00" + ip + struct.pack(">HHHH", 5000, 6000, 8 + size, 0) + bytes(size)
    )


class Table:
    """The loaded program with its probe, attached nowhere: packets come from test runs."""

    def __init__(self, clock: Clock | None = None, **chosen: int) -> None:
        plain = settings(key=("src_ip", "dst_ip"), direction="ingress", layers=(True,), **chosen)
        self.settings = plain
        self.program = FlowProgram(plain)
        self.running = FlowRunning(plain, self.program.objects, clock or SystemClock())
        self.probe = self.running.table
        self.records: list[dict[str, int]] = []

    def drain(self) -> None:
        """Read what the ring holds."""
        while batch := self.probe.read(1000):
            self.records += self.running.schema.layout.unpack(batch)

    def sweep(self, *, force: bool = False) -> None:
        """Close intervals and read what comes of it."""
        for _ in self.probe.sweep(force=force):
            self.drain()

    def finish(self) -> None:
        """As at the end of a run."""
        for _ in range(MOST_SWEEPS):
            self.sweep(force=True)
            if not self.probe.held():
                return
        raise AssertionError(self.probe.held())

    def counted(self) -> int:
        """Packets that the program counted into flows."""
        return sum(link["counted_packets"] for link in self.probe.counters().values())

    def exported(self) -> int:
        """Packets in the records read."""
        return sum(record["packets"] for record in self.records)


OWN_INTERVALS = (
    {"interval": NS // 10, "jitter_interval": 3 * NS // 10},
    {"interval": 3 * NS // 10, "jitter_interval": NS // 10},
)
