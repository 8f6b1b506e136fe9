# SPDX-License-Identifier: Apache-2.0
"""What an application measures of the packets that it reads, and the records of them beside it."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MS = 10**6  # ns
SO_TIMESTAMPNS = 35


class Application:
    """Reads what comes, and measures of each read how long ago it had come.

    Args:
        taking: The socket.
        pause: Seconds between reads.
    """

    def __init__(self, taking: socket.socket, pause: float) -> None:
        self.found: list[tuple[int, int]] = []
        taking.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._taking, self._pause = taking, pause
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                select.select([self._taking], [], [])
                time.sleep(self._pause)
                data, said, _, _ = self._taking.recvmsg(2048, 256)
            except (OSError, ValueError):
                return
            now = time.clock_gettime_ns(time.CLOCK_REALTIME)
            if not data:
                return
            for level, kind, value in said:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, rest = struct.unpack("qq", value)
                    self.found.append((now, now - seconds * 10**9 - rest))


def one_in_each_interval(sender: socket.socket, packets: int, interval: float) -> None:
    """A packet in the middle of every INTERVAL, so that its record is of it alone."""
    for number in range(packets):
        time.sleep(1.5 * interval - time.time() % interval)
        sender.send(bytes(100 + number))


def by_interval(records: Iterable[dict[str, Any]], stage: str) -> dict[int, tuple[int, float]]:
    """Count, and the longest latency in ms, by the interval's end."""
    mine = (record for record in records if record["stage"] == stage)
    return {record["timestamp"]: (record["count"], record["max_ms"]) for record in mine}


def ways_back(
    records: Sequence[dict[str, Any]],
    found: Iterable[tuple[int, int]],
    stages: Sequence[str],
    interval: float,
) -> dict[str, list[float]]:
    """By stage: how much longer the application says than the record, ns; of each packet alone.

    Args:
        records: Of `vtap_latency`.
        found: When the application had a packet, and how long it had been there; ns.
        stages: In the order in which it comes by.
        interval: Of the records, seconds.
    """
    gaps: dict[str, list[float]] = defaultdict(list)
    length = round(interval * 10**9)
    for now, app in found:
        before = 0.0
        for stage in stages:
            # it came by in the interval whose record it is in
            fitting = [
                (count, latency)
                for end, (count, latency) in by_interval(records, stage).items()
                if end - length <= now - app + latency * MS < end
            ]
            if len(fitting) != 1 or fitting[0][0] > 1:  # of several packets: the machine was busy
                break
            ((_, latency),) = fitting
            assert before <= latency * MS <= app, (stage, before, latency, app)
            before = latency * MS
            gaps[stage].append(app - before)
    return gaps
