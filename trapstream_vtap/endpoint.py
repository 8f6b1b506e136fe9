# SPDX-License-Identifier: Apache-2.0
"""Pages over HTTP: one server for each address, whoever they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap import threads
from trapstream_vtap.errors import RunError, worth_saying
from trapstream_vtap.page import json_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.page import Page


class Endpoint:
    """A server at one address.

    Args:
        address: Where to listen; port 0: a free one.
        option: That says so.
        report: Takes a sentence for the person at the terminal.

    Raises:
        RunError: It cannot be listened on.
    """

    def __init__(
        self, address: tuple[str, int], option: str, report: Callable[[str], None]
    ) -> None:
        self._report = report
        self._failures = 0
        self._pages: dict[str, Callable[[str], Page]] = {}
        self._answers = False
        from trapstream_vtap.http_server import Server  # noqa: PLC0415 - large, few ask for pages

        try:
            self._server = Server(address, self._answer, self._failed)
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
        threads.start(f"Server at {self.url}", self._server.serve_forever, self._report)
        self._answers = True

    def close(self) -> None:
        """Answer no more."""
        if self._answers:
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> Page:
        if path not in self._pages:
            return json_page(404, {"status": f"there are {' and '.join(self._pages)}"})
        try:
            return self._pages[path](accept)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next request is answered
            self._failed(error)
            return json_page(500, {"status": "failed; standard error says why"})

    def _failed(self, error: BaseException) -> None:
        """One request has, and nothing else."""
        self._failures += 1
        if worth_saying(self._failures):
            self._report(f"A request to {self.url} failed ({error!r}).")


class Endpoints:
    """The servers of a run; what needs rights is done by `at`.

    Args:
        report: Takes a sentence for the person at the terminal.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._endpoints: dict[tuple[str, int], Endpoint] = {}

    def at(self, address: tuple[str, int] | None, option: str) -> Endpoint | None:
        """The server at ADDRESS, which OPTION says; None: nowhere.

        Raises:
            RunError: It cannot be listened on.
        """
        if address and address not in self._endpoints:
            self._endpoints[address] = Endpoint(address, option, self._report)
        return self._endpoints[address] if address else None

    def start(self) -> None:
        """Answer from now on."""
        for endpoint in self._endpoints.values():
            endpoint.start()

    def close(self) -> None:
        """Answer no more."""
        for endpoint in self._endpoints.values():
            endpoint.close()
