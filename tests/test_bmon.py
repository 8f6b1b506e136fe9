# SPDX-License-Identifier: Apache-2.0
"""bmon beside vtap-stream on the same interface: the same throughput."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest
import tap
from traffic import Wire

if TYPE_CHECKING:
    from lab.namespace import Namespace

NS = 10**9
READING = 1.0  # seconds between bmon's
STREAM, PACKETS_A_SECOND, PAYLOAD = 6.0, 400, 1158
TRICKLE = 0.05  # seconds between single packets ahead of the stream
COLUMNS = ("element:parent", "attr:rx:bytes", "attr:rx:packets", "attr:rxrate:bytes")


class Reading(NamedTuple):
    """What bmon says: what has come so far, and bytes a second."""

    bytes: int
    packets: int
    rate: float


class Bmon:
    """A running bmon; a context manager."""

    def __init__(self, namespace: Namespace, ifname: str) -> None:
        self.readings: list[Reading] = []
        shown = " ".join(f"$({column})" for column in COLUMNS)
        self._ifname = ifname
        self._news = threading.Condition()
        self._process = namespace.popen(
            *("nice", "-n", "-20"),  # it goes by its own timer, which is to be kept
            # a reading that is closer than -R to the one before drops out of the rates
            *("bmon", "-p", ifname, "-r", str(READING), "-R", str(READING / 10)),
            *("-i", "netlink:notc", "-o", rf"format:stderr;fmt={shown}\n"),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        with self._process.stderr as stream:
            for line in stream:
                parent, *columns = line.split(" ")
                # one end of a veth pair has the number of the other, in the other namespace: bmon
                # takes it for its own parent, and shows a second element that is never updated
                if parent == self._ifname:
                    with self._news:
                        byte, packets, rate = columns
                        self.readings.append(Reading(int(byte), int(packets), float(rate)))
                        self._news.notify_all()

    def next(self) -> Reading:
        """Wait for a new reading."""
        with self._news:
            before = len(self.readings)
            assert self._news.wait_for(lambda: len(self.readings) > before, tap.DEADLINE)
            return self.readings[-1]


def test_throughput_as_bmon_shows_it() -> None:
    """The areas under both curves are the same within 1 %, and the counts are the same.

    Neither clock is compared with the other: vtap-stream's intervals end at the wall clock's
    seconds, bmon reads the interface's counters by a timer of its own. But a rate times the length
    of its interval is a number of bytes, and the sum of these over a stream that begins and ends
    between readings is all of its bytes, however the intervals lie and whenever a packet is late.

    bmon smooths: a shown rate is 3/4 of the latest and 1/4 of the one shown before. That keeps the
    area, once all has faded out: behind the last rate r comes r/4 + r/16 + … = r/3. Its very first
    rate it shows as it is; so single packets come ahead of the stream.

    bmon's timer is taken to be exact. On a loaded machine it is not, and the sender may stall as
    well: where a reading is late by d just when the packets of a time s are late, the area is off
    by 2ds / (1 s · 6 s), 0.3 % for 0.1 s each.

    bmon counts what the interface receives, with Ethernet headers, as vtap-stream does; there is no
    other traffic on this wire.
    """
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0") as tapped,
        Bmon(wire.receiver, "wire0") as bmon,
    ):
        sender = wire.udp(socket.AF_INET, 7001)
        sent = threading.Event()

        def trickle() -> None:
            while not sent.wait(TRICKLE):
                sender.send(b"")

        ahead = threading.Thread(target=trickle)
        ahead.start()
        while not bmon.next().rate:
            pass
        sent.set()
        ahead.join()
        begin = time.monotonic()
        for number in range(int(STREAM * PACKETS_A_SECOND)):
            time.sleep(max(0, begin + number / PACKETS_A_SECOND - time.monotonic()))
            sender.send(bytes(PAYLOAD))
        wire.settle()
        bmon.next()  # which may have begun before
        bmon.next()
        readings = list(bmon.readings)
        records = tap.flows(tapped.stop())
    last = readings[-1]
    assert last.packets >= STREAM * PACKETS_A_SECOND
    assert sum(record["packets"] for record in records) == last.packets
    assert sum(record["bytes"] for record in records) == last.bytes
    lengths = [record["timestamp"] % NS or NS for record in records]
    rates = [record["throughput_bytes_per_second"] for record in records]
    area = sum(rate * length / NS for rate, length in zip(rates, lengths, strict=True))
    shown = sum(reading.rate * READING for reading in readings) + last.rate / 3 * READING
    assert area == pytest.approx(shown, rel=0.01)
