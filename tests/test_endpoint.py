# SPDX-License-Identifier: Apache-2.0
"""Pages for whoever reaches the port: what a client may take, and what it is answered."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import random
import resource
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import tap
from waiting import DEADLINE, wait_for

from lab.namespace import Namespace
from trapstream_vtap import accept, http_server
from trapstream_vtap.endpoint import Endpoint
from trapstream_vtap.page import Page

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = b"vtap " * 2_000_000
"""More than the buffers of a connection hold."""

SHORT = 0.6  # seconds


class Answer(NamedTuple):
    """Of one request."""

    status: int
    encoding: str | None
    body: bytes


class Served:
    """An endpoint on loopback with a few pages, and what it has said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.endpoint = Endpoint(("127.0.0.1", 0), "--metrics", self.said.append)
        self.port = int(self.endpoint.url.rpartition(":")[2])
        self.endpoint.add("/small", lambda _: Page(200, "text/plain", b"small"))
        self.endpoint.add("/large", lambda _: Page(200, "text/plain", LARGE))
        self.endpoint.add("/broken", lambda _: Page(200, "text/plain", {}["x"]))
        self.endpoint.start()

    def connect(self) -> socket.socket:
        """A client's connection."""
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    def get(self, path: str, **headers: str) -> Answer:
        """The answer to a request of its own connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", path, headers=sent)
            with connection.getresponse() as answer:
                return Answer(answer.status, answer.getheader("Content-Encoding"), answer.read())


@pytest.fixture
def served() -> Iterator[Served]:
    """One that is closed, with all its threads."""
    before = threading.active_count()
    served = Served()
    yield served
    served.endpoint.close()
    wait_for(lambda: threading.active_count() == before)


def is_open(client: socket.socket) -> bool:
    """Whether the server has not ended this connection."""
    client.settimeout(0)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        client.settimeout(DEADLINE)


def test_many_slow_clients(served: Served) -> None:
    """Of 300 clients that never finish a request, 32 at most are held; others are answered."""
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(300):
            slow.append(stack.enter_context(served.connect()))
            slow[-1].sendall(b"G")
        assert served.get("/small").body == b"small"
        assert sum(map(is_open, slow)) <= 32
        assert is_open(slow[-1])
        handlers = [t for t in threading.enumerate() if "process_request" in t.name]
        assert len(handlers) <= 33


def test_drip(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request has one deadline: a byte now and then does not put it off."""
    monkeypatch.setattr(http_server, "_REQUEST_SECONDS", SHORT)
    with served.connect() as client:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while is_open(client):
                client.send(b"G")
                time.sleep(0.05)
                assert time.monotonic() - begin < DEADLINE
        assert time.monotonic() - begin >= SHORT


def test_slow_reader(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever does not read the answer loses the connection at the same deadline."""
    monkeypatch.setattr(http_server, "_REQUEST_SECONDS", SHORT)
    with served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: any("process_request" in t.name for t in threading.enumerate()))
        wait_for(lambda: not any("process_request" in t.name for t in threading.enumerate()))
    assert served.said == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 20_000, 414),
        (b"GET /small HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
        (b"GET /small HTTP/1.1\r\n" + b"X: x\r\n" * 4000, 431),
    ],
    ids=["line", "header", "headers"],
)
def test_endless(served: Served, head: bytes, status: int) -> None:
    """A request of more than 16 KiB is refused, however it goes on, and its connection closed."""
    with served.connect() as client, contextlib.ExitStack() as stack:
        client.sendall(head)
        answer = stack.enter_context(http.client.HTTPResponse(client))
        with contextlib.suppress(ConnectionResetError):  # what it did not read makes it one
            answer.begin()
            assert answer.status == status
            assert answer.getheader("Connection") == "close"
    assert served.get("/small").status == 200


def test_connections_are_kept(served: Served) -> None:
    """One connection takes any number of requests, HEAD among them, also sent ahead."""
    with served.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
            with http.client.HTTPResponse(client) as answer:
                answer.begin()
                assert (answer.version, answer.read()) == (11, b"small")
        ahead = b"HEAD /small HTTP/1.1\r\n\r\nGET /x HTTP/1.1\r\nConnection: close\r\n\r\n"
        client.sendall(ahead)
        said = b""
        while part := client.recv(1 << 16):
            said += part
        head, _, rest = said.partition(b"\r\n\r\n")
        assert b"Content-Length: 5" in head
        assert rest.startswith(b"HTTP/1.1 404 ")


def test_body(served: Served) -> None:
    """What a request carries behind its head is never read as another request."""
    with served.connect() as client:
        body = b"GET /large HTTP/1.1\r\n\r\n"
        head = b"GET /small HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall(head + body)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 16):
                said += part
        assert said.count(b"HTTP/1.1 200") <= 1
        assert len(said) < 1000


def test_idle(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is kept for nothing is closed."""
    monkeypatch.setattr(http_server, "_IDLE_SECONDS", SHORT)
    with served.connect() as client:
        client.sendall(b"GET /small HTTP/1.1\r\n\r\n")
        while client.recv(1 << 16):
            pass


def test_descriptors_kept_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there are few descriptors left, a client gets none; afterwards it does again."""
    with monkeypatch.context() as patch, served.connect() as probe:
        most = probe.fileno() + 2
        patch.setattr(resource, "getrlimit", lambda _: (most, most))
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            served.get("/small")
    assert served.get("/small").body == b"small"


def test_exception(served: Served) -> None:
    """A page that cannot be made costs that request, with a sentence, and nothing else."""
    for _ in range(3):
        assert served.get("/broken").status == 500
    assert served.get("/small").status == 200
    sentence = f"A request to http://127.0.0.1:{served.port} failed (KeyError('x'))."
    assert served.said == [sentence] * 2  # the first time, and the second


def test_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked for a name: with a resolver that hangs, it listens at once."""

    def hangs(*_: object) -> None:
        raise AssertionError

    for name in ("getfqdn", "gethostbyaddr", "getnameinfo", "getaddrinfo"):
        monkeypatch.setattr(socket, name, hangs)
    Endpoint(("127.0.0.1", 0), "--metrics", print).close()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, br", False),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip ; Q=0.000", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.4, identity", False),
        ("gzip;q=0.4, identity;q=0.4", True),
        ("identity;q=0, gzip;q=0.1", None),
        ("gzip, *;q=0", None),
        ("compress;q=0.5, gzip;q=1.0", True),
    ],
)
def test_encodings(header: str, expected: bool | None) -> None:  # noqa: FBT001 - what is expected
    """Gzip where the client weighs it at least as much as none; and where it wants no other.

    See: RFC 9110, section 12.5.3
    """
    assert accept.wants_gzip(header) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", 1.0),
        ("*/*", 1.0),
        ("text/*;q=0.3, text/plain;q=0.7, */*;q=0.5", 0.7),
        ("text/*;q=0.3, text/html;q=0.7", 0.3),
        ("application/json, */*;q=0.1", 0.1),
        ("application/json", 0.0),
        ("text/plain;q=0, text/*", 0.0),
        ("text/plain;version=1.0.0;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", 0.3),
        ('text/plain;x="a,b;q=0;\\"";q=0.25', 0.25),
        ("text/plain;q=2", 1.0),
        (",,;;=,", 1.0),
    ],
)
def test_media_types(header: str, expected: float) -> None:
    """The range that says most decides, and of its weights the greatest.

    See: RFC 9110, section 12.5.1
    """
    assert accept.media_type_weight(header, "text/plain") == expected


def test_gzip(served: Served) -> None:
    """Large pages are compressed for whoever wants it, small ones where nothing else will do."""
    large = served.get("/large", Accept_Encoding="gzip;q=0.5")
    assert large.encoding == "gzip"
    assert gzip.decompress(large.body) == LARGE
    assert served.get("/large", Accept_Encoding="gzip;q=0").encoding is None
    assert served.get("/small", Accept_Encoding="gzip").body == b"small"
    only = served.get("/small", Accept_Encoding="gzip, identity;q=0")
    assert gzip.decompress(only.body) == b"small"


def test_any_header() -> None:
    """Whatever a client sends as a header is read in time that grows with its length."""
    for part in ('"', '"\\', '"x', ",", ";q=", 'a;b="', " ", 'gzip;q="'):
        begin = time.process_time()
        accept.weights(part * (16_000 // len(part)))
        assert time.process_time() - begin < 0.2


def test_any_request(served: Served) -> None:
    """Whatever bytes a client sends, the next one is answered, and nothing is said."""
    chance = random.Random(12)  # noqa: S311 - requests, not secrets
    pieces = (
        *(b"GET ", b"HEAD ", b"PRI ", b"/small", b"*", b"http://[", b" HTTP/1.1", b" HTTP/1.0"),
        *(b" HTTP/9999999999.1", b"\r\n", b"\n", b"\r\n\r\n", b"\0", b"\xff", b"\x85", b": "),
        *(b"Accept: ", b"Accept-Encoding: ", b"gzip", b";q=", b"0.5", b'"', b"*/*", b","),
        *(b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
        *(b"Connection: keep-alive", b"\x16\x03\x01\x02\x00\x01"),
    )
    for _ in range(300):
        with served.connect() as client, contextlib.suppress(ConnectionError):
            client.sendall(b"".join(chance.choices(pieces, k=chance.randrange(1, 30))))
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
    assert served.get("/small").body == b"small"
    assert served.said == []


def test_delivery_goes_on() -> None:
    """While slow clients take what they can of 64 descriptors, a broken connection is renewed."""
    limited = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash", str(tap.COMMAND))
    with contextlib.ExitStack() as stack:
        namespace = stack.enter_context(Namespace())
        collector = stack.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
        collector.bind(("127.0.0.1", 0))
        collector.listen()
        collector.settimeout(DEADLINE)
        sink = ("--sink", f"tcp://127.0.0.1:{collector.getsockname()[1]}")
        options = ("-i", "lo", "-t", "0.2", *sink, "--metrics", "127.0.0.1:0")
        tapped = stack.enter_context(tap.Tap(namespace, *options, command=limited))
        connection, _ = collector.accept()
        wait_for(lambda: any("metrics at" in line for line in tapped.said))
        where = next(line for line in tapped.said if "metrics at" in line)
        port = int(where.rpartition(":")[2].partition("/")[0])
        for _ in range(150):
            client = stack.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.connect(("127.0.0.1", port))
            client.sendall(b"G")
        connection.close()
        connection, _ = collector.accept()
        with connection:
            connection.settimeout(DEADLINE)
            assert connection.recv(1)
        held = len(list(Path(f"/proc/{tapped.process.pid}/fd").iterdir()))
        assert held < 64
        tapped.end()
