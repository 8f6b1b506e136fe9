# SPDX-License-Identifier: Apache-2.0
"""For those who watch over the process: /healthz and /readyz by HTTP, and systemd's notifications.

See: sd_notify(3); https://kubernetes.io/docs/concepts/workloads/pods/probes/
"""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import orjson

from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PATIENCE = 10.0  # seconds without a sign of life, then the loop hangs
_TURNS = 3  # signs of life in that time


class Health:
    """Says whether the loop turns, and whether anything can be delivered.

    What needs rights is done here: to listen, and to reach the service manager.

    Args:
        address: Where to answer /healthz and /readyz, or None.
        sinks: Tells which sinks are up, by name.

    Raises:
        RunError: ADDRESS cannot be listened on.
    """

    def __init__(
        self, address: tuple[str, int] | None, sinks: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._sinks = sinks
        self._measuring = False
        self._answers = False
        self._beaten = time.monotonic()
        self._patience = _PATIENCE
        watched = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watched = watched.isdecimal() and mine
        if self._watched:
            self._patience = min(_PATIENCE, int(watched) / 1e6)
        self._manager = _manager()
        self._server = _listen(address, self) if address else None

    @property
    def url(self) -> str | None:
        """Where it answers."""
        if not self._server:
            return None
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    @property
    def turn(self) -> float | None:
        """Seconds after which the loop must turn at the latest; None: nobody asks."""
        return self._patience / _TURNS if self._watched or self._server else None

    def start(self) -> None:
        """Answer from now on."""
        if self._server:
            threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
            self._answers = True

    def started(self) -> None:
        """Measuring has begun."""
        self._measuring = True
        self._notify("READY=1")

    def beat(self) -> None:
        """The loop has turned."""
        now = time.monotonic()
        if self._watched and now - self._beaten > self._patience / (2 * _TURNS):
            self._notify("WATCHDOG=1")
            self._beaten = now
        elif not self._watched:
            self._beaten = now

    def status(self, sentence: str) -> None:
        """What systemctl status shall show."""
        self._notify(f"STATUS={sentence}")

    def stopping(self) -> None:
        """The end has begun."""
        self._measuring = False
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if self._manager:
            with contextlib.suppress(OSError):
                self._manager.send(state.encode())

    def close(self) -> None:
        """Answer no more."""
        if self._server:
            if self._answers:
                self._server.shutdown()
            self._server.server_close()
        if self._manager:
            self._manager.close()

    def answer(self, path: str) -> tuple[int, dict[str, Any]] | None:
        """HTTP status and body for PATH; None: there is no such page."""
        if path == "/healthz":
            late = time.monotonic() - self._beaten
            well = late < self._patience or not self._measuring
            return (200, {"status": "ok"}) if well else (503, {"status": f"hangs for {late:.0f} s"})
        if path == "/readyz":
            sinks = self._sinks()
            ready = self._measuring and any(sinks.values())
            states = {name: "up" if up else "down" for name, up in sinks.items()}
            word = "measuring" if self._measuring else "not measuring"
            return (200 if ready else 503), {"status": word, "sinks": states}
        return None


def _manager() -> socket.socket | None:
    """A way to the service manager, if there is one."""
    where = os.environ.get("NOTIFY_SOCKET")
    if not where:
        return None
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        manager.connect("\0" + where[1:] if where.startswith("@") else where)
    except OSError:
        manager.close()
        return None
    return manager


def _listen(address: tuple[str, int], health: Health) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            found = health.answer(self.path.partition("?")[0])
            status, body = found or (404, {"status": "there are /healthz and /readyz"})
            data = orjson.dumps(body) + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - likewise

        def log_message(self, *_: object) -> None:
            """Not a word: it would be said every few seconds."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True

    try:
        server = Server(address, Handler)
    except OSError as error:
        raise RunError(
            f"Cannot listen on {address[0]} port {address[1]} ({error.strerror}): give another "
            "--health."
        ) from error
    return server
