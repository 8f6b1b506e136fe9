# SPDX-License-Identifier: Apache-2.0
"""For those who watch over the process: /healthz and /readyz by HTTP, and systemd's notifications.

See: sd_notify(3); https://kubernetes.io/docs/concepts/workloads/pods/probes/
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from trapstream_vtap.errors import printable
from trapstream_vtap.page import json_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trapstream_vtap.endpoint import Endpoint
    from trapstream_vtap.page import Page

_PATIENCE = 10.0  # seconds without a sign of life, then the loop hangs
_TURNS = 3  # signs of life in that time


class Health:
    """Says whether the loop turns, and whether anything can be delivered.

    What needs rights is done here: to reach the service manager.

    Args:
        endpoint: Where to answer /healthz and /readyz, or None.
        sinks: Tells which sinks are up, by name.
    """

    def __init__(self, endpoint: Endpoint | None, sinks: Callable[[], Mapping[str, bool]]) -> None:
        self._sinks = sinks
        self._measuring = False
        self._beaten = time.monotonic()
        self._patience = _PATIENCE
        watched = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watched = watched.isdecimal() and mine
        if self._watched:
            self._patience = min(_PATIENCE, int(watched) / 1e6)
        self._manager = _manager()
        self._asked = bool(endpoint)
        if endpoint:
            endpoint.add("/healthz", self._lives)
            endpoint.add("/readyz", self._ready)

    @property
    def turn(self) -> float | None:
        """Seconds after which the loop must turn at the latest; None: nobody asks."""
        return self._patience / _TURNS if self._watched or self._asked else None

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
        self._notify(f"STATUS={printable(sentence)}")

    def stopping(self) -> None:
        """The end has begun."""
        self._measuring = False
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        if self._manager:
            with contextlib.suppress(OSError):
                self._manager.send(state.encode())

    def close(self) -> None:
        """Leave the service manager."""
        if self._manager:
            self._manager.close()

    def _lives(self, _accept: str) -> Page:
        late = time.monotonic() - self._beaten
        if late < self._patience or not self._measuring:
            return json_page(200, {"status": "ok"})
        return json_page(503, {"status": f"hangs for {late:.0f} s"})

    def _ready(self, _accept: str) -> Page:
        sinks = self._sinks()
        ready = self._measuring and (any(sinks.values()) or not sinks)
        states = {printable(name): "up" if up else "down" for name, up in sinks.items()}
        word = "measuring" if self._measuring else "not measuring"
        return json_page(200 if ready else 503, {"status": word, "sinks": states})


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
