# SPDX-License-Identifier: Apache-2.0
"""Waiting for what must happen soon."""

from __future__ import annotations

import time
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
