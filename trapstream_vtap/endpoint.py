# SPDX-License-Identifier: Apache-2.0
"""Pages over HTTP: one server for each address, whoever they are of."""

from __future__ import annotations

import gzip
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    import http.server
    from collections.abc import Callable, Mapping

_WORTH_COMPRESSING = 1400  # bytes; less fits into a packet as it is


class Page(NamedTuple):
    """What is answered: HTTP status, content type and body."""

    status: int
    kind: str
    body: bytes


def json_page(status: int, body: Mapping[str, object]) -> Page:
    """A page in JSON."""
    return Page(status, "application/json", orjson.dumps(body) + b"\n")


class Endpoint:
    """A server at one address.

    Args:
        address: Where to listen; port 0: a free one.
        option: That says so.

    Raises:
        RunError: It cannot be listened on.
    """

    def __init__(self, address: tuple[str, int], option: str) -> None:
        self._pages: dict[str, Callable[[str], Page]] = {}
        self._answers = False
        try:
            self._server = _server(address, self._answer)
        except OSError as error:
            raise RunError(
                f"Cannot listen on {address[0]} port {address[1]} ({error.strerror}): give another "
                f"{option}."
            ) from error

    @property
    def url(self) -> str:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def add(self, path: str, page: Callable[[str], Page]) -> None:
        """Answer PATH with what PAGE makes of what the client accepts; in any thread."""
        self._pages[path] = page

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        self._answers = True

    def close(self) -> None:
        """Answer no more."""
        if self._answers:
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> Page:
        if path in self._pages:
            return self._pages[path](accept)
        return json_page(404, {"status": f"there are {' and '.join(self._pages)}"})


class Endpoints:
    """The servers of a run; what needs rights is done by `at`."""

    def __init__(self) -> None:
        self._endpoints: dict[tuple[str, int], Endpoint] = {}

    def at(self, address: tuple[str, int] | None, option: str) -> Endpoint | None:
        """The server at ADDRESS, which OPTION says; None: nowhere.

        Raises:
            RunError: It cannot be listened on.
        """
        if address and address not in self._endpoints:
            self._endpoints[address] = Endpoint(address, option)
        return self._endpoints[address] if address else None

    def start(self) -> None:
        """Answer from now on."""
        for endpoint in self._endpoints.values():
            endpoint.start()

    def close(self) -> None:
        """Answer no more."""
        for endpoint in self._endpoints.values():
            endpoint.close()


def _server(
    address: tuple[str, int], answer: Callable[[str, str], Page]
) -> http.server.ThreadingHTTPServer:
    import http.server  # noqa: PLC0415 - large, and few ask for pages

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            page = answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
            data = page.body
            self.send_response(page.status)
            self.send_header("Content-Type", page.kind)
            accepted = self.headers.get("Accept-Encoding", "")
            if len(data) > _WORTH_COMPRESSING and "gzip" in accepted:
                data = gzip.compress(data, compresslevel=1)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Not a word: it would be said every few seconds."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *about: Any) -> None:
            """Whoever goes away in the middle has no use for an answer, nor a person for a word."""
            if not isinstance(sys.exception(), OSError):
                super().handle_error(*about)

        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True

    return Server(address, Handler)
