# SPDX-License-Identifier: Apache-2.0
"""Two namespaces far apart, and what programs say to each other over that distance."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from relay import Relay, Way
from traffic import V4, V6, echo_request

from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "wire0"
DEADLINE = 60.0  # seconds
REQUEST = 200  # bytes, so many back
_FAMILIES = {V4: socket.AF_INET, V6: socket.AF_INET6}
_ECHO_REPLY = 0


class FarApart:
    """Namespaces `here` and `there`, `wire0` in each, joined by a long way; a context manager.

    Args:
        way: Of frames in both directions.
        back: Of frames from there, if that is another.
        offload: Whether the kernel leaves segments to be cut to others.
        timestamps: Whether TCP has timestamps.
    """

    def __init__(
        self, way: Way, back: Way | None = None, *, offload: bool = False, timestamps: bool = True
    ) -> None:
        self.here, self.there = Namespace(), Namespace()
        ends = (self.here, NAME, self.there, NAME)
        self._relay = Relay(*ends, way, back, ipv4=V4, ipv6=V6, offload=offload)
        for namespace in (self.here, self.there):
            if not offload:  # else TCP's segments are cut behind programs, ahead of a capture
                namespace.run("ip", "link", "set", NAME, "gso_max_segs", "1")
            with namespace.entered():
                Path("/proc/sys/net/ipv4/tcp_timestamps").write_text(str(int(timestamps)))
        self.open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Made already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let all go."""
        self.open.close()
        self._relay.__exit__()
        self.here.close()
        self.there.close()

    def tcp(self, addresses: tuple[str, str], port: int) -> tuple[socket.socket, socket.socket]:
        """A connection from here; both ends stay open."""
        return connection(self.open, self.here, self.there, addresses[1], port)

    def udp(self, port: int) -> tuple[socket.socket, socket.socket]:
        """What sends to PORT there, and what takes it."""
        taking = self.open.enter_context(self.there.socket(socket.AF_INET, socket.SOCK_DGRAM))
        taking.bind((V4[1], port))
        sending = self.open.enter_context(self.here.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sending.connect((V4[1], port))
        sending.settimeout(DEADLINE)
        return sending, taking

    def settle(self, quiet: float = 0.5) -> None:
        """Wait until nothing has passed for so many seconds."""
        settle(self.here, quiet)

    def estimate(self) -> tuple[float, float]:
        """Smoothed and shortest round trip, ms, as the one connection to there has them."""
        said = self.here.run("ss", "-tinH", "state", "established", "dst", V4[1]).stdout
        (found,) = re.findall(r" rtt:([\d.]+)/.*? minrtt:([\d.]+)", said)
        return float(found[0]), float(found[1])


def settle(namespace: Namespace, quiet: float, name: str = NAME) -> None:
    """Wait until nothing has passed an interface for so many seconds."""
    before, since = namespace.counters(name), time.monotonic()
    while time.monotonic() - since < quiet:
        time.sleep(0.02)
        now = namespace.counters(name)
        if now != before:
            before, since = now, time.monotonic()


def connection(
    stack: contextlib.ExitStack, here: Namespace, there: Namespace, address: str, port: int
) -> tuple[socket.socket, socket.socket]:
    """From HERE to ADDRESS; both ends stay open as long as STACK."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with there.socket(family, socket.SOCK_STREAM) as listener:
        listener.settimeout(DEADLINE)
        listener.bind((address, port))
        listener.listen()
        ours = stack.enter_context(here.socket(family, socket.SOCK_STREAM))
        ours.settimeout(DEADLINE)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.connect((address, port))
        theirs = stack.enter_context(listener.accept()[0])
    theirs.settimeout(DEADLINE)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


@contextlib.contextmanager
def answered(taking: socket.socket, pause: float = 0.0) -> Iterator[None]:
    """Meanwhile what is asked at that end of a connection comes back, PAUSE seconds later."""

    def answer() -> None:
        with contextlib.suppress(OSError):
            while data := taking.recv(4096):
                time.sleep(pause)
                taking.sendall(data)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        taking.shutdown(socket.SHUT_RD)
        thread.join()


def ask(asking: socket.socket, times: int, gap: float) -> list[float]:
    """Questions over a connection, each when the last is answered; how long each took, ms."""
    found = []
    for _ in range(times):
        before = time.monotonic()
        asking.sendall(bytes(REQUEST))
        left = REQUEST
        while left:
            data = asking.recv(left)
            assert data
            left -= len(data)
        found.append((time.monotonic() - before) * 1000)
        time.sleep(gap)
    return found


def push(ours: socket.socket, theirs: socket.socket, octets: int, rate: float) -> None:
    """So many bytes over a connection, RATE bytes a second; all has been read in the end."""

    def read() -> None:
        left = octets
        while left and (data := theirs.recv(1 << 16)):
            left -= len(data)

    thread = threading.Thread(target=read)
    thread.start()
    part = 20_000
    for _ in range(octets // part):
        ours.sendall(bytes(part))
        time.sleep(part / rate)
    thread.join(DEADLINE)
    assert not thread.is_alive()


def ping(pinging: socket.socket, family: int, times: int, gap: float) -> list[float]:
    """Echo requests, many under way at once; how long each took until it was answered, ms.

    Args:
        pinging: Of `Wire.ping`'s kind: raw, and connected.
        family: Of its addresses.
        times: How many.
        gap: Seconds between two.
    """
    sent: dict[int, float] = {}
    found: list[float] = []
    pinging.settimeout(DEADLINE)

    def take() -> None:
        while len(found) < times:
            data = pinging.recv(2048)
            now = time.monotonic()
            reply = data[20:] if family == socket.AF_INET else data
            if reply[0] in (_ECHO_REPLY, 129):
                (number,) = struct.unpack(">H", reply[6:8])
                found.append((now - sent[number]) * 1000)

    thread = threading.Thread(target=take)
    thread.start()
    for number in range(times):
        request = echo_request(family, number, 20)
        sent[number] = time.monotonic()
        pinging.send(request)
        time.sleep(gap)
    thread.join(DEADLINE)
    assert len(found) == times
    return found
