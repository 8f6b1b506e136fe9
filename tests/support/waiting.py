# SPDX-License-Identifier: Apache-2.0
"""Waiting for what must happen soon."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 60.0  # seconds; CI machines have other things to do


def wait_for(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Return as soon as CONDITION holds.

    Raises:
        AssertionError: It does not within so many SECONDS.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def halt(pid: int) -> None:
    """Stop a process; when this returns, none of its threads does anything any more."""
    os.kill(pid, signal.SIGSTOP)
    states = Path(f"/proc/{pid}/task").glob("*/stat")
    for state in states:
        wait_for(lambda at=state: at.read_text().rpartition(")")[2].split()[0] == "T")
