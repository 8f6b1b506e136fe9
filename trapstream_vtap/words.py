# SPDX-License-Identifier: Apache-2.0
"""Numbers with their nouns, for a person to read."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """A question whether what is most like WORD of what is KNOWN is meant, behind a sentence."""
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.7)
    return f" Do you mean {' or '.join(close)}?" if close else ""


def are(number: int) -> str:
    """The verb for NUMBER of something."""
    return "is" if number == 1 else "are"


def amount(number: int, noun: str) -> str:
    """NUMBER of what NOUN names one of: `1 record`, `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
