# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 for a few pages, to whoever reaches the port.

A client can hold one of a few connections, for a limited time, and the memory of a short request;
not the descriptors that delivery and spool need.

See: RFC 9110, RFC 9112
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.client
import http.server
import io
import math
import resource
import socket
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from trapstream_vtap.accept import wants_gzip

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.page import Page

_WORTH_COMPRESSING = 1400  # bytes; less fits into a packet as it is
_CONNECTIONS = 32  # at a time; for one more, the one whose time is up first is ended
_PLACE_SECONDS = 2.0  # for a connection that is ended to go away
_REQUEST_SECONDS = 10.0  # for a whole request and its answer
_IDLE_SECONDS = 330.0  # between two requests; Prometheus itself hangs up after 300
_LONGEST_HEAD = 16 << 10  # bytes of a request
_KEPT_BACK = 32  # descriptors that no client gets; of few, a quarter
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FULL_SECONDS = 0.1


class _Connections:
    """Those that are open, each with the moment at which it is ended; thread-safe."""

    def __init__(self) -> None:
        self._places = threading.Semaphore(_CONNECTIONS)
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}

    def take_in(self, connection: socket.socket) -> bool:
        """Whether there is a place for one more, if need be that of another."""
        if not self._places.acquire(blocking=False):
            with self._lock:
                if self._ends:
                    _end(min(self._ends, key=lambda each: self._ends[each]))
            if not self._places.acquire(timeout=_PLACE_SECONDS):
                return False
        with self._lock:
            self._ends[connection] = time.monotonic() + _REQUEST_SECONDS
        return True

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """From now on CONNECTION has so long for what comes next."""
        with self._lock:
            self._ends[connection] = time.monotonic() + seconds

    def let_go(self, connection: socket.socket) -> None:
        """CONNECTION is closed, if it ever had a place."""
        with self._lock:
            if self._ends.pop(connection, None) is not None:
                self._places.release()

    def end(self, now: float) -> None:
        """End those whose time is up at the moment NOW; their threads notice."""
        with self._lock:
            for connection, end in self._ends.items():
                if end <= now:
                    _end(connection)


def _end(connection: socket.socket) -> None:
    """Whoever reads from CONNECTION or writes to it goes on at once, with nothing."""
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RDWR)


class _Reader(io.BufferedReader):
    """Lines of requests, so many bytes for each request."""

    rest = _LONGEST_HEAD

    def readline(self, size: int | None = -1, /) -> bytes:
        """The next line.

        Raises:
            LineTooLong: It would make the request too long.
        """
        most = self.rest + 1
        line = super().readline(min(size, most) if size and size > 0 else most)
        self.rest -= len(line)
        if self.rest < 0:
            raise http.client.LineTooLong("request")
        return line


class Server(socketserver.ThreadingTCPServer):
    """Listens on an address, and asks no resolver for its name.

    Args:
        address: IP and port; port 0: a free one.
        answer: Makes a page of a path and of what the client accepts; in any thread.
        failed: Is told of what ends a request and is neither the network's doing nor the client's.

    Raises:
        OSError: It cannot be listened on.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024  # who waits there takes no descriptor

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[str, str], Page],
        failed: Callable[[BaseException], None],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answer = answer
        self.connections = _Connections()
        self._failed = failed
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _FULL:  # who asks is there still: do not turn in circles
                time.sleep(_FULL_SECONDS)
            raise

    def verify_request(self, request: Any, _: Any) -> bool:
        """Whether there is room for this connection."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = most - min(_KEPT_BACK, most // 4)
        return request.fileno() < free and self.connections.take_in(request)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        super().shutdown_request(request)
        self.connections.let_go(request)

    def service_actions(self) -> None:
        """What is done twice a second."""
        self.connections.end(time.monotonic())

    def server_close(self) -> None:
        """Listen no more, and end all connections."""
        super().server_close()
        self.connections.end(math.inf)

    def handle_error(self, *_: object) -> None:
        """Whoever goes away in the middle has no use for an answer, nor a person for a word."""
        if (error := sys.exception()) and not isinstance(error, OSError):
            self._failed(error)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    rbufsize = 0
    wbufsize = -1  # an answer is sent in one go
    server: Server
    rfile: _Reader

    def setup(self) -> None:
        """Before the first request."""
        super().setup()
        self.rfile = _Reader(self.rfile)

    def handle_one_request(self) -> None:
        """Wait for a request, and answer it."""
        self.rfile.rest = _LONGEST_HEAD
        self.rfile.peek(1)  # returns when something has come, or nothing will
        self.server.connections.allow(self.connection, _REQUEST_SECONDS)
        try:
            super().handle_one_request()
        except http.client.HTTPException:  # of later lines, the library itself says 431
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
        self.server.connections.allow(self.connection, _IDLE_SECONDS)

    def do_GET(self) -> None:
        """Answer; to HEAD, without the body."""
        page = self.server.answer(self.path.partition("?")[0], self._all("Accept"))
        data = page.body
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Vary", "Accept, Accept-Encoding")
        gzipped = wants_gzip(self._all("Accept-Encoding"))
        if gzipped is None or (gzipped and len(data) > _WORTH_COMPRESSING):
            data = gzip.compress(data, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.send_header("Connection", "close")  # what follows is no request
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def _all(self, name: str) -> str:
        return ", ".join(self.headers.get_all(name, ()))

    def version_string(self) -> str:
        """What the header Server says."""
        return "vtap-stream"

    def log_message(self, *_: object) -> None:
        """Not a word: it would be said every few seconds."""
