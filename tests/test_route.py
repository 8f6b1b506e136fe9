# SPDX-License-Identifier: Apache-2.0
"""A collector's name with several addresses, of which some are of no use."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import certificate
import pytest
from flowlines import Handing, booked
from httpserver import HttpServer, taken
from sending import Peer
from waiting import wait_for

from trapstream_vtap.settings.address import Address, parse
from trapstream_vtap.sinks import UdpSink, connection, tls, udp
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.tcp_tls import TlsSink

if TYPE_CHECKING:
    from pathlib import Path

NAME = "collector.test"
ASK = socket.getaddrinfo


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of NAME, in the resolver's order."""
    found = ["127.0.0.2", "127.0.0.1"]

    def ask(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host != NAME or options.get("flags"):
            return ASK(host, port, *args, **options)
        return [answer for one in found for answer in ASK(one, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return found


@pytest.mark.usefixtures("addresses")
def test_tcp() -> None:
    """Where the first address refuses, the second gets everything."""
    with closing(Peer()) as peer:
        peer.socket.listen()
        with Handing(TcpSink(parse(f"tcp://{NAME}:{peer.port}"))) as handing, peer.accept():
            handing.put(range(10))
            assert handing.account() == (booked(range(10)), {})
    assert handing.said == []


@pytest.mark.usefixtures("addresses")
def test_http() -> None:
    """The same for a database."""
    with (
        HttpServer(lambda request, _: taken(request)) as server,
        Handing(HttpSink(parse(f"http://{NAME}:{server.port}?db=x"), None, None)) as handing,
    ):
        handing.put(range(10))
        assert handing.account() == (booked(range(10)), {})
    assert handing.said == []


@pytest.mark.usefixtures("addresses")
def test_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is closed at the first address is tried at the second."""
    monkeypatch.setattr(udp, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(20)
        address = Address("udp", ((NAME, collector.getsockname()[1]),))
        with Handing(UdpSink(address)) as handing:
            handing.put(range(10))
            assert handing.account() == (booked(range(10)), {})
            assert collector.recv(1 << 16)
    assert "Connection refused" in handing.said[0]


@pytest.mark.usefixtures("addresses")
def test_tls(tmp_path: Path) -> None:
    """An address whose server is the wrong one does not keep us from the next."""
    certificate.make(tmp_path, "right", "wrong")
    contexts = {}
    for name in ("right", "wrong"):
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        contexts[name].load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    listeners = {"wrong": socket.create_server(("127.0.0.2", 0))}
    port = listeners["wrong"].getsockname()[1]
    listeners["right"] = socket.create_server(("127.0.0.1", port))
    met: list[str] = []

    def serve(name: str) -> None:
        try:
            while True:
                accepted, _ = listeners[name].accept()
                met.append(name)
                try:
                    with contexts[name].wrap_socket(accepted, server_side=True) as secured:
                        while secured.recv(1 << 16):
                            pass
                except OSError:
                    accepted.close()
        except OSError:
            return

    for name in listeners:
        threading.Thread(target=serve, args=(name,), daemon=True).start()
    trusted = tls.Contexts(str(tmp_path / "right.pem"), None, None)
    trusted.latest.check_hostname = False
    with Handing(TlsSink(parse(f"tcp://{NAME}:{port}"), trusted)) as handing:
        handing.put(range(10))
        assert handing.account() == (booked(range(10)), {})
    for listener in listeners.values():
        listener.close()
    assert met == ["wrong", "right"]
    assert "its certificate is not trusted" in handing.said[0]


def test_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that does not answer is said, and holds up neither other attempts nor the end."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    asked = threading.Semaphore(0)
    go = threading.Event()

    def ask(*args: Any, **options: Any) -> list[Any]:
        if options.get("flags"):
            return ASK(*args, **options)
        asked.release()
        go.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    with Handing(TcpSink(parse(f"tcp://{NAME}:9"))) as handing:
        handing.put([1])
        wait_for(lambda: handing.said)
        assert "its name is not resolved in time" in handing.said[0]
        assert asked.acquire(timeout=20)
        assert asked.acquire(timeout=20)
        begin = time.monotonic()
        handing.sender.close()
        assert time.monotonic() - begin < 2
    go.set()
    assert handing.sender.account.losses() == {"undelivered": booked([1])}
