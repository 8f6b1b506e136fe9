# SPDX-License-Identifier: Apache-2.0
"""What is to be compiled and loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_USES_MAPS = ("BPF_ARRAY(", "BPF_PERCPU_ARRAY(", "BPF_RINGBUF_OUTPUT(")
_INCLUDED = re.compile(r'^#include "([a-z_/]+\.h)"\n', re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A program to load.

    Args:
        name: What it is called.
        kind: A key of `code.KINDS`.
        function: The C function, if it has another name.
        buffers: XDP: it takes packets of several buffers.
        traced: Of what it traces, the number of the type among the kernel's (BTF).
        shared: Whether the process that measures gets it, too.
    """

    name: str
    kind: str
    function: str = ""
    buffers: bool = False
    traced: int = 0
    shared: bool = False

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
    """The C text NAME of this directory, with the headers put in that have maps, each once.

    BCC rewrites what uses maps in the main text only. The compiler includes the others.
    """
    return _INCLUDED.sub(_put_in, _text(name))


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="ascii")


def _put_in(found: re.Match[str]) -> str:
    """What stands in the place of an include, by what FOUND it: the header with all of its own."""
    return _whole(found[1]) if _has_maps(found[1]) else found[0]


def _whole(name: str) -> str:
    """The header NAME with all that it includes."""
    return _INCLUDED.sub(lambda own: _whole(own[1]), _text(name))


def _has_maps(name: str) -> bool:
    """Whether the header NAME has maps, or includes what has."""
    text = _text(name)
    return any(word in text for word in _USES_MAPS) or any(map(_has_maps, _INCLUDED.findall(text)))
