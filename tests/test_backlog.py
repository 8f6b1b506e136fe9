# SPDX-License-Identifier: Apache-2.0
"""A sender with a spool, against real sockets: where payloads wait, and in which order they go."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from collector import die
from sending import (
    DEADLINE,
    HOST,
    Peer,
    Sending,
    numbers_of,
    payload,
    read,
    read_until_end,
)
from waiting import wait_for

from trapstream_vtap.sinks import TcpSink, UdpSink, backlog
from trapstream_vtap.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trapstream_vtap.ledger import Booked

SOAK_SECONDS = float(os.environ.get("VTAP_SOAK_SECONDS", "10"))
"""Ten minutes and more by hand: VTAP_SOAK_SECONDS=600 make test PYTEST_ARGS='-s -k soak'."""


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A TCP port that nobody listens on yet."""
    with closing(Peer()) as new:
        yield new


def spool(directory: Path, size: int = 1 << 28) -> Spool:
    """A spool, that says nothing."""
    return Spool(directory / "spool", size, lambda _: None)


def collected(connection: socket.socket) -> tuple[threading.Thread, list[bytes]]:
    """A thread that reads a connection to its end, and the lines that it has."""
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(read_until_end(connection)))
    reader.start()
    return reader, lines


def test_while_down_all_goes_to_disk(peer: Peer, tmp_path: Path) -> None:
    """What waits for a collector that is down is on disk, and comes from there in order."""
    with Sending(TcpSink, peer.port, spool=spool(tmp_path)) as sending:
        sending.put(*(payload(i) for i in range(300)))
        wait_for(lambda: sending.values["records_spooled"] == 300)
        assert sending.values["records_queued"] == 0
        assert sending.values["bytes_spooled"] >= 300 * 100
        assert "records wait on disk" in sending.said[0]
        time.sleep(0.05)
        assert sending.values["oldest_age_ms"] >= 50

        peer.socket.listen()
        reader, lines = collected(peer.accept())
        assert sending.sender.drain(DEADLINE)
        assert sending.values["records_spooled"] == 0
        sending.sender.close()
        reader.join()
        assert numbers_of(lines) == list(range(300))
    sending.check_books()


def test_reset_in_mid_record(peer: Peer, tmp_path: Path) -> None:
    """After a reset within a record, from the wire and from the spool, whole records come again."""
    size, count = 200_000, 60  # larger than a segment, so that a window ends anywhere
    peer.socket.listen()
    with Sending(TcpSink, peer.port, spool=spool(tmp_path)) as sending:
        sending.put(*(payload(i, size) for i in range(count)))
        whole: list[bytes] = []
        cuts = 0
        for cut in (3 * size + 7, 12_345, size - 1, size + 1):
            connection = peer.accept()
            data = read(connection, cut) + die(connection)
            lines = data.splitlines(keepends=True)
            numbers_of(lines[: data.count(b"\n")])  # a connection begins with a whole record
            cuts += not data.endswith(b"\n")
            whole += lines[: data.count(b"\n")]
        reader, lines = collected(peer.accept())
        assert sending.sender.drain(DEADLINE)
        sending.sender.close()
        reader.join()
        assert sorted(set(numbers_of(whole + lines))) == list(range(count))
        assert sending.failed > 0
        assert cuts
    sending.check_books()
    assert sending.values["records_lost"] == 0


def test_fresh_and_spooled_take_turns(peer: Peer, tmp_path: Path) -> None:
    """Once the collector is back, what is fresh does not wait behind what is on disk."""
    old, fresh, size = 400, 100, 50_000
    with Sending(TcpSink, peer.port, spool=spool(tmp_path)) as sending:
        sending.put(*(payload(i, size) for i in range(old)))
        wait_for(lambda: sending.values["records_spooled"] == old)
        peer.socket.listen()
        with peer.accept() as connection, connection.makefile("rb") as stream:
            first = [stream.readline()]
            wait_for(lambda: sending.sent)
            sending.put(*(payload(i, size) for i in range(old, old + fresh)))
            rest = [stream.readline() for _ in range(old + fresh - 1)]
            assert sending.sender.drain(DEADLINE)
        order = numbers_of(first + rest)
        assert [n for n in order if n < old] == list(range(old))
        assert [n for n in order if n >= old] == list(range(old, old + fresh))
        begin, end = order.index(old), order.index(old + fresh - 1)
        assert end - begin <= 2 * fresh  # one for one
        assert end < len(order) - 1  # and not before all others
    sending.check_books()


def test_at_the_end_the_rest_goes_to_disk(peer: Peer, tmp_path: Path) -> None:
    """What a collector that does not read has left is found by the next run, which sends it."""
    peer.socket.listen()
    with Sending(TcpSink, peer.port, spool=spool(tmp_path)) as sending, peer.accept() as connection:
        sending.put(*(payload(i, 100_000) for i in range(200)))
        assert not sending.sender.drain(0.2)
        sending.sender.close()
        spooled = sending.values["records_spooled"]
        assert 0 < spooled == 200 - sending.sent
        assert sending.values["records_lost"] == 0
        sending.check_books()
        early = die(connection)

    with Sending(TcpSink, peer.port, spool=spool(tmp_path)) as sending:
        reader, lines = collected(peer.accept())
        assert sending.sender.drain(DEADLINE)
        sending.sender.close()
        reader.join()
        assert numbers_of(lines) == list(range(200 - spooled, 200))
        assert sending.values["records_recovered"] == spooled
        assert len(early) >= (200 - spooled) * 100_000
    sending.check_books()


def test_spool_too_small_for_the_end(peer: Peer, tmp_path: Path) -> None:
    """When the rest does not fit at the end, the oldest goes, be it in flight; all is booked."""
    size = 400_000
    with Sending(TcpSink, peer.port, spool=spool(tmp_path, 8_000_000)) as sending:
        sending.put(*(payload(i, size) for i in range(19)))
        wait_for(lambda: sending.values["records_spooled"] == 19)
        peer.socket.listen()
        with peer.accept() as connection:
            read(connection, 2 * size)
            wait_for(lambda: sending.sent)
            sending.put(*(payload(i, size) for i in range(19, 44)))
            sending.sender.close()
        assert sending.lost("spool_full") > 0
        assert 15 <= sending.values["records_spooled"] <= 19
    sending.check_books()


def test_udp_port_that_is_closed(tmp_path: Path) -> None:
    """A refused port is a collector that is down: datagrams wait on disk until it opens."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.settimeout(DEADLINE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
            holder.bind((HOST, 0))
            port = holder.getsockname()[1]
        with Sending(UdpSink, port, spool=spool(tmp_path)) as sending:
            sending.put(*(payload(i) for i in range(200)))
            wait_for(lambda: sending.values["records_spooled"] == 200)
            collector.bind((HOST, port))
            found = set()
            while len(found) < 200:
                found |= set(numbers_of([collector.recv(2000)]))
            assert sending.sender.drain(DEADLINE)
        assert sending.sent == 200
    sending.check_books()


def test_what_comes_faster_than_the_disk(peer: Peer, tmp_path: Path) -> None:
    """Where memory is small, nothing is given up while the disk takes it."""
    with Sending(TcpSink, peer.port, memory=10_000, spool=spool(tmp_path)) as sending:
        sending.put(*(payload(i, 3000) for i in range(500)))
        wait_for(lambda: sending.values["records_spooled"] == 500)
        assert sending.values["records_lost"] == 0
    sending.check_books()


def test_disk_that_hangs(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs holds measuring up once, and not for long; then memory's limit holds."""
    monkeypatch.setattr(backlog, "_PATIENCE", 0.2)
    go_on = threading.Event()

    class Hanging(Spool):
        def append(self, data: bytes, booked: Booked, born: int) -> None:
            assert go_on.wait(DEADLINE)
            super().append(data, booked, born)

    hanging = Hanging(tmp_path / "spool", 1 << 20, lambda _: None)
    with Sending(TcpSink, peer.port, memory=10_000, spool=hanging) as sending:
        begin = time.monotonic()
        sending.put(*(payload(i, 1000) for i in range(500)))
        assert time.monotonic() - begin < 10  # not 0.2 s for each
        assert sending.lost("memory") >= 500 - 11
        go_on.set()
        wait_for(lambda: not sending.values["records_queued"])
    sending.check_books()


class Flapping:
    """A collector on PEER's port that comes and goes by chance; how often it has each number.

    It always reads what was acknowledged, also when it goes.
    """

    def __init__(self, peer: Peer, most: int) -> None:
        self.times = bytearray(most)
        self._peer = peer
        self._stop = threading.Event()
        self._chance = random.Random(4)  # noqa: S311 - faults, not secrets
        self.connections = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def steady(self) -> None:
        """From now on, stay."""
        self._stop.set()

    def _run(self) -> None:
        ended = False
        while not (ended and self._stop.is_set()):
            self._stop.wait(self._chance.uniform(0, 0.6))  # down
            self._peer.socket.listen()
            connection = self._peer.accept()
            self._peer.reopen()
            ended = self._serve(connection)

    def _serve(self, connection: socket.socket) -> bool:
        """Whether it was the other side that ended it."""
        self.connections += 1
        until = time.monotonic() + self._chance.uniform(0, 2)
        rest = b""
        connection.settimeout(0.05)
        while self._stop.is_set() or time.monotonic() < until:
            if self._chance.random() < 0.01:
                time.sleep(self._chance.uniform(0, 0.5))  # does not read
            try:
                part = connection.recv(1 << 16)
            except TimeoutError:
                continue
            if not part:
                connection.close()
                return True
            rest = self._book(rest + part)
        self._book(rest + die(connection))
        return False

    def _book(self, data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        whole = data.count(b"\n")
        for number in numbers_of(lines[:whole]):
            self.times[number] = min(self.times[number] + 1, 255)
        return b"".join(lines[whole:])


def test_soak(peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a long time, a collector that comes and goes: all arrives, and memory stays flat."""
    size, memory, gap = 2000, 1 << 20, 0.001
    most = 999_999
    flapping = Flapping(peer, most + 1)
    tracemalloc.start()  # not all that this process has: other tests have been in it
    with Sending(TcpSink, peer.port, memory=memory, spool=spool(tmp_path, 1 << 30)) as sending:
        begin = time.monotonic()
        number, early, worst = 0, 0, 0
        while (elapsed := time.monotonic() - begin) < SOAK_SECONDS and number < most:
            sending.put(payload(number, size))
            number += 1
            worst = max(worst, sending.values["bytes_spooled"]) if number % 100 == 0 else worst
            if not early and elapsed > SOAK_SECONDS / 3:
                early = tracemalloc.get_traced_memory()[0]
            time.sleep(gap)
        late = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        flapping.steady()
        wait_for(lambda: sending.sent == number)
        sending.sender.close()
        flapping.thread.join(DEADLINE)
    sending.check_books()
    assert sending.values["records_lost"] == 0
    assert sending.sent == number
    assert bytes(number) not in flapping.times[:number]
    assert 0 not in flapping.times[:number]
    assert not any(flapping.times[number:])
    assert late - early < 8 * memory
    with capsys.disabled():
        twice = number - flapping.times[:number].count(1)
        print(  # noqa: T201 - figures for docs/delivery.md
            f"\nsoak of {SOAK_SECONDS:.0f} s: {number} payloads, {flapping.connections} "
            f"connections, {sending.failed} sent again, {twice} came twice, most on disk "
            f"{worst / 1e6:.1f} MB, memory {early / 1e6:.1f} -> {late / 1e6:.1f} MB"
        )
