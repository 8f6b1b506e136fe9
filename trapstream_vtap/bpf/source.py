# SPDX-License-Identifier: Apache-2.0
"""What is to be compiled and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_PARTS = (
    "sequence.h",
    "jitter.h",
    "gaps.h",
    "allowance.h",
)  # a part ahead of those that it includes


@dataclass(frozen=True)
class Program:
    """A program to load.

    Args:
        name: What it is called.
        kind: As BCC calls it (`SCHED_CLS`, …).
        function: The C function, if it has another name.
        buffers: XDP: it takes packets of several buffers.
    """

    name: str
    kind: str
    function: str = ""
    buffers: bool = False

    @property
    def code(self) -> str:
        """The C function's name."""
        return self.function or self.name


@dataclass(frozen=True)
class Source:
    """What to build: the C text, the functions to load, the maps wanted."""

    text: str
    programs: tuple[Program, ...]
    maps: tuple[str, ...]


def program_text(name: str) -> str:
    """The C text NAME of this directory, with the parts put in that use maps.

    BCC rewrites what uses maps in the main text only.
    """
    text = (HERE / name).read_text(encoding="ascii")
    for part in _PARTS:
        if f'#include "{part}"\n' in text:
            included = (HERE / part).read_text(encoding="ascii")
            text = text.replace(f'#include "{part}"\n', included)
    return text
