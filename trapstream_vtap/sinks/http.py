# SPDX-License-Identifier: Apache-2.0
"""InfluxDB over HTTP: 1.x by `/write`, 2.x and 3.x by `/api/v2/write`.

See: https://docs.influxdata.com/influxdb/v1/tools/api/#write-http-endpoint,
https://docs.influxdata.com/influxdb/v2/api/#operation/PostWrite
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import re
import socket
import threading
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trapstream_vtap.errors import UsageError
from trapstream_vtap.sinks.division import Division, Rejection
from trapstream_vtap.sinks.sender import Refusal, TryLaterError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from trapstream_vtap.sinks.address import Address
    from trapstream_vtap.sinks.sender import Payload

MOST_LINES = 5000
"""In one request, as InfluxDB recommends."""
MOST_BYTES = 5_000_000
"""In one request, before compression."""

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0  # for the request to be sent, and again for the answer
_LONGEST_WAIT = 3600.0  # that `Retry-After` is believed
_GZIP_LEVEL = 1  # level 9, the library's, takes five times as long for a fifth less
_GZIP_FRAME = 31  # window bits of zlib.h, with the header of gzip
_ENDPOINTS = ("/write", "/api/v2/write")
_KEYS = ("db", "rp", "org", "bucket")
_LONGEST_REASON = 300

_AGAIN = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_OF_LINES = {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}


class HttpSink:
    """Requests to one InfluxDB, one at a time, over a connection that is kept.

    Args:
        address: Where to; its query says into which database (`db`, `rp`) or bucket (`org`,
            `bucket`), what stands before it is kept as a prefix.
        token_file: Holds the token, or `user:password`; None: the environment may.
        context: TLS, for https.

    Raises:
        UsageError: The address says no place, or the token cannot be used.
    """

    def __init__(
        self, address: Address, token_file: str | None, context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._place = _place(address)
        self._token = _token(token_file)
        self._given_up = threading.Event()
        self._socket: socket.socket | None = None
        self._division: Division | None = None
        self._outcomes: list[Refusal | None] = []
        self._connect(context)

    def __str__(self) -> str:
        """The collector as messages name it."""
        return str(self._address)

    def _connect(self, context: ssl.SSLContext | None) -> None:
        """Make the client; it connects when there is something to send."""
        # 0.1 s and 18 MB: not for those who stream elsewhere
        import urllib3  # noqa: PLC0415
        from influxdb_client import InfluxDBClient, WriteService  # noqa: PLC0415

        self._failures = (urllib3.exceptions.HTTPError, http.client.HTTPException)
        client = InfluxDBClient(
            str(replace(self._address, path=self._address.path.rstrip("/"), query=())),
            self._token,
            timeout=(_CONNECT_SECONDS * 1000, _ANSWER_SECONDS * 1000),
            auth_basic=":" in self._token,
            ssl_context=context,
            retries=False,  # the sender sends again
        )
        self._api = client.api_client
        self._write_service = WriteService(self._api)
        self._pools = self._api.rest_client.pool_manager
        self._pools.pool_classes_by_scheme = {
            scheme: _watched(pool, self._connected)
            for scheme, pool in (
                ("http", urllib3.HTTPConnectionPool),
                ("https", urllib3.HTTPSConnectionPool),
            )
        }

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

    def give_up(self) -> None:
        """Have a request that waits for its answer fail."""
        self._given_up.set()
        connection = self._socket
        if connection:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._pools.clear()

    def _connected(self, connection: socket.socket) -> None:
        """A new connection is there.

        Raises:
            OSError: Given up meanwhile.
        """
        self._socket = connection
        if self._given_up.is_set():
            raise TimeoutError("given up")
        connection.settimeout(_ANSWER_SECONDS)  # until now, that of connecting

    def _post(self, lines: bytes) -> Rejection | None:
        """One request; None when all LINES were taken.

        Raises:
            OSError: It may succeed later.
        """
        from influxdb_client.rest import ApiException  # noqa: PLC0415 - loaded already

        try:
            self._write(_compressed(lines))
        except ApiException as error:
            return self._judge(error, lines.count(b"\n"))
        except self._failures as error:
            raise OSError(0, self._hidden(_cause(error))) from error
        except UnicodeDecodeError as error:
            raise OSError(0, "the answer is not text") from error
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
        if not error.status:  # TLS
            raise OSError(0, self._hidden(" ".join(str(error.reason).split())))
        body = self._hidden(error.body or "")
        why = f"HTTP {error.status}, {_reason(body) or error.reason}"
        if error.status in _AGAIN or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            seconds = _retry_after(error.headers.get("Retry-After"))
            raise OSError(0, why) if seconds is None else TryLaterError(why, seconds)
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return Rejection(why, whole=False)
        dropped = re.findall(r"dropped=(\d+)", body)  # 1.x, 2.x: of those that could be parsed
        of_some = error.status in _OF_LINES and re.search(r"partial write|pars(e|ing)\b", body)
        return Rejection(why, whole=not of_some or bool(dropped and int(dropped[-1]) >= lines))

    def _hidden(self, text: str) -> str:
        """TEXT without the token, should it be in there."""
        return text.replace(self._token, "(token)") if self._token else text


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


def _token(path: str | None) -> str:
    """From the file at PATH, else from the environment; empty: there is none."""
    source = f"--token-file {path}" if path else "INFLUX_TOKEN"
    try:
        text = Path(path).read_text(encoding="utf-8") if path else os.environ.get(source, "")
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


def _watched(pool: type[Any], connected: Callable[[socket.socket], None]) -> type[Any]:
    """A kind of POOL, of urllib3, that tells of each socket as soon as it is connected."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
        def connect(self) -> None:
            super().connect()
            connected(self.sock)

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
        answer = json.loads(body)
        if isinstance(answer, dict) and not answer.get("data"):
            said = answer.get("message") or answer.get("error") or body
    return " ".join(str(said).split())[:_LONGEST_REASON]


def _retry_after(text: str | None) -> float | None:
    """Seconds to wait; None: nothing that can be understood.

    See: RFC 9110, section 10.2.3
    """
    if text is None:
        return None
    if re.fullmatch(r"\d+", text):
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)
