# SPDX-License-Identifier: Apache-2.0
"""TCP to a machine that no longer answers, and to one that answers and does not read."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hole import black_hole
from sending import DEADLINE, Sending, numbers_of, payload, read, read_until_end
from waiting import wait_for

from lab.namespace import Namespace, veth
from trapstream_vtap.sinks import TcpSink, tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE, THERE = "192.0.2.1", "192.0.2.2"
SIZE = 10_000
_BACKOFF = 4  # offset in `struct tcp_info`, linux/tcp.h


class Link:
    """A sender, and a collector behind a link."""

    def __init__(self, stack: ExitStack) -> None:
        here, self.there = (stack.enter_context(Namespace()) for _ in range(2))
        veth(here, "here", self.there, "there", ipv4=(HERE, THERE))
        self.listener = stack.enter_context(self.there.socket(socket.AF_INET, socket.SOCK_STREAM))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.listener.bind((THERE, 0))
        self.listener.listen()
        self.listener.settimeout(DEADLINE)
        with here.entered():  # the sender's thread stays there
            port = self.listener.getsockname()[1]
            self.sending = stack.enter_context(Sending(TcpSink, port, host=THERE))

    def accept(self) -> socket.socket:
        """The next connection."""
        connection, _ = self.listener.accept()
        connection.settimeout(DEADLINE)
        return connection


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    """Two retransmissions without an answer are enough: 0.6 s."""
    monkeypatch.setattr(tcp, "_MOST_UNANSWERED", 1)
    with ExitStack() as stack:
        yield Link(stack)


@pytest.mark.parametrize("count", [3, 2000], ids=["in the kernel", "while it is being written"])
def test_machine_vanishes(link: Link, count: int) -> None:
    """A connection into a black hole is given up and reset; the next has what was not settled."""
    link.sending.put(payload(0, SIZE))
    first = link.accept()
    assert numbers_of([read(first, SIZE)]) == [0]
    wait_for(lambda: link.sending.sent == 1)
    with black_hole(link.there, "there"):
        link.sending.put(*(payload(number, SIZE) for number in range(1, count)))
        wait_for(lambda: link.sending.failed)
        assert "no answer from the collector's machine; sending again." in link.sending.said[0]
        assert (link.sending.values["up"], link.sending.sent) == (0, 1)
    second = link.accept()
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(read_until_end(second)))
    reader.start()
    assert link.sending.sender.drain(DEADLINE)
    link.sending.sender.close()
    reader.join()
    assert numbers_of(lines) == list(range(1, count))
    first.close()
    link.sending.check_books()


def test_closed_window(link: Link) -> None:
    """A peer that has not read for as long is still there: its kernel answers."""
    count = 2000
    link.sending.put(*(payload(number, SIZE) for number in range(count)))
    first = link.accept()

    def tries() -> int:
        """How often the kernel has asked for room in vain."""
        connection = link.sending.sender._sink._socket  # type: ignore[attr-defined]
        info: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
        return info[_BACKOFF]

    wait_for(lambda: tries() > tcp._MOST_UNANSWERED + 1)
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.extend(read_until_end(first)))
    reader.start()
    assert link.sending.sender.drain(DEADLINE)
    link.sending.sender.close()
    reader.join()
    assert numbers_of(lines) == list(range(count))
    assert (link.sending.failed, link.sending.said) == (0, [])
