# SPDX-License-Identifier: Apache-2.0
"""Collectors that answer what nobody should: once, and without end."""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import threading
import time
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

import certificate
import pytest
from flowlines import DEADLINE, Handing, booked
from waiting import wait_for

from trapstream_vtap.ledger import Booked
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import connection, http, sender, tls
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.tcp_tls import TlsSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MANY = 64 << 20  # bytes: far more than anybody should read


class Server:
    """A port where each connection is TALKED with, in a thread of its own."""

    def __init__(self, talk: Callable[[socket.socket, int], None]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                accepted, _ = self._listener.accept()
                number, self.connections = self.connections, self.connections + 1
                threading.Thread(target=self._one, args=(accepted, number), daemon=True).start()
        except OSError:
            return

    def _one(self, accepted: socket.socket, number: int) -> None:
        with accepted:
            accepted.settimeout(DEADLINE)
            try:
                self._talk(accepted, number)
            except OSError:
                return

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)  # to close it alone wakes nobody who accepts
        self._listener.close()


def requests(accepted: socket.socket) -> Iterator[None]:
    """Once for each request that came over a connection, with its body."""
    with accepted.makefile("rb") as stream:
        while head := b"".join(itertools.takewhile(b"\r\n".__ne__, iter(stream.readline, b""))):
            found = re.search(rb"(?i)content-length: *(\d+)", head)
            if not found:  # the client has closed in the middle of it
                return
            stream.read(int(found[1]))
            yield


def bomb() -> Iterator[bytes]:
    """Zeros in gzip: MANY times 16 of them."""
    pack = zlib.compressobj(9, wbits=31)
    data = b"".join(pack.compress(bytes(1 << 24)) for _ in range(MANY >> 20)) + pack.flush()
    yield b"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
    yield data


def body(text: bytes, status: int = 400, more: bytes = b"") -> list[bytes]:
    """A whole answer."""
    return [b"HTTP/1.1 %d Odd\r\n%bContent-Length: %d\r\n\r\n%b" % (status, more, len(text), text)]


def endless(start: bytes, part: bytes) -> Iterable[bytes]:
    """START, and then PART again and again."""
    return itertools.chain((start,), itertools.repeat(part, MANY // len(part)))


ODD: dict[str, Callable[[], Iterable[bytes]]] = {
    "bomb": bomb,
    "endless": lambda: endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(1 << 20)),
    "endless refusal": lambda: endless(b"HTTP/1.1 400 Odd\r\n\r\n", b"a" * (1 << 20)),
    "deep": lambda: body(b"[" * 200_000),
    "deep in 204": lambda: body(b'{"a":' * 200_000, 200),
    "digits": lambda: body(b'{"error":"partial write: dropped=' + b"9" * 5000 + b'"}'),
    "binary": lambda: body(bytes(range(256)), 200),
    "no gzip": lambda: body(b"none", more=b"Content-Encoding: gzip\r\n"),
    "headers": lambda: endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000),
    "a header": lambda: endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * (1 << 16)),
    "continue": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "no status": lambda: [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    "huge status": lambda: [b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n"],
    "chunk below zero": lambda: endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", bytes(1 << 20)
    ),
    "no chunk": lambda: [b"HTTP/1.1 400 Odd\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"],
    "huge length": lambda: [b"HTTP/1.1 400 Odd\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx"],
    "long wait": lambda: body(b"", 503, b"Retry-After: 1" + b"0" * 30 + b"\r\n"),
}


@pytest.mark.parametrize("which", ODD)
def test_one_odd_answer(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer of a database that is none costs at most its payload; little of it is read."""
    monkeypatch.setattr(http, "_ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(http, "_LONGEST_WAIT", 0.5)
    sent = 0
    odd = threading.Event()

    def talk(accepted: socket.socket, _: int) -> None:
        nonlocal sent
        for _ in requests(accepted):
            if odd.is_set():
                accepted.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                continue
            odd.set()
            for part in ODD[which]():
                accepted.sendall(part)
                sent += len(part)
            if "length" in which or "chunk" in which:
                return

    with closing(Server(talk)) as server:
        sink = HttpSink(parse(f"http://127.0.0.1:{server.port}?db=x"), None, None)
        with Handing(sink) as handing:
            for first in range(0, 500, 100):
                handing.put(range(first, first + 100))
            delivered, losses = handing.account()
    assert losses in ({}, {"refused": booked(range(100))})
    assert delivered == booked(range(500)) + Booked() - sum(losses.values(), Booked())
    assert sent < MANY // 4
    assert not any("vtap-stream itself" in sentence for sentence in handing.said)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the certificate of `server`."""
    directory = tmp_path_factory.mktemp("tls")
    certificate.make(directory, "server")
    return directory


def drip(accepted: socket.socket, data: bytes) -> None:
    """DATA, a byte at a time."""
    for byte in data:
        accepted.sendall(bytes((byte,)))
        time.sleep(0.05)


def drips_handshake(accepted: socket.socket, _: int) -> None:
    """A handshake record of 16,384 bytes with the beginning of a longer message."""
    accepted.recv(1 << 16)
    drip(accepted, b"\x16\x03\x03\x40\x00\x02\x00\xff\xff" + bytes(16_000))


def drips_answer(accepted: socket.socket, _: int) -> None:
    """An answer whose head has no end."""
    for _ in requests(accepted):
        drip(accepted, b"HTTP/1.1 204 No Content\r\nX: " + b"y" * 60_000)


@pytest.mark.parametrize("kind", ["tls", "https", "http"])
def test_drip(kind: str, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then is no answer in time: that is said, and tried again."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr("trapstream_vtap.sinks.tcp_tls.CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(http, "_ANSWER_SECONDS", 0.5)
    with closing(Server(drips_answer if kind == "http" else drips_handshake)) as server:
        with Handing(dripped(kind, server.port, certificates)) as handing:
            handing.put([1])
            wait_for(lambda: server.connections > 1)
        why = "no answer in time" if kind == "http" else "no TLS handshake in time"
        assert why in handing.said[0]
    assert handing.sender.account.losses() == {"undelivered": booked([1])}


@pytest.mark.parametrize("kind", ["tls", "https", "http"])
def test_end_while_it_drips(kind: str, certificates: Path) -> None:
    """At the end, a collector that drips holds nobody up."""
    with (
        closing(Server(drips_answer if kind == "http" else drips_handshake)) as server,
        Handing(dripped(kind, server.port, certificates)) as handing,
    ):
        handing.put([1])
        wait_for(lambda: server.connections)
        begin = time.monotonic()
        handing.sender.close()
        assert time.monotonic() - begin < connection.CONNECT_SECONDS / 2


def dripped(kind: str, port: int, certificates: Path) -> TlsSink | HttpSink:
    """The sink of that KIND."""
    context = tls.Contexts(f"{certificates / 'server'}.pem", None, None)
    if kind == "tls":
        return TlsSink(parse(f"tcp://127.0.0.1:{port}"), context)
    address = parse(f"{kind}://127.0.0.1:{port}?db=x")
    return HttpSink(address, None, context if kind == "https" else None)


@pytest.mark.parametrize("secured", [False, True], ids=["tcp", "tls"])
def test_collector_that_answers(certificates: Path, *, secured: bool) -> None:
    """A collector that sends all back, and stops while nobody takes that, gets everything."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(f"{certificates / 'server'}.pem", f"{certificates / 'server'}.key")
    taken = 0

    def talk(accepted: socket.socket, _: int) -> None:
        nonlocal taken
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        with server_side.wrap_socket(accepted, server_side=True) if secured else accepted as said:
            while part := said.recv(1 << 16):
                taken += len(part)
                said.sendall(part * 4)

    with closing(Server(talk)) as server:
        address = parse(f"tcp://127.0.0.1:{server.port}")
        context = tls.Contexts(f"{certificates / 'server'}.pem", None, None)
        with Handing(TlsSink(address, context) if secured else TcpSink(address)) as handing:
            for first in range(0, 100_000, 4000):
                handing.put(range(first, first + 4000))
            assert handing.account() == (booked(range(100_000)), {})
            octets = handing.sender.account.values()["bytes_delivered"]
            wait_for(lambda: taken == octets)


def test_a_long_answer_is_cut() -> None:
    """What a collector has answered comes into the log in part, however long it is."""
    said = sender._reason(ConnectionError(0, "x" * 60_000))
    assert said == "x" * 200 + "..."
    assert sender._reason(ConnectionError(0, "short")) == "short"
