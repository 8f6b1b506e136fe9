# SPDX-License-Identifier: Apache-2.0
"""The sink for InfluxDB over HTTP against a server that does whatever HTTP allows."""

from __future__ import annotations

import base64
import email.utils
import json
import ssl
import threading
import time
from typing import TYPE_CHECKING

import certificate
import pytest
from flowlines import Handing, booked, line, number_of
from httpserver import Answer, HttpServer, Request, taken
from waiting import wait_for

from trapstream_vtap.errors import UsageError
from trapstream_vtap.ledger import Booked
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import Payload, http, tls
from trapstream_vtap.sinks.division import MOST_REQUESTS
from trapstream_vtap.sinks.http import HttpSink

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "s3cr3t-0Ken=="  # noqa: S105 - of this test's own
V2 = "?org=lab+one&bucket=vtap"
PARTIAL = json.dumps({"error": "partial write: field type conflict: … dropped=1"})


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests."""
    for name in ("INFLUX_TOKEN", "INFLUX_ORG", "INFLUX_BUCKET_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    """A file with a token."""
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return str(path)


def sink(server: HttpServer, where: str = V2, token_file: str | None = None) -> HttpSink:
    """The sink that writes to SERVER."""
    return HttpSink(parse(f"http://127.0.0.1:{server.port}{where}"), token_file, None)


@pytest.mark.parametrize(
    ("where", "path", "query"),
    [
        (V2, "/api/v2/write", {"org": "lab one", "bucket": "vtap", "precision": "ns"}),
        ("/a/b/?bucket=x", "/a/b/api/v2/write", {"org": "", "bucket": "x", "precision": "ns"}),
        ("/?db=d%26b&rp=day", "/write", {"db": "d&b", "rp": "day", "precision": "ns"}),
        ("/influx?db=vtap", "/influx/write", {"db": "vtap", "precision": "ns"}),
    ],
)
def test_request(where: str, path: str, query: dict[str, str], token_file: str) -> None:
    """A payload is a request as each version wants it, gzipped; one connection serves all."""
    with (
        HttpServer(lambda request, _: taken(request)) as server,
        Handing(sink(server, where, token_file)) as handing,
    ):
        handing.put(range(100))
        handing.put(range(100, 150))
        assert handing.account() == (booked(range(150)), {})
    assert handing.said == []
    assert server.connections == 1
    assert [request.lines for request in server.requests] == [
        [line(number) for number in range(100)],
        [line(number) for number in range(100, 150)],
    ]
    for request in server.requests:
        assert (request.path, request.query) == (path, query)
        assert request.headers["content-encoding"] == "gzip"
        assert request.headers["authorization"] == f"Token {TOKEN}"


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token, organization and bucket may come from the variables that InfluxDB's own tool reads."""
    monkeypatch.setenv("INFLUX_TOKEN", "me:päss word")
    monkeypatch.setenv("INFLUX_ORG", "mine")
    monkeypatch.setenv("INFLUX_BUCKET_NAME", "from there")
    with HttpServer(lambda request, _: taken(request)) as server:
        for where in ("", "?bucket=given", "?db=old"):
            with Handing(sink(server, where)) as handing:
                handing.put([7])
                assert handing.account() == (booked([7]), {})
    asked = [request.query for request in server.requests]
    assert asked[0] == {"org": "mine", "bucket": "from there", "precision": "ns"}
    assert asked[1] == {"org": "mine", "bucket": "given", "precision": "ns"}
    assert asked[2] == {"db": "old", "precision": "ns"}
    basic = base64.b64encode("me:päss word".encode()).decode()
    assert {r.headers["authorization"] for r in server.requests} == {f"Basic {basic}"}


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 422])
def test_never_again(status: int, token_file: str) -> None:
    """What will never be taken is asked once, counted as refused, and the reason is said."""
    said = json.dumps({"code": "x", "message": f"no {TOKEN}\n for you"})
    refused = Answer(status, said, {"Location": "/elsewhere"})

    def answer(request: Request, number: int) -> Answer:
        return taken(request) if number else refused

    with HttpServer(answer) as server, Handing(sink(server, V2, token_file)) as handing:
        handing.put(range(100))
        handing.put(range(100, 103))
        assert handing.account() == (booked(range(100, 103)), {"refused": booked(range(100))})
        octets = sum(len(line(number)) for number in range(100, 103))
        assert handing.sender.values()["bytes_delivered"] == octets
    assert len(server.requests) == 2
    where = f"http://127.0.0.1:{server.port}{V2}"
    why = f"HTTP {status}, no (token) for you"
    assert handing.said == [f"Collector {where} refuses 100 records: {why}."]


@pytest.mark.parametrize("status", [None, 408, 429, 500, 502, 503])
def test_again(status: int | None) -> None:
    """What may be taken later, or came to nothing (None), is sent again, and not counted twice."""
    first = Answer(status, "later") if status else None

    def answer(request: Request, number: int) -> Answer | None:
        return taken(request) if number else first

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(100))
        assert handing.account() == (booked(range(100)), {})
        assert handing.sender.values()["records_retried"] == 100
    assert [len(request.lines) for request in server.requests] == [100, 100]
    assert (f"HTTP {status}, later" if status else "") in handing.said[0]
    assert "is back." in handing.said[-1]


def test_retry_after() -> None:
    """The collector is left alone for as long as it wants to be."""
    moments: list[float] = []

    def answer(request: Request, number: int) -> Answer:
        moments.append(time.monotonic())
        return taken(request) if number else Answer(429, "", {"Retry-After": "1"})

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(10))
        wait_for(lambda: server.stored)
    assert moments[1] - moments[0] >= 1.0


def test_retry_after_is_understood() -> None:
    """Seconds or a date; what is neither, or would be forever, is not believed."""
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 90 < (http._retry_after(later) or 0) <= 100
    assert http._retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert http._retry_after("120") == 120.0
    assert http._retry_after("9" * 400) == 3600.0
    assert http._retry_after("Fri, 31 Dec 9999 23:59:59 GMT") == 3600.0
    assert [http._retry_after(text) for text in (None, "", "soon", "-1", "1.5")] == [None] * 5


def test_every_tenth_payload_is_refused() -> None:
    """400 and 401 lose a payload each, 429 and 503 none; the books agree with the server's."""
    seen: set[int] = set()
    numbers = [range(10 * i, 10 * i + 10) for i in range(120)]

    def answer(request: Request, _: int) -> Answer:
        first = number_of(request.lines[0])
        if first % 100 or first in seen:
            return taken(request)
        status = (400, 401, 429, 503)[first // 100 % 4]
        if status > 401:  # then once
            seen.add(first)
        return Answer(status, "not now, not ever")

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        for part in numbers:
            handing.put(part)
        delivered, losses = handing.account()
    never = {
        n for first in range(0, 1200, 100) if first // 100 % 4 < 2 for n in numbers[first // 10]
    }
    assert len(never) == 60
    assert set(range(1200)) - never == server.stored
    assert delivered == booked(server.stored)
    assert losses == {"refused": booked(never)}


def refusing(bad: set[int]) -> Answer:
    """How 1.x answers when it has stored all but BAD."""
    return Answer(400, f"partial write: field type conflict dropped={len(bad)}")


@pytest.mark.parametrize("bad", [{0}, {4999}, {2500}, {7, 8}, {1234, 4321}, set(range(5000))])
def test_partial_write(bad: set[int]) -> None:
    """Of a payload exactly the bad lines are refused, wherever they are."""

    def answer(request: Request, _: int) -> Answer:
        numbers = {number_of(text) for text in request.lines}
        rejected = numbers & bad
        said = refusing(rejected) if rejected else Answer()
        said.stored = numbers - bad
        return said

    with HttpServer(answer) as server, Handing(sink(server, "?db=x")) as handing:
        handing.put(range(5000))
        assert handing.account() == (booked(set(range(5000)) - bad), {"refused": booked(bad)})
    assert set(range(5000)) - bad == server.stored
    assert len(server.requests) <= (1 if len(bad) == 5000 else 52)


def test_whole_request_refused_for_one_line() -> None:
    """Where a bad line keeps the others from being stored, they are sent without it."""

    def answer(request: Request, _: int) -> Answer:
        if any(number_of(text) == 77 for text in request.lines):
            return Answer(400, '{"code":"invalid","message":"unable to parse \'…\'"}')
        return taken(request)

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(200))
        good = set(range(200)) - {77}
        assert handing.account() == (booked(good), {"refused": booked([77])})
    assert good == server.stored


def test_too_many_bad_lines() -> None:
    """What the limit of requests leaves undecided is not counted as delivered."""
    good = {number for number in range(4000) if number % 3}

    def answer(request: Request, _: int) -> Answer:
        numbers = {number_of(text) for text in request.lines}
        said = refusing(numbers - good) if numbers - good else Answer()
        said.stored = numbers & good
        return said

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(4000))
        delivered, losses = handing.account()
    assert len(server.requests) == MOST_REQUESTS
    assert good == server.stored
    assert losses["refused"].records >= 4000 - len(good)
    assert delivered.records <= len(good)
    assert "of them not told apart after 64 requests" in handing.said[0]


def test_failure_in_between() -> None:
    """While a payload is taken apart the server may fail; what was decided before stays so."""
    accepted: list[frozenset[int]] = []

    def answer(request: Request, number: int) -> Answer:
        numbers = frozenset(number_of(text) for text in request.lines)
        if number % 3 == 2:
            return Answer(503)
        said = refusing({5}) if 5 in numbers else Answer()
        if 5 not in numbers:
            accepted.append(numbers)
        said.stored = set(numbers - {5})
        return said

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(64))
        assert handing.account() == (booked(set(range(64)) - {5}), {"refused": booked([5])})
    assert len(set(accepted)) == len(accepted)
    assert set(range(64)) - {5} == server.stored


def test_too_large() -> None:
    """A request that is too large for the server is halved until it fits; a line cannot be."""

    def answer(request: Request, _: int) -> Answer:
        numbers = {number_of(text) for text in request.lines}
        if len(request.lines) > 100 or 13 in numbers:
            return Answer(413, "<html>Request Entity Too Large</html>")
        return taken(request)

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(1000))
        good = set(range(1000)) - {13}
        assert handing.account() == (booked(good), {"refused": booked([13])})
    assert good == server.stored


def test_own_account_is_not_counted() -> None:
    """Refused records of `vtap_agent` are said, and are in no account."""

    def answer(request: Request, _: int) -> Answer:
        return refusing({1}) if b"flow=1 " in b"".join(request.lines) else taken(request)

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.sender.put(Payload(line(0) + line(1)))
        assert handing.account() == (Booked(), {})
        assert handing.sender.values()["bytes_delivered"] == len(line(0))
    assert "refuses vtap_agent: HTTP 400, partial write" in handing.said[0]


def test_nobody_there() -> None:
    """A port that nobody listens on is reported with the system's words."""
    with HttpServer(lambda request, _: taken(request)) as server:
        closed = sink(server)
    with Handing(closed) as handing:
        handing.put([1])
        wait_for(lambda: handing.said)
    assert "Connection refused; sending again." in handing.said[0]
    assert handing.sender.account.losses() == {"undelivered": booked([1])}


def test_close_while_no_answer_comes() -> None:
    """At the end, a server that takes a request and says nothing holds nobody up."""
    asked, ended = threading.Event(), threading.Event()

    def answer(_: Request, __: int) -> Answer:
        asked.set()
        ended.wait(60)
        return Answer()

    with HttpServer(answer) as server, Handing(sink(server)) as handing:
        handing.put(range(10))
        assert asked.wait(20)
        begin = time.monotonic()
        handing.sender.close()
        assert time.monotonic() - begin < http._ANSWER_SECONDS / 2
        ended.set()
    assert handing.sender.account.losses() == {"undelivered": booked(range(10))}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two authorities, each its own only certificate: `server` and `client`."""
    directory = tmp_path_factory.mktemp("tls")
    certificate.make(directory, "server", "client")
    return directory


def test_tls(certificates: Path) -> None:
    """Both sides show certificates; a collector that is not trusted gets nothing."""
    ours, theirs = certificates / "client", certificates / "server"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=f"{ours}.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(f"{theirs}.pem", f"{theirs}.key")
    with HttpServer(lambda request, _: taken(request), context) as server:
        address = parse(f"https://127.0.0.1:{server.port}{V2}")
        known = tls.Contexts(f"{theirs}.pem", f"{ours}.pem", f"{ours}.key")
        with Handing(HttpSink(address, None, known)) as handing:
            handing.put(range(50))
            assert handing.account() == (booked(range(50)), {})
        for context in (
            tls.Contexts(None, f"{ours}.pem", f"{ours}.key"),
            tls.Contexts(f"{theirs}.pem", None, None),
        ):
            with Handing(HttpSink(address, None, context)) as handing:
                handing.put([1])
                wait_for(lambda: handing.said)
            assert handing.sender.account.losses() == {"undelivered": booked([1])}
    assert len(server.requests) == 1


def test_tls_files(certificates: Path, tmp_path: Path) -> None:
    """Each file that TLS cannot use is named, with what is wrong."""
    pem, key = (str(certificates / f"client.{kind}") for kind in ("pem", "key"))
    other = str(certificates / "server.key")
    none = str(tmp_path / "none")
    for files, said in (
        ((none, None, None), f"--tls-ca {none}: cannot be read (No such file or directory)."),
        ((key, None, None), f"--tls-ca {key}: not a PEM file that fits"),
        ((None, pem, None), f"--tls-cert {pem}: not a PEM file that fits"),
        ((None, pem, none), f"--tls-cert {pem}, --tls-key {none}: cannot be read"),
        ((None, pem, other), f"--tls-cert {pem}, --tls-key {other}: not a PEM file that fits"),
        ((None, None, key), "--tls-key needs --tls-cert: the certificate that the key belongs to."),
    ):
        with pytest.raises(UsageError) as raised:
            tls.Contexts(*files)
        assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--token-file {}: is empty."),
        ("sec\nret", "--token-file {}: is not a token: there are characters in it that cannot be."),
        ("säcret", "--token-file {}: is not a token: there are characters in it that cannot be."),
        (b"sec\xffret", "--token-file {}: is not UTF-8 at byte 3."),
        (None, "--token-file {}: cannot be read (No such file or directory)."),
    ],
)
def test_bad_token_file(text: str | bytes | None, said: str, tmp_path: Path) -> None:
    """A token that cannot be one is not sent, and never shown."""
    path = tmp_path / "token"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as raised:
        HttpSink(parse("http://127.0.0.1?db=x"), str(path), None)
    assert str(raised.value) == said.format(path)
