# SPDX-License-Identifier: Apache-2.0
"""InfluxDB over HTTP: 1.x by `/write`, 2.x and 3.x by `/api/v2/write`.

See: https://docs.influxdata.com/influxdb/v1/tools/api/#write-http-endpoint,
https://docs.influxdata.com/influxdb/v2/api/#operation/PostWrite
"""

from __future__ import annotations

import email.utils
import http.client
import logging
import os
import re
import socket
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson

from trapstream_vtap.credentials import read_file
from trapstream_vtap.errors import UsageError
from trapstream_vtap.sinks.answer import Answer
from trapstream_vtap.sinks.connection import Route, Stream
from trapstream_vtap.sinks.division import Division, Rejection
from trapstream_vtap.sinks.sender import TryLaterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.payload import Payload, Refusal
    from trapstream_vtap.sinks.tls import Contexts

MOST_LINES = 5000
"""In one request, as InfluxDB recommends."""
MOST_BYTES = 5_000_000
"""In one request, before compression."""

_ANSWER_SECONDS = 30.0  # for the request to be sent, and again for the answer
_LONGEST_WAIT = 3600.0  # that `Retry-After` is believed
_GZIP_LEVEL = 1  # level 9, the library's, takes five times as long for a fifth less
_GZIP_FRAME = 31  # window bits of zlib.h, with the header of gzip
_ENDPOINTS = ("/write", "/api/v2/write")
_KEYS = ("db", "rp", "org", "bucket")
_LONGEST_REASON = 300

_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_NOT_LET_IN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_OF_LINES = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}


class HttpSink:
    """Requests to one InfluxDB, one at a time, over a connection that is kept.

    Args:
        address: Where to; its query says into which database (`db`, `rp`) or bucket (`org`,
            `bucket`), what stands before it is kept as a prefix.
        token_file: Holds the token, or `user:password`; None: the environment may.
        contexts: TLS, for https.
        read: Reads the token's file.

    Raises:
        UsageError: The address says no place, or the token cannot be used.
    """

    def __init__(
        self,
        address: Address,
        token_file: str | None,
        contexts: Contexts | None,
        read: Callable[[str], bytes] = read_file,
    ) -> None:
        self._address = address
        self._place = _place(address)
        self._token_file, self._read = token_file, read
        self._token = _token(token_file, read)
        self._given_up = threading.Event()
        self._route = Route(address.hosts[0], socket.SOCK_STREAM, self._given_up)
        self._division: Division | None = None
        self._outcomes: list[Refusal | None] = []
        self._contexts = contexts
        self._make_client()

    def __str__(self) -> str:
        """The collector as messages name it."""
        return str(self._address)

    def _make_client(self) -> None:
        """Make the client; it connects when there is something to send."""
        # 0.1 s and 18 MB: not for those who stream elsewhere
        import urllib3  # noqa: PLC0415
        from influxdb_client import InfluxDBClient, WriteService  # noqa: PLC0415

        logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # what there is to say, we say
        self._failures = (urllib3.exceptions.HTTPError, http.client.HTTPException)
        client = InfluxDBClient(
            str(replace(self._address, path=self._address.path.rstrip("/"), query=())),
            self._token,
            auth_basic=":" in self._token,
            retries=False,  # the sender sends again
        )
        self._api = client.api_client
        self._write_service = WriteService(self._api)
        self._pools = self._api.rest_client.pool_manager
        self._pools.pool_classes_by_scheme = {
            scheme: _connecting(pool, self._connect)
            for scheme, pool in (
                ("http", urllib3.HTTPConnectionPool),
                ("https", urllib3.HTTPSConnectionPool),
            )
        }

    def _connect(self) -> Stream:
        """A new connection to the server.

        Raises:
            OSError: There is none, or not in time.
        """
        connection = self._route.connect()
        stream = Stream(connection, _ANSWER_SECONDS, self._given_up)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._contexts:
                with suppress(UsageError):  # they may have been renewed; else the old ones stay
                    self._contexts.renew()
                stream.secure(self._contexts.latest, self._address.hosts[0][0])
        except BaseException:
            stream.close()
            raise
        return stream

    def open(self) -> None:
        """Nothing is known of the collector until there is something to send."""
        self.close()

    def send(self, payload: Payload) -> None:
        """Write one payload, in pieces where a part of it is refused.

        Raises:
            OSError: The collector could not be reached, or could not take it now.
        """
        if not self._division or self._division.payload is not payload:
            self._division = Division(payload)
        self._outcomes.append(self._division.write(self._post))
        self._division = None

    def settled(self) -> list[Refusal | None]:
        """One for each payload that was answered."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def check(self) -> None:
        """A connection that the collector closes while there is nothing to send is no error."""

    def renew(self) -> bool:
        """Read the credentials again; whether they have changed.

        Raises:
            UsageError: They cannot be used; the old ones stay.
        """
        token = _token(self._token_file, self._read)
        changed = self._contexts.renew() if self._contexts else False
        if token != self._token:
            self.close()
            self._token, changed = token, True
            self._make_client()
        return changed

    def _renewed(self) -> bool:
        """Whether there are other credentials than before."""
        try:
            return self.renew()
        except UsageError:
            return False

    def give_up(self) -> None:
        """Have a request that waits for its answer fail."""
        self._given_up.set()

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._pools.clear()

    def _post(self, lines: bytes) -> Rejection | None:
        """One request; None when all LINES were taken.

        Raises:
            OSError: It may succeed later.
        """
        from influxdb_client.rest import ApiException  # noqa: PLC0415 - loaded already

        try:
            self._write(_compressed(lines))
        except ApiException as error:
            if error.status in _NOT_LET_IN and self._renewed():
                return self._post(lines)
            return self._judge(error, lines.count(b"\n"))
        except self._failures as error:
            why = _cause(error)
            if "\\x15\\x03" in why:  # an alert of TLS (RFC 8446 section 6) for a status line
                why = _SAY_HTTPS
            raise OSError(0, self._hidden(why)) from error
        self._route.worked()
        return None

    def _write(self, body: bytes) -> None:
        once = {"redirect": False}
        if "bucket" in self._place:
            self._write_service.post_write(
                self._place.get("org", ""),
                self._place["bucket"],
                body,
                precision="ns",
                content_encoding="gzip",
                urlopen_kw=once,
            )
        else:
            self._api.call_api(
                "/write",
                "POST",
                query_params=[*self._place.items(), ("precision", "ns")],
                header_params={"Content-Encoding": "gzip", "Content-Type": "text/plain"},
                body=body,
                urlopen_kw=once,
            )

    def _judge(self, error: Any, lines: int) -> Rejection:
        """What an answer to that many LINES means.

        Raises:
            OSError: It may succeed later.
        """
        if not error.status:  # there was no answer
            raise OSError(0, self._hidden(" ".join(str(error.reason).split())))
        body = self._hidden(error.body or "")
        said = _reason(body) or self._hidden(str(error.reason))[:_LONGEST_REASON]
        if error.status == HTTPStatus.BAD_REQUEST and _WANTS_TLS.search(body):
            raise OSError(0, _SAY_HTTPS)
        why = f"HTTP {error.status}, {said}"
        if error.status == HTTPStatus.NOT_FOUND and _NO_DATABASE.search(body):
            why += "; make it there, or say another in --sink"
        if error.status in _AGAIN or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            seconds = _retry_after(error.headers.get("Retry-After"))
            raise OSError(0, why) if seconds is None else TryLaterError(why, seconds)
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Rejection(why, whole=False)
        # 1.x, 2.x: of those that could be parsed
        dropped = re.findall(r"dropped=([0-9]{1,9})(?![0-9])", body)
        of_some = error.status in _OF_LINES and re.search(r"partial write|pars(e|ing)\b", body)
        return Rejection(why, whole=not of_some or bool(dropped and int(dropped[-1]) >= lines))

    def _hidden(self, text: str) -> str:
        """TEXT without the token, should it be in there."""
        return text.replace(self._token, "(token)") if self._token else text


_WANTS_TLS = re.compile(r"HTTP request (was sent )?to (an )?HTTPS", re.IGNORECASE)
_SAY_HTTPS = "TLS is spoken there: say https://"
_NO_DATABASE = re.compile(r"(database|bucket)\b.*not found", re.IGNORECASE)


def _place(address: Address) -> dict[str, str]:
    """The database or bucket that ADDRESS says, by the parameters of requests."""
    if len(address.hosts) > 1:
        raise UsageError(f"--sink {str(address)!r}: give one host; --sink can be repeated.")
    place = dict(address.query)
    for key in place:
        if key not in _KEYS:  # it may be a secret: do not repeat what it says
            raise UsageError(
                f"--sink {address.scheme}://…: there is no {key!r}; there are {', '.join(_KEYS)}. "
                "The token goes into --token-file or INFLUX_TOKEN."
            )
    if address.path.rstrip("/").endswith(_ENDPOINTS):
        raise UsageError(f"--sink {str(address)!r}: leave out /write, it is added.")
    if "db" not in place:
        for key, name in (("org", "INFLUX_ORG"), ("bucket", "INFLUX_BUCKET_NAME")):
            if name in os.environ:
                place.setdefault(key, os.environ[name])
    if ("db" in place) == ("bucket" in place) or ("db" in place and "org" in place):
        raise UsageError(
            f"--sink {str(address)!r}: say where in InfluxDB: ?db=NAME (1.x), or "
            "?org=NAME&bucket=NAME (2.x; 3.x, where the bucket is the database)."
        )
    return place


def _token(path: str | None, read: Callable[[str], bytes]) -> str:
    """From the file at PATH, else from the environment; empty: there is none."""
    source = f"--token-file {path}" if path else "INFLUX_TOKEN"
    try:
        text = read(path).decode() if path else os.environ.get(source, "")
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: is not UTF-8 at byte {error.start}.") from None
    token = text.strip()
    if path and not token:
        raise UsageError(f"{source}: is empty.")
    if not token.isprintable() or not (":" in token or token.isascii()):
        raise UsageError(f"{source}: is not a token: there are characters in it that cannot be.")
    return token


def _connecting(pool: type[Any], connect: Callable[[], Stream]) -> type[Any]:
    """A kind of POOL, of urllib3, whose connections are those that CONNECT makes."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
        response_class = Answer

        def connect(self) -> None:
            self.sock = connect()
            self.is_verified = True  # or there would be none

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _compressed(lines: bytes) -> bytes:
    stream = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FRAME)
    return stream.compress(lines) + stream.flush()


def _cause(error: BaseException) -> str:
    """Why there was no answer: the system's words, where there are any."""
    below: BaseException | None = error
    while below:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror
        below = below.__cause__ or below.__context__
    return str(error)


def _reason(body: str) -> str:
    """What the collector says, on one line: 1.x `error`, 2.x `message`, 3.x also `data`."""
    said: Any = body
    with suppress(ValueError):
        answer = orjson.loads(body)
        if isinstance(answer, dict) and not answer.get("data"):
            said = answer.get("message") or answer.get("error") or body
    return " ".join(str(said).split())[:_LONGEST_REASON]


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait; None: nothing that can be understood.

    See: RFC 9110, section 10.2.3
    """
    if text is None:
        return None
    if re.fullmatch(r"[0-9]+", text):
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except Exception:  # noqa: BLE001 - whatever the library makes of what is no date
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
