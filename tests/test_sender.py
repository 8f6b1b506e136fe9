# SPDX-License-Identifier: Apache-2.0
"""The sender and its sinks against real sockets that are away, die, do not read, or refuse."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from collector import die
from sending import (
    DEADLINE,
    HOST,
    Peer,
    Sending,
    address,
    numbers_of,
    payload,
    read_until_end,
)
from waiting import wait_for

from lab.namespace import Namespace, veth
from trapstream_vtap.sinks import Payload, Sender, TcpSink, UdpSink
from trapstream_vtap.sinks import sender as sender_module
from trapstream_vtap.sinks import udp as udp_module

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A TCP port that nobody listens on yet."""
    with closing(Peer()) as new:
        yield new


@pytest.fixture
def closed_udp_port() -> int:
    """A UDP port that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
    return port


def test_collector_comes_late(peer: Peer) -> None:
    """What is handed over while nobody listens waits, and all of it arrives once somebody does."""
    with Sending(TcpSink, peer.port) as sending:
        sending.put(*(payload(i) for i in range(500)))
        wait_for(lambda: sending.said)
        assert "is down (Connection refused); records wait in memory." in sending.said[0]
        assert (sending.sent, sending.failed) == (0, 0)

        peer.socket.listen()
        connection = peer.accept()
        wait_for(lambda: sending.sent == 500)
        sending.sender.close()

        assert list(range(500)) == numbers_of(read_until_end(connection))
        wait_for(lambda: "is back." in sending.said[-1])
    sending.check_books()


def test_collector_dies_in_mid_stream(peer: Peer) -> None:
    """A new connection begins with the first payload that the dead one had not acknowledged."""
    count, size = 600, 20_000
    peer.socket.listen()
    with Sending(TcpSink, peer.port) as sending:
        sending.put(*(payload(i, size) for i in range(count)))
        first = peer.accept()
        before = b""
        while len(before) < 5 * size:
            before += first.recv(10_000)
        before += die(first)
        second = peer.accept()
        after: list[bytes] = []
        reader = threading.Thread(target=lambda: after.extend(read_until_end(second)))
        reader.start()
        wait_for(lambda: sending.sent == count)
        sending.sender.close()
        reader.join()

    early = numbers_of(before.splitlines(keepends=True)[: before.count(b"\n")])
    late = numbers_of(after)
    assert list(range(len(early))) == early
    assert list(range(late[0], count)) == late
    assert late[0] <= len(early)  # none is missing
    assert 0 < late[0] < count
    assert sending.failed > 0
    assert "sending again." in sending.said[0]
    sending.check_books()


def test_collector_restarts_while_idle(peer: Peer) -> None:
    """A payload right after the collector went away arrives at the one that comes next."""
    peer.socket.listen()
    with Sending(TcpSink, peer.port) as sending:
        sending.put(payload(0))
        first = peer.accept()
        wait_for(lambda: sending.sent == 1)
        first.recv(100)
        first.close()

        sending.put(payload(1))
        second = peer.accept()
        wait_for(lambda: sending.sent == 2)
        sending.sender.close()

        assert numbers_of(read_until_end(second)) == [1]
    sending.check_books()


def test_collector_that_goes_is_noticed_without_traffic(peer: Peer) -> None:
    """With nothing to send, a closed connection is noticed, said, and made anew."""
    peer.socket.listen()
    with Sending(TcpSink, peer.port) as sending:
        sending.put(payload(0))
        first = peer.accept()
        wait_for(lambda: sending.sent == 1)
        first.recv(100)
        first.close()

        with peer.accept():
            assert "the collector closed the connection" in sending.said[0]


def test_memory_limit(peer: Peer) -> None:
    """Behind a collector that does not read, the oldest that wait are dropped, each counted."""
    large, size, kept, dropped = 8_000_000, 10_000, 400, 1600
    peer.socket.listen()
    with Sending(TcpSink, peer.port, memory=large + kept * size) as sending:
        connection = peer.accept()
        sending.put(payload(0, large))  # more than the kernel takes: the sender hangs in it
        wait_for(lambda: sending.sender._backlog.in_flight)

        for i in range(1, 1 + dropped + kept):
            sending.put(payload(i, size))
            assert max(0, i - kept) == sending.values["records_lost"]
            assert min(i, kept) + 1 == sending.values["records_queued"]
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.extend(read_until_end(connection)))
        reader.start()
        assert sending.sender.drain(DEADLINE)
        sending.sender.close()
        reader.join()

    assert [0, *range(1 + dropped, 1 + dropped + kept)] == numbers_of(received)
    assert dropped == sending.lost("memory")
    sending.check_books()


def test_close_while_the_collector_does_not_read(peer: Peer) -> None:
    """At the end, a collector that does not read holds nobody up; what it left is booked."""
    peer.socket.listen()
    with Sending(TcpSink, peer.port) as sending, peer.accept() as connection:
        sending.put(*(payload(i, 100_000) for i in range(200)))
        assert not sending.sender.drain(0.2)

        begin = time.monotonic()
        sending.sender.close()

        assert time.monotonic() - begin < 2
        lost = sending.lost("undelivered")
        assert 0 < lost == 200 - sending.sent
        sending.check_books()
        assert connection.recv(6) == b"000000"


@pytest.mark.parametrize("kind", [TcpSink, UdpSink])
def test_close_while_nobody_is_there(
    kind: type[TcpSink | UdpSink], peer: Peer, closed_udp_port: int
) -> None:
    """At the end, what nobody took is booked as undelivered, all of it and once."""
    port = peer.port if kind is TcpSink else closed_udp_port
    with Sending(kind, port) as sending:
        sending.put(*(payload(i) for i in range(30)))
        wait_for(lambda: sending.said)
        assert not sending.sender.drain(0.1)

    assert sending.lost("undelivered") == 30
    sending.check_books()


@pytest.mark.parametrize("kind", [TcpSink, UdpSink])
def test_messages_become_rare(
    kind: type[TcpSink | UdpSink],
    peer: Peer,
    closed_udp_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a collector that stays down, only attempts 1, 2, 4, 8, … are worth a message."""
    attempts = []

    class Counted(kind):  # type: ignore[misc, valid-type]
        def open(self) -> None:
            attempts.append(time.monotonic())
            super().open()

    monkeypatch.setattr(sender_module, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(sender_module, "_LONGEST_WAIT", 0.002)
    monkeypatch.setattr(udp_module, "_PATIENCE", 0.01)
    said: list[str] = []
    where = address(kind, peer.port if kind is TcpSink else closed_udp_port)
    sender = Sender(Counted(where), 1 << 20, said.append)
    sender.put(Payload(payload(0)))

    wait_for(lambda: len(attempts) > 20)
    sender.close()

    assert 5 <= len(said) <= 1 + len(attempts).bit_length()
    assert all("Connection refused" in sentence for sentence in said)


def test_attempts_become_rare(closed_udp_port: int) -> None:
    """A collector that goes on refusing is tried again after 0.25 s, 0.5 s, 1 s and so on."""
    attempts: list[float] = []

    class Counted(UdpSink):
        def open(self) -> None:
            attempts.append(time.monotonic())
            super().open()

    sink = Counted(address(UdpSink, closed_udp_port))
    sender = Sender(sink, 1 << 20, lambda _: None)
    sender.put(Payload(payload(0)))
    wait_for(lambda: len(attempts) == 4)
    sender.close()

    waits = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert all(wait >= least for wait, least in zip(waits, (0.25, 0.5, 1), strict=True)), waits


def test_udp_port_opens_late(closed_udp_port: int) -> None:
    """A closed UDP port fails payloads and loses none: they arrive when it opens."""
    with Sending(UdpSink, closed_udp_port) as sending:
        sending.put(*(payload(i) for i in range(40)))
        wait_for(lambda: sending.failed)
        assert "Connection refused" in sending.said[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
            collector.settimeout(DEADLINE)
            collector.bind((HOST, closed_udp_port))
            found = numbers_of(collector.recv(2000) for _ in range(40))
            assert sending.sender.drain(DEADLINE)
        assert sorted(found) == list(range(40))
        assert sending.sent == 40
        assert "is back." in sending.said[-1]
    sending.check_books()


def test_udp_refusal_from_afar() -> None:
    """A closed port is heard of a round trip later; no datagram of that time counts as sent."""
    count = 50
    with ExitStack() as stack:
        here, there = (stack.enter_context(Namespace()) for _ in range(2))
        veth(here, "here", there, "there", ipv4=("192.0.2.1", "192.0.2.2"))
        # A slow line back, and something on it ahead of the answer
        there.run(
            *[
                "tc",
                "qdisc",
                "add",
                "dev",
                "there",
                "root",
                "tbf",
                "rate",
                "1mbit",
                "burst",
                "2000",
                "limit",
                "60000",
            ]
        )
        queue = stack.enter_context(there.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for _ in range(4):
            queue.sendto(bytes(1000), ("192.0.2.1", 9))
        with here.entered():  # the sender's thread stays there
            sending = stack.enter_context(Sending(UdpSink, 8094, host="192.0.2.2"))
        sending.put(*(payload(i) for i in range(count)))
        wait_for(lambda: sending.failed)
        assert sending.sent == 0

        collector = stack.enter_context(there.socket(socket.AF_INET, socket.SOCK_DGRAM))
        collector.settimeout(DEADLINE)
        collector.bind(("192.0.2.2", 8094))
        found: Counter[bytes] = Counter()
        while len(found) < count:
            found[collector.recv(2000)] += 1
        assert sending.sender.drain(DEADLINE)
        assert count == sending.sent
        assert list(range(count)) == sorted(numbers_of(found))


def test_datagrams_are_payloads(closed_udp_port: int) -> None:
    """Each payload is a datagram of its own, in order, and settles without an answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.settimeout(DEADLINE)
        collector.bind((HOST, closed_udp_port))
        with Sending(UdpSink, closed_udp_port) as sending:
            sending.put(*(payload(i, 1400) for i in range(20)))

            assert list(range(20)) == numbers_of(collector.recv(2000) for _ in range(20))
            assert sending.sender.drain(DEADLINE)
            assert sending.sent == 20
    assert sending.said == []


def test_many_descriptors(peer: Peer) -> None:
    """A process with a thousand interfaces has as many descriptors open; the sender works on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    peer.socket.listen()
    low = [os.dup(0) for _ in range(1100)]
    try:
        with Sending(TcpSink, peer.port) as sending, peer.accept() as connection:
            sending.put(payload(0))
            assert numbers_of([connection.recv(100)]) == [0]
            wait_for(lambda: sending.sent == 1)
    finally:
        for descriptor in low:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_accounts_are_not_booked(peer: Peer) -> None:
    """A payload of the exporter's own account is sent like any other, and is not counted."""
    peer.socket.listen()
    with Sending(TcpSink, peer.port) as sending, peer.accept() as connection:
        sending.sender.put(Payload(payload(7)))

        assert numbers_of([connection.recv(100)]) == [7]
        assert sending.sender.drain(DEADLINE)
    assert (sending.values["records_handed"], sending.values["records_lost"]) == (0, 0)
