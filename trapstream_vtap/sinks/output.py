# SPDX-License-Identifier: Apache-2.0
"""Standard output: a pipe, a terminal, or a file that the shell opened."""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError
from trapstream_vtap.sinks.sender import EndError

if TYPE_CHECKING:
    from trapstream_vtap.sinks.payload import Payload

_STANDARD_OUTPUT = 1
_CHUNK = select.PIPE_BUF  # a pipe that poll(2) calls writable takes so much at once
_POLL_MS = 200


class OutputSink:
    """Payloads to standard output; settled is what the kernel has taken.

    Raises:
        UsageError: There is none.
    """

    def __init__(self) -> None:
        if sys.__stdout__ is None:  # the shell has closed it
            raise UsageError("--sink -: standard output is closed.")
        self._descriptor = _writable()
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._given_up = threading.Event()
        self._written = 0

    def __str__(self) -> str:
        """Standard output as messages name it."""
        return "standard output"

    def open(self) -> None:
        """It is open."""

    def send(self, payload: Payload) -> None:
        """Write a whole payload, however long the reader takes.

        Raises:
            EndError: The reader has gone.
            OSError: Nothing of it was written: it is a file, and it cannot grow.
        """
        rest = memoryview(payload.data)
        try:
            while rest:
                if self._is_writable(_POLL_MS):
                    with suppress(BlockingIOError):
                        rest = rest[os.write(self._descriptor, rest[:_CHUNK]) :]
                elif self._given_up.is_set():
                    raise TimeoutError("nobody reads")
        except BrokenPipeError as error:
            raise EndError(0, "the reader has gone") from error
        except OSError:
            self._take_back(len(payload.data) - len(rest))
            raise
        self._written += 1

    def _take_back(self, octets: int) -> None:
        """Cut off what was written last, where that can be."""
        if self._is_file and octets:
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - octets)
            os.lseek(self._descriptor, -octets, os.SEEK_CUR)

    def settled(self) -> list[None]:
        """One for each payload written since the last call."""
        count, self._written = self._written, 0
        return [None] * count

    def check(self) -> None:
        """Notice that the reader has gone.

        Raises:
            EndError: It has.
        """
        self._is_writable(0)

    def _is_writable(self, wait_ms: int) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        for _, state in poll.poll(wait_ms):
            if state & (select.POLLERR | select.POLLHUP):
                raise EndError(0, "the reader has gone")
            return True
        return False

    def renew(self) -> bool:
        """There are no credentials."""
        return False

    def give_up(self) -> None:
        """Have a `send` that waits for the reader raise instead."""
        self._given_up.set()

    def close(self) -> None:
        """Leave it open, for whoever has it too."""


def _writable() -> int:
    """Standard output, where possible in a way of its own that never waits.

    O_NONBLOCK belongs to what was opened, so set on standard output itself it would bother the
    shell and others who have it.
    """
    mode = os.fstat(_STANDARD_OUTPUT).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{_STANDARD_OUTPUT}", flags)
    return os.dup(_STANDARD_OUTPUT)
