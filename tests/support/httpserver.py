# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that answers as a test wants, and remembers what it was asked.

Real servers refuse what is wrong; only this one refuses what is right, or answers with 429.
"""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

import flowlines

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


@dataclass
class Request:
    """What came."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    lines: list[bytes]


@dataclass
class Answer:
    """What goes back: the lines whose numbers are in `stored` are kept."""

    status: int = 204
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    stored: set[int] = field(default_factory=set)


class HttpServer:
    """Listens on loopback.

    Args:
        answer: Gets a request and how many there were before; None: the connection is cut.
        context: TLS.
    """

    def __init__(
        self,
        answer: Callable[[Request, int], Answer | None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.stored: set[int] = set()
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                parts = urlsplit(self.path)
                request = Request(
                    parts.path,
                    dict(parse_qsl(parts.query, keep_blank_values=True)),
                    {name.lower(): value for name, value in self.headers.items()},
                    gzip.decompress(body).splitlines(keepends=True),
                )
                said = answer(request, len(outer.requests))
                if said:
                    outer.stored |= said.stored
                outer.requests.append(request)
                if not said:
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body.encode())))
                self.end_headers()
                self.wfile.write(said.body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def taken(request: Request) -> Answer:
    """All of it."""
    return Answer(stored={flowlines.number_of(text) for text in request.lines})
