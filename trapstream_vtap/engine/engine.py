# SPDX-License-Identifier: Apache-2.0
"""The engine's face: what the command and other programs use of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from trapstream_vtap.engine.events import Note, ReloadRefused
from trapstream_vtap.engine.loop import Loop
from trapstream_vtap.errors import RunError
from trapstream_vtap.settings.again import Again

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.clock import Clock
    from trapstream_vtap.engine.events import Event
    from trapstream_vtap.engine.snapshot import Snapshot
    from trapstream_vtap.schema import Batch
    from trapstream_vtap.settings.settings import Settings


_SOON = 1.0  # s
_NOTHING_TO_READ = (
    "there is nothing to read again; give the engine the arguments that name the file (again=…)"
)


def _silent(_event: Event) -> None:
    """Nobody wants to know."""


class Engine:
    """One run of everything that is to be measured and streamed.

    Making one does nothing yet. `start` measures in a thread of its own until `stop`; it needs the
    rights of root, keeps them, and leaves signals alone. As a context manager it does both.

    Args:
        settings: Of this run.
        again: The command line by which `reload` reads the configuration file again, or None. A
            path in it is relative to the directory where we are now, wherever we are later.
        report: Takes what happens, in any thread.
        clock: What time it is; None: the machine's.
    """

    def __init__(
        self,
        settings: Settings,
        again: Sequence[str] | None = None,
        report: Callable[[Event], None] = _silent,
        clock: Clock | None = None,
    ) -> None:
        self._report = report
        how = None if again is None else Again.from_here(again)
        self._loop = Loop(settings, how, report, clock)
        self._thread: threading.Thread | None = None
        self._entered = threading.Event()
        self._error: Exception | None = None
        self._useful = self._used = self._over = False

    def start(self) -> None:
        """Measure from now on; returns when everything is attached.

        Raises:
            UsageError: The settings say what cannot be.
            RunError: Measuring cannot begin, or has begun already: an engine is for one run.
        """
        if self._used:
            raise RunError("An engine is for one run: make another one.")
        self._used = True
        try:
            self._loop.open()
        except BaseException:
            self._loop.close()
            raise
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        try:
            self._thread.start()
            self._loop.begun.wait()
        except BaseException:  # as of Ctrl-C: nobody else would end it
            self.stop()
            self._entered.wait(_SOON)  # there may be a thread that has not come so far
            self.wait()
            raise
        if self._error:
            self.wait()

    def _run(self) -> None:
        self._entered.set()
        try:
            self._useful = self._loop.run()
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._error = error
        finally:
            self._over = True
            self._loop.begun.set()

    def stop(self) -> None:
        """Begin to end the run; from any thread."""
        self._loop.stop()

    def wait(self) -> bool:
        """Return when the run is over, and everything has been handed over, or booked as lost.

        Returns:
            Whether the run was of use: False if all records were lost, or if something that was
            counted could not be handed over.

        Raises:
            UsageError: The settings say what cannot be.
            RunError: Measuring could not begin, or not go on.
        """
        if self._thread and self._entered.is_set():
            self._thread.join()
        self._loop.close()
        if self._error:
            raise self._error
        return self._useful

    def status(self) -> Snapshot:
        """How the run stands, as of the latest interval's end; from any thread."""
        found = self._loop.status()
        return replace(found, measuring=False) if self._over else found

    def reload(self) -> None:
        """Have the configuration file, and files of credentials, read again; from any thread.

        What comes of it is reported, also that there are none.
        """
        if self._loop.rereads:
            self._loop.reload()
        else:
            self._report(ReloadRefused(_NOTHING_TO_READ))

    def subscribe(self, take: Callable[[Batch], None]) -> None:
        """From now on TAKE is called with every batch, in the engine's thread.

        One that raises an error is called no more, and the error is reported.
        """
        failed = False

        def careful(batch: Batch) -> None:
            nonlocal failed
            if failed:
                return
            try:
                take(batch)
            except Exception as error:  # noqa: BLE001 - it must not end the measuring
                failed = True
                self._report(Note(f"a subscriber has failed, and is called no more: {error!r}"))

        self._loop.bus.subscribe(careful)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and wait until everything has been handed over."""
        self.stop()
        self.wait()
