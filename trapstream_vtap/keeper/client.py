# SPDX-License-Identifier: Apache-2.0
"""The keeper as the process that measures sees it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trapstream_vtap import credentials
from trapstream_vtap.bpf.code import NOT_ALLOWED, Objects
from trapstream_vtap.errors import RunError
from trapstream_vtap.keeper import handover
from trapstream_vtap.privileges import (
    CAP_BPF,
    CAP_DAC_READ_SEARCH,
    CAP_NET_ADMIN,
    CAP_PERFMON,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from trapstream_vtap.settings.again import Again
    from trapstream_vtap.settings.settings import Settings


_START = """
import sys
sys.path[:] = sys.argv.pop(1).split(":")
from trapstream_vtap.keeper.server import main
main()
"""
_ENDED = "The process that keeps the kernel programs attached has ended: nothing is measured."


def capabilities(settings: Settings) -> tuple[int, ...]:
    """What the keeper needs: to load, to attach, to read the configuration file wherever it is."""
    more = (probe.needs(settings.of(probe)).capabilities for probe in settings.probes)
    others = dict.fromkeys(capability for each in more for capability in each)
    return (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_DAC_READ_SEARCH, *others)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A child that is started meanwhile never sees what is meant for us."""
    ours = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Keeper:
    """Starts the keeper, which works by these settings or, later, by the file read anew.

    Args:
        settings: The first, of a run, or of one probe alone.
        again: How the configuration file is read anew, if it ever is.

    Raises:
        RunError: We are not root.
    """

    def __init__(self, settings: Settings, again: Again | None) -> None:
        if os.geteuid() != 0:
            raise RunError(NOT_ALLOWED)
        self._orders, orders = socket.socketpair()
        self._loads, loads = socket.socketpair()
        self._files, files = socket.socketpair()
        self._asking = threading.Lock()  # for files
        numbers = orders.fileno(), loads.fileno(), files.fileno()
        here = str(Path(__file__).parents[2])
        # without the site module, which takes more memory than all the rest
        start = (
            sys.executable,
            "-S",
            "-P",
            "-c",
            _START,
            ":".join([here, *filter(None, sys.path)]),
        )
        wanted = ",".join(map(str, capabilities(settings)))
        with orders, loads, files, _signals_blocked():
            self._process = subprocess.Popen(
                [*start, *map(str, numbers), wanted],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        paths = credentials.paths(settings.core)
        first = again, pickle.dumps(settings), paths, settings.core.probes
        handover.send(self._loads, pickle.dumps(first))

    def fileno(self) -> int:
        """Becomes readable when the keeper has ended."""
        return self._orders.fileno()

    def ended(self) -> RunError:
        """What to say then."""
        return RunError(_ENDED)

    def load(self, probe: str, how: str = "look") -> tuple[Objects, Settings]:
        """Have a program compiled and loaded; takes a second, and may run in any thread.

        Args:
            probe: Its name.
            how: One of `handover.WAYS`.

        Returns:
            What we need of it, and the settings that it was made from.

        Raises:
            UsageError: The configuration says what cannot be.
            RunError: It cannot be loaded, and why.
        """
        answer, descriptors = self._ask(self._loads, f"{how} {probe}".encode())
        programs, maps, settings = answer
        numbers = iter(descriptors)
        objects = Objects(
            {name: next(numbers) for name in programs}, {name: next(numbers) for name in maps}
        )
        return objects, pickle.loads(settings)  # noqa: S301 - the keeper is the more privileged

    def attach(
        self, probes: Collection[str], renewed: Collection[str] = ()
    ) -> dict[str, list[str]]:
        """Have what was loaded last for all of these PROBES attached, or for none of them.

        Returns:
            Sentences for the person at the terminal, by probe.

        Raises:
            RunError: The kernel refuses one of them; all stays as it was.
        """
        request = "\n".join(("attach", ",".join(probes), *renewed))
        notes: dict[str, list[str]] = self._ask(
            self._orders, request.encode(errors="surrogateescape")
        )[0]
        return notes

    def settle(self) -> None:
        """What `attach` has replaced has counted to its end: let go of it."""
        self._ask(self._orders, b"settle")

    def ahead(self) -> list[str]:
        """A sentence for each program of somebody else that has come ahead of ours."""
        notes: list[str] = self._ask(self._orders, b"ahead")[0]
        return notes

    def forget(self, probe: str) -> None:
        """What was loaded last for PROBE will not be attached."""
        with contextlib.suppress(RunError):
            self._ask(self._orders, f"forget\n{probe}".encode())

    def detach(self, names: Sequence[str] = ()) -> None:
        """When this returns, nothing is attached to interfaces of these NAMES; none: to any."""
        request = "\n".join(("detach", *names)).encode(errors="surrogateescape")
        with contextlib.suppress(RunError):  # it has ended, and what it held with it
            self._ask(self._orders, request)

    def credentials(self) -> dict[str, int]:
        """Descriptors of the configured files of credentials that are there, by path; any thread.

        Raises:
            RunError: The keeper has ended.
        """
        with self._asking:
            names, descriptors = self._ask(self._files, b"credentials")
        return dict(zip(names, descriptors, strict=True))

    def close(self) -> None:
        """Let it end, also if a process forked meanwhile has our ends of the sockets, too."""
        for way in (self._orders, self._loads, self._files):
            with contextlib.suppress(OSError):  # it has ended
                way.shutdown(socket.SHUT_RDWR)
            way.close()
        self._process.wait()

    def _ask(self, way: socket.socket, request: bytes) -> tuple[Any, list[int]]:
        try:
            handover.send(way, request)
            data, descriptors = handover.receive(way)
        except (EOFError, OSError) as error:
            raise RunError(_ENDED) from error
        answer = pickle.loads(data)  # noqa: S301 - the keeper is the more privileged
        if isinstance(answer, Exception):
            raise answer
        return answer, descriptors
