# SPDX-License-Identifier: Apache-2.0
"""Threads that outlive what goes wrong in them: it is said in a sentence, and they go on."""

from __future__ import annotations

import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap.errors import worth_saying

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_SECONDS = 1.0
_HERE = Path(__file__).parent


def start(name: str, work: Callable[[], object], report: Callable[[str], None]) -> threading.Thread:
    """Run WORK in a thread that ends with the process; what it raises is said, and it begins again.

    Args:
        name: Of the thread, as the sentence says it.
        work: Returns when there is nothing more to do.
        report: Takes the sentence: at the 1st, 2nd, 4th, 8th time and so on.
    """

    def run() -> None:
        failures = 0
        while True:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the thread goes on
                failures += 1
                if worth_saying(failures):
                    report(f"{name}: {own_error(error)}; it goes on.")
                time.sleep(_AGAIN_SECONDS)
            else:
                return

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def own_error(error: BaseException) -> str:
    """What to say of an ERROR that nobody foresaw: what it is, and where in this package."""
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(_HERE):
            where = f" in {Path(frame.filename).relative_to(_HERE)}, line {frame.lineno}"
    said = " ".join(str(error).split())[:200]
    return f"an error of vtap-stream itself, {type(error).__name__}{where}" + (
        f" ({said})" if said else ""
    )
