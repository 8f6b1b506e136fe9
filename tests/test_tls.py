# SPDX-License-Identifier: Apache-2.0
"""TLS over TCP against real servers: what is settled or sent again, and who is not trusted."""

from __future__ import annotations

import fcntl
import json
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
from typing import TYPE_CHECKING, Self

import certificate
import pytest
import tap
from flowlines import DEADLINE, Handing, booked, line, number_of
from traffic import Wire
from waiting import wait_for

from lab.command import COMMAND
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import tls
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.tcp_tls import TlsSink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PACKETS = 100


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with certificates and keys of `server`, `client` and `stranger`."""
    directory = tmp_path_factory.mktemp("tls")
    certificate.make(directory, "server", "client", "stranger")
    return directory


def server_side(certificates: Path, *, demand: bool = False) -> ssl.SSLContext:
    """What a server needs; with DEMAND it wants the certificate of `client`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if demand:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "client.pem")
    return context


def sink(port: int, certificates: Path, ours: str = "", ca: str = "server") -> TlsSink:
    """To PORT, with OUR certificate, trusting CA."""
    files = [str(certificates / f"{ours}.{kind}") if ours else None for kind in ("pem", "key")]
    context = tls.Contexts(str(certificates / f"{ca}.pem"), *files)
    return TlsSink(parse(f"tcp://127.0.0.1:{port}"), context)


class Server:
    """A port, and a thread for each connection that goes through SCRIPT, one after the other."""

    def __init__(self, *script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for step in self._script:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(DEADLINE)
            with connection:
                step(connection)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(DEADLINE)


class Reader:
    """A step that reads up to a clean end, or LIMIT bytes and then resets the connection."""

    def __init__(self, context: ssl.SSLContext, limit: int = 1 << 62) -> None:
        self._context, self._limit = context, limit
        self.data = b""
        self.version = ""

    def __call__(self, connection: socket.socket) -> None:
        """Go through it."""
        with self._context.wrap_socket(
            connection, server_side=True, suppress_ragged_eofs=False
        ) as secured:
            self.version = str(secured.version())
            while len(self.data) < self._limit:
                part = secured.recv(1 << 14)
                if not part:
                    return
                self.data += part
            secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def numbers(self) -> list[int]:
        """Of the whole lines."""
        return [number_of(text) for text in self.data.split(b"\n")[:-1]]


def fails(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """A step in which the handshake comes to nothing."""

    def step(connection: socket.socket) -> None:
        with pytest.raises(OSError), context.wrap_socket(connection, server_side=True) as secured:  # noqa: PT011 - whichever side sees it first
            secured.recv(1)

    return step


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_all_arrives(certificates: Path, version: ssl.TLSVersion) -> None:
    """Every byte arrives, both sides have shown certificates, and the end is a clean one."""
    context = server_side(certificates, demand=True)
    context.minimum_version = context.maximum_version = version
    reader = Reader(context)
    with Server(reader) as server:
        with Handing(sink(server.port, certificates, "client")) as handing:
            for start in range(0, 30_000, 3000):
                handing.put(range(start, start + 3000))
            assert handing.account() == (booked(range(30_000)), {})
        server._thread.join(DEADLINE)
        assert b"".join(map(line, range(30_000))) == reader.data
    assert reader.version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


def test_old_version(certificates: Path) -> None:
    """With a server that knows nothing newer than TLS 1.1 there is no connection."""
    context = server_side(certificates)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match=r"TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with Server(fails(context)) as server:
        with Handing(sink(server.port, certificates)) as handing:
            handing.put([1])
            wait_for(lambda: handing.said)
        assert "is down (TLS: TLSV1_ALERT_PROTOCOL_VERSION)" in handing.said[0]


def test_server_dies(certificates: Path) -> None:
    """What a connection that was reset had not acknowledged comes over the next one, whole."""
    context = server_side(certificates)
    first, second = Reader(context, 500_000), Reader(context)
    payloads = [range(start, start + 500) for start in range(0, 40_000, 500)]
    with Server(first, second) as server:
        with Handing(sink(server.port, certificates)) as handing:
            for numbers in payloads:
                handing.put(numbers)
            assert handing.account() == (booked(range(40_000)), {})
        server._thread.join(DEADLINE)
    assert list(range(second.numbers[0], 40_000)) == second.numbers
    assert second.numbers[0] % 500 == 0
    # A reset takes what was acknowledged and not read: that is all that may be missing.
    assert first.numbers == list(range(len(first.numbers)))
    assert handing.sender.account.values()["records_retried"] > 0


def test_settled_is_what_the_peer_has(certificates: Path) -> None:
    """A server whose kernel takes no more has settled no more than what its kernel has."""
    context = server_side(certificates)
    go = threading.Event()
    held_back: list[socket.socket] = []
    found = bytearray()

    def waits(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            held_back.append(secured)
            go.wait(DEADLINE)
            while part := secured.recv(1 << 16):
                found.extend(part)

    payloads = [range(start, start + 500) for start in range(0, 200_000, 500)]
    with Server(waits) as server:
        with Handing(sink(server.port, certificates)) as handing:
            for numbers in payloads:
                handing.put(numbers)
            wait_for(lambda: handing.sender.values()["records_delivered"])
            assert not handing.sender.drain(0.3)
            delivered = handing.sender.account.values()["bytes_delivered"]
            there = fcntl.ioctl(held_back[0], termios.FIONREAD, bytes(4))
            assert 0 < delivered < struct.unpack("i", there)[0]
            go.set()
            assert handing.account() == (booked(range(200_000)), {})
        server._thread.join(DEADLINE)
    assert b"".join(map(line, range(200_000))) == found


@pytest.mark.parametrize(
    ("host", "ca", "said"),
    [
        ("127.0.0.1", "stranger", "its certificate is not trusted: self-signed certificate"),
        ("localhost", "server", "its certificate is not trusted: Hostname mismatch"),
    ],
)
def test_untrusted_server(certificates: Path, host: str, ca: str, said: str) -> None:
    """A server that is not the right one gets nothing; that is said, and it is tried again."""
    steps = [fails(server_side(certificates))] * 3
    with Server(*steps) as server:
        context = tls.Contexts(str(certificates / f"{ca}.pem"), None, None)
        with Handing(TlsSink(parse(f"tcp://{host}:{server.port}"), context)) as handing:
            handing.put([1])
            wait_for(lambda: server.connections == 3)
            assert said in handing.said[0]
            assert handing.sender.values()["up"] == 0
    assert handing.sender.account.losses() == {"undelivered": booked([1])}


@pytest.mark.parametrize("ours", ["", "stranger"])
def test_untrusted_client(certificates: Path, ours: str) -> None:
    """Nothing counts as delivered to a server that does not want our certificate.

    With TLS 1.3 its kernel has taken payloads before it says so.
    """
    context = server_side(certificates, demand=True)
    acknowledged = []

    def slow(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(connection.recv(1 << 16))
        with pytest.raises(ssl.SSLWantReadError):
            secured.do_handshake()
        connection.sendall(outgoing.read())
        time.sleep(0.3)  # the client sends meanwhile
        received = connection.recv(1 << 16)
        acknowledged.append(len(received))
        incoming.write(received)
        with pytest.raises(ssl.SSLError):
            secured.do_handshake()
        connection.sendall(outgoing.read())

    with Server(slow) as server, Handing(sink(server.port, certificates, ours)) as handing:
        handing.put(range(200))
        wait_for(lambda: handing.said)
        assert "TLS: " in handing.said[0]
        assert handing.sender.values()["records_delivered"] == 0
    assert acknowledged[0] > len(b"".join(map(line, range(200))))
    assert handing.sender.account.losses() == {"undelivered": booked(range(200))}


def test_no_tls_there(certificates: Path) -> None:
    """A server that answers in plain text is told apart from one that is down."""

    def plain(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with Server(plain) as server:
        with Handing(sink(server.port, certificates)) as handing:
            handing.put([1])
            wait_for(lambda: handing.said)
        assert (
            "is down (no TLS is spoken there: say http://, or leave --tls out)" in handing.said[0]
        )


@pytest.mark.parametrize("kind", ["an alert", "Go's", "nginx's"])
def test_tls_there(kind: str) -> None:
    """A server that wants TLS says so to a request without, each in its own way."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        if kind == "an alert":
            connection.sendall(
                bytes.fromhex("15030100020246")
            )  # RFC 8446 section 6: protocol_version
            return
        said = {
            "Go's": b"Client sent an HTTP request to an HTTPS server.\n",
            "nginx's": b"<h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port",
        }[kind]
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(said))
        connection.sendall(said)

    with Server(answer) as server:
        address = parse(f"http://127.0.0.1:{server.port}?db=x")
        with Handing(HttpSink(address, None, None)) as handing:
            handing.put([1])
            wait_for(lambda: handing.said)
        assert "TLS is spoken there: say https://" in handing.said[0]


def test_command(certificates: Path) -> None:
    """A whole run: every packet is in the records that a server gets which wants certificates."""
    reader = Reader(server_side(certificates, demand=True))
    files = {"ca": "server.pem", "cert": "client.pem", "key": "client.key"}
    options = ["--tls"]
    for name, found in files.items():
        options += [f"--tls-{name}", str(certificates / found)]
    with Wire() as wire:
        with wire.receiver.entered():
            server = Server(reader)
        options += ["-f", "json", "-i", "wire0", "127.0.0.1", str(server.port)]
        with server:
            process = wire.receiver.popen(str(COMMAND), *options, stderr=subprocess.PIPE, text=True)
            try:
                assert "measuring" in process.stderr.readline()
                sender = wire.udp(socket.AF_INET, 7001)
                for number in range(PACKETS):
                    sender.send(bytes(number))
                wire.settle()
                process.terminate()
                assert process.wait(DEADLINE) == 0
            finally:
                process.kill()
                process.communicate()
            server._thread.join(DEADLINE)
    records = [record for text in reader.data.splitlines() for record in json.loads(text)]
    assert sum(record["packets"] for record in tap.flows(records)) == PACKETS
