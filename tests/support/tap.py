# SPDX-License-Identifier: Apache-2.0
"""vtap-stream as a process in a namespace, and what it streams, read by a plain socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.namespace import Namespace

COMMAND = Path(__file__).parents[2] / ".venv" / "bin" / "vtap-stream"
DEADLINE = 60.0  # seconds; a machine may have other things to do


class Tap:
    """A running vtap-stream that measures when the context is entered.

    Args:
        namespace: Where it runs; its collector listens on that namespace's loopback.
        options: Of vtap-stream, ahead of the collector's address. The format is JSON over TCP.
        command: What to run.
    """

    def __init__(
        self, namespace: Namespace, *options: str, command: Sequence[str] = (str(COMMAND),)
    ) -> None:
        self._namespace = namespace
        self._command = command
        self._options = options
        self._payload = b""
        self._found = threading.Event()

    def __enter__(self) -> Self:
        listener = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self._collector = threading.Thread(target=self._collect, args=(listener,), daemon=True)
        self._collector.start()
        self.process = self._namespace.popen(
            *(
                *self._command,
                "-f",
                "json",
                *self._options,
                "127.0.0.1",
                str(listener.getsockname()[1]),
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with self._news:
            ready = self._news.wait_for(lambda: self._heard("measuring") or self._ended(), DEADLINE)
        if not ready or self._ended():
            self.process.kill()
            raise RuntimeError(f"vtap-stream did not begin to measure: {self._said}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()

    def end(self, code: int = 0) -> None:
        """End it by SIGINT; it exits with CODE."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(DEADLINE) == code, self._said
        self._reader.join(DEADLINE)
        self._collector.join(DEADLINE)

    def stop(self) -> list[dict[str, Any]]:
        """End it by SIGINT; all records that it streamed, in order."""
        self.end()
        return self.records()

    def records(self) -> list[dict[str, Any]]:
        """All records that it streamed, in order, when it has ended."""
        self._reader.join(DEADLINE)
        self._collector.join(DEADLINE)
        return [record for line in self._payload.splitlines() for record in json.loads(line)]

    def latest(self, tag: str, value: str) -> dict[str, Any]:
        """What was streamed last, so far, with that TAG; nothing, if nothing was."""
        for line in reversed(self._payload.splitlines(keepends=True)[-20:]):
            if line.endswith(b"\n"):
                for record in reversed(json.loads(line)):
                    if record.get(tag) == value:
                        return dict(record)
        return {}

    @property
    def payload(self) -> bytes:
        """All that it has streamed so far, as it came."""
        return self._payload

    @property
    def said(self) -> list[str]:
        """The lines of its standard error."""
        return self._said

    def _heard(self, word: str) -> bool:
        return any(word in line for line in self._said)

    def _ended(self) -> bool:
        return not self._reader.is_alive()

    def _read(self) -> None:
        with self.process.stderr as stream:
            for line in stream:
                with self._news:
                    self._said.append(line)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def leave(self) -> None:
        """Have the collector go away, once it has been found."""
        assert self._found.wait(DEADLINE)
        self._connection.shutdown(socket.SHUT_RDWR)

    def _collect(self, listener: socket.socket) -> None:
        with listener:
            self._connection, _ = listener.accept()
            self._found.set()
        with self._connection:
            while part := self._connection.recv(1 << 20):
                self._payload += part


def flows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of `vtap_flow`."""
    return [record for record in records if record["name"] == "vtap_flow"]


def agent(records: list[dict[str, Any]], interface: str) -> dict[str, Any]:
    """The last record of `vtap_agent` of INTERFACE."""
    return _agents(records, "interface", interface)[-1]


def delivered(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The last record of `vtap_agent` of the one sink."""
    return _agents(records, "sink")[-1]


def _agents(records: list[dict[str, Any]], tag: str, *wanted: str) -> list[dict[str, Any]]:
    agents = [record for record in records if record["name"] == "vtap_agent" and tag in record]
    return [record for record in agents if not wanted or record[tag] in wanted]


def wait_past_line(guard: float = 0.1, interval: float = 1.0) -> None:
    """Return at a moment that is further than GUARD seconds from any grid line."""
    while not guard < time.time() % interval < interval - guard:
        time.sleep(guard / 2)
