# SPDX-License-Identifier: Apache-2.0
"""A run of the command: signals end it or have it read its file again, and root is given up."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from trapstream_vtap import privileges
from trapstream_vtap.engine.loop import Loop
from trapstream_vtap.engine.reporter import report
from trapstream_vtap.settings.again import Again

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.settings.settings import Settings


def run(settings: Settings, again: Sequence[str] | None) -> bool:
    """Measure until a signal says stop, or as long as SETTINGS say; whether that was of use.

    Args:
        settings: Of the run.
        again: The command line by which SIGHUP has the configuration file read again, or None.

    Raises:
        UsageError: The settings say what cannot be.
        RunError: Measuring cannot begin, or cannot go on.
    """
    loop = Loop(settings, None if again is None else Again.from_here(again), report)
    with contextlib.closing(loop), _signals(loop):
        loop.open()
        keep = () if privileges.bpf_is_for_all() else (privileges.CAP_BPF,)
        # from here on only the keeper may do what root may; no thread has been started yet
        loop.notes += privileges.become(settings.core.user, keep)
        return loop.run()


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """SIGINT and SIGTERM end LOOP's run; SIGHUP has it read again what it reads."""
    before = {
        number: signal.signal(number, lambda *_: loop.stop())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    if loop.rereads:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: loop.reload())
    wakeup = signal.set_wakeup_fd(loop.waking.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
