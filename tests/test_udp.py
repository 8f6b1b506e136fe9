# SPDX-License-Identifier: Apache-2.0
"""UDP across a link to a host that limits how often it says that a port is closed."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from sending import DEADLINE, Sending, numbers_of, payload
from waiting import wait_for

from lab.namespace import Namespace, veth
from trapstream_vtap.settings.address import Address
from trapstream_vtap.sinks import Payload, UdpSink
from trapstream_vtap.sinks import udp as udp_module

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE, THERE = "192.0.2.1", "192.0.2.2"
PORT = 8094
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """Two hosts with a link between them."""
    with Namespace() as here, Namespace() as there:
        veth(here, "here", there, "there", ipv4=(HERE, THERE))
        yield here, there


def test_closed_for_a_while(hosts: tuple[Namespace, Namespace]) -> None:
    """What goes to a closed port in many bursts is delivered once it opens, all of it."""
    here, there = hosts
    count = 0
    with ExitStack() as stack:
        with here.entered():  # the sender's thread stays there
            sending = stack.enter_context(Sending(UdpSink, PORT, host=THERE))
        for _ in range(12):
            sending.put(*(payload(i, 400) for i in range(count, count + 48)))
            count += 48
            time.sleep(0.25)  # an interval
        wait_for(lambda: sending.failed)
        assert sending.sent == 0
        collector = stack.enter_context(there.socket(socket.AF_INET, socket.SOCK_DGRAM))
        collector.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        collector.settimeout(DEADLINE)
        collector.bind((THERE, PORT))
        found: set[int] = set()
        while len(found) < count:
            found.update(numbers_of((collector.recv(2000),)))
        assert sending.sender.drain(DEADLINE)
        assert (sending.sent, found) == (count, set(range(count)))
    sending.check_books()


def test_closed_in_between(hosts: tuple[Namespace, Namespace]) -> None:
    """A port that closes under a steady stream, and opens: nothing refused counts as delivered."""
    here, there = hosts
    with ExitStack() as stack:
        with here.entered():
            sending = stack.enter_context(Sending(UdpSink, PORT, host=THERE))
        found: set[int] = set()
        count = 0
        for _ in range(2):
            with there.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
                collector.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
                collector.settimeout(0.02)
                collector.bind((THERE, PORT))
                until = time.monotonic() + udp_module._PATIENCE + 1
                while time.monotonic() < until or len(found) < count:
                    assert time.monotonic() < until + DEADLINE
                    if time.monotonic() < until:
                        sending.put(payload(count))
                        count += 1
                    with suppress(TimeoutError):
                        found.update(numbers_of((collector.recv(2000),)))
            for _ in range(100):
                sending.put(payload(count))
                count += 1
                time.sleep(0.005)
        sending.sender.drain(2)
        sending.sender.close()
        assert sending.sent <= len(found)
        assert sending.sent + sending.lost("undelivered") == count
        assert sending.failed > 0
    sending.check_books()


def test_error_behind_the_first_datagram(hosts: tuple[Namespace, Namespace]) -> None:
    """A refusal that comes in the middle of a batch is noticed: sendmmsg(2) itself says nothing."""
    here, _ = hosts
    with here.entered():
        sink = UdpSink(Address("udp", ((THERE, PORT),)))
        sink.open()
        with pytest.raises(ConnectionRefusedError):  # noqa: PT012 - whichever notices
            for number in range(1000):
                sink.send(Payload(payload(number, 400)))
        assert sink.settled() == []
        sink.close()
