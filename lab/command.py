# SPDX-License-Identifier: Apache-2.0
"""The command vtap-stream, running in a namespace as a person would run it."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from lab.namespace import Namespace

COMMAND = Path(sys.executable).parent / "vtap-stream"
DEADLINE = 60.0  # seconds to start measuring, and to end


class VtapStream:
    """A running vtap-stream; a context manager that does not let it live on.

    Args:
        namespace: Where it measures and sends from.
        arguments: Options and collector, as on the command line.

    Attributes:
        pid: Of the process.
    """

    def __init__(self, namespace: Namespace, *arguments: str) -> None:
        self._process = namespace.popen(
            *(str(COMMAND), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.pid = self._process.pid
        self._said: list[str] = []
        self._measuring = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    @property
    def said(self) -> str:
        """Everything that it has printed so far."""
        return "".join(self._said)

    def wait_until_measuring(self) -> None:
        """Returns when the next packet will be counted.

        Raises:
            RuntimeError: When it ends instead, with what it said, or does not come so far in time.
        """
        deadline = time.monotonic() + DEADLINE
        while not self._measuring.wait(0.02):
            ended = self._process.poll() is not None
            if ended:
                self._reader.join()
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"vtap-stream did not start to measure:\n{self.said}")

    def stop(self, code: int = 0) -> str:
        """Ends it as Ctrl-C does.

        Args:
            code: With which it is to exit.

        Returns:
            Its last line, the summary.

        Raises:
            RuntimeError: When it exits with another code, with what it said.
            subprocess.TimeoutExpired: When it does not end.
        """
        self._process.send_signal(signal.SIGINT)
        return self.wait(code)

    def wait(self, code: int = 0) -> str:
        """Waits until it ends by itself; otherwise the same as `stop`."""
        found = self._process.wait(DEADLINE)
        self._reader.join()
        if found != code:
            raise RuntimeError(f"vtap-stream exited with {found}, not {code}:\n{self.said}")
        return self._said[-1].strip() if self._said else ""

    def _read(self) -> None:
        assert self._process.stdout  # noqa: S101 - a pipe
        with self._process.stdout as stream:
            for line in stream:
                self._said.append(line)
                if line.startswith("vtap-stream: measuring"):
                    self._measuring.set()
