# SPDX-License-Identifier: Apache-2.0
"""What the running kernel says of its own types: where members lie, and what numbers are called.

See: Documentation/bpf/btf.rst; only what probes need is read.
"""

from __future__ import annotations

import enum
import errno
import struct
from array import array
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path("/sys/kernel/btf")
_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")


class _Kind(enum.IntEnum):
    """Kinds of types, include/uapi/linux/btf.h."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_FIXED = {_Kind.INT: 1, _Kind.ARRAY: 3, _Kind.VAR: 1, _Kind.DECL_TAG: 1}  # words behind the type
_EACH = {  # words for each member
    _Kind.STRUCT: 3,
    _Kind.UNION: 3,
    _Kind.ENUM: 2,
    _Kind.FUNC_PROTO: 2,
    _Kind.DATASEC: 3,
    _Kind.ENUM64: 3,
}
_ALIASES = (_Kind.TYPEDEF, _Kind.VOLATILE, _Kind.CONST, _Kind.RESTRICT, _Kind.TYPE_TAG)


class Btf:
    """The types of one file of /sys/kernel/btf.

    Args:
        data: What is in it.
        base: The kernel's own types, where DATA is a module's.

    Raises:
        ValueError: That is no BTF.
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        magic, _, _, header, types_at, types, strings_at, strings = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError("no BTF")
        self._words = array("I", data[header + types_at : header + types_at + types])
        self._strings = data[header + strings_at : header + strings_at + strings]
        # a module's strings and types are numbered behind the kernel's
        self._strings_at = base.strings_end if base else 0
        self._first: int = base.types_end if base else 1
        self._starts: array[int] = self._walk()

    @property
    def strings_end(self) -> int:
        """How far strings are numbered."""
        return self._strings_at + len(self._strings)

    @property
    def types_end(self) -> int:
        """Behind the number of the last type."""
        return self._first + len(self._starts)

    def _walk(self) -> array[int]:
        """Where in the words each type begins."""
        starts, words, at = array("I"), self._words, 0
        each = {int(kind): size for kind, size in _EACH.items()}
        fixed = {int(kind): size for kind, size in _FIXED.items()}
        while at < len(words):
            starts.append(at)
            information = words[at + 1]
            kind = information >> 24 & 0x1F
            at += 3 + each.get(kind, 0) * (information & 0xFFFF) + fixed.get(kind, 0)
        return starts

    @cached_property
    def _named(self) -> dict[tuple[int, str], int]:
        """Types by kind and name; of two of a name the first."""
        wanted = (_Kind.STRUCT, _Kind.TYPEDEF, _Kind.ENUM, _Kind.ENUM64)
        kinds = {int(kind) for kind in wanted}
        found: dict[tuple[int, str], int] = {}
        for number, start in enumerate(self._starts, self._first):
            kind = self._words[start + 1] >> 24 & 0x1F
            if kind in kinds and self._words[start]:
                found.setdefault((kind, self._text(self._words[start])), number)
        return found

    def _text(self, at: int) -> str:
        at -= self._strings_at
        return self._strings[at : self._strings.index(b"\0", at)].decode() if at >= 0 else ""

    def _start(self, number: int) -> int:
        return self._starts[number - self._first]

    def _kind(self, number: int) -> int:
        return self._words[self._start(number) + 1] >> 24 & 0x1F if number else 0

    def _plain(self, number: int) -> int:
        """The type behind typedefs and qualifiers."""
        while self._kind(number) in _ALIASES:
            number = self._words[self._start(number) + 2]
        return number

    def _members(self, number: int) -> Iterator[tuple[str, int, int]]:
        """Of a structure or union: name, type, offset in bits."""
        start = self._start(number)
        information = self._words[start + 1]
        mask = 0xFFFFFF if information >> 31 else 0xFFFFFFFF  # the rest is a bit field's width
        for i in range(information & 0xFFFF):
            at = start + 3 + 3 * i
            yield self._text(self._words[at]), self._words[at + 1], self._words[at + 2] & mask

    def _find(self, number: int, path: list[str]) -> int | None:
        """Offset in bits of a member, through structures without a name."""
        for name, kind, bits in self._members(number):
            inner = self._plain(kind)
            rest = path[1:] if name == path[0] else path if not name else None
            if rest == []:
                return bits
            if rest and self._kind(inner) in (_Kind.STRUCT, _Kind.UNION):
                found = self._find(inner, rest)
                if found is not None:
                    return bits + found
        return None

    def bits(self, structure: str, member: str) -> int | None:
        """Offset in bits of MEMBER (`a.b`: of b within a), None where there is none."""
        number = self._named.get((_Kind.STRUCT, structure))
        return self._find(number, member.split(".")) if number else None

    def offset(self, structure: str, member: str) -> int:
        """Offset in bytes of MEMBER.

        Raises:
            RunError: There is none.
        """
        bits = self.bits(structure, member)
        if bits is None:
            raise RunError(
                f"This kernel's struct {structure} has no member {member}, which is needed here "
                "(6.1 to 6.18 have been tried)."
            )
        return bits // 8

    def number(self, structure: str) -> int:
        """Of a structure among the types; 0 where there is none."""
        return self._named.get((_Kind.STRUCT, structure), 0)

    def size(self, structure: str) -> int:
        """Size in bytes; 0 where there is no such structure."""
        number = self._named.get((_Kind.STRUCT, structure))
        return self._words[self._start(number) + 2] if number else 0

    def enumerators(self, name: str) -> dict[str, int]:
        """Numbers by name, empty where there is no enum NAME."""
        number = self._named.get((_Kind.ENUM, name)) or 0
        if not number:
            return {}
        start = self._start(number)
        count = self._words[start + 1] & 0xFFFF
        pairs = [start + 3 + 2 * i for i in range(count)]
        return {self._text(self._words[at]): self._words[at + 1] for at in pairs}

    def arguments(self, tracepoint: str) -> list[str]:
        """What a raw tracepoint hands over: the names of enums and structures pointed to, in order.

        Empty where there is no such tracepoint.
        """
        number = self._named.get((_Kind.TYPEDEF, f"btf_trace_{tracepoint}"))
        if not number:
            return []
        proto = self._start(self._target(self._plain(number)))
        count = self._words[proto + 1] & 0xFFFF
        kinds = [self._words[proto + 3 + 2 * i + 1] for i in range(count)]
        return [self._name_of(kind) for kind in kinds[1:]]  # the first is the tracepoint's own

    def traced(self, name: str, *, tracepoint: bool = False) -> int:
        """The number by which a program says that it traces that function; 0: there is none."""
        if tracepoint:
            return self._named.get((_Kind.TYPEDEF, f"btf_trace_{name}"), 0)
        at = self._strings.find(b"\0%b\0" % name.encode()) + 1
        return self._functions.get(at + self._strings_at, 0) if at else 0

    @cached_property
    def _functions(self) -> dict[int, int]:
        """By where their names are: there are so many that reading the names takes long."""
        words, kind = self._words, int(_Kind.FUNC)
        return {
            words[start]: number
            for number, start in enumerate(self._starts, self._first)
            if words[start + 1] >> 24 & 0x1F == kind
        }

    def _target(self, number: int) -> int:
        """What a pointer points to."""
        return self._plain(self._words[self._start(number) + 2])

    def _name_of(self, number: int) -> str:
        plain = self._plain(number)
        if self._kind(plain) == _Kind.PTR:
            plain = self._target(plain)
        return self._text(self._words[self._start(plain)]) if plain else ""


def read() -> Btf:
    """The running kernel's.

    Raises:
        RunError: It has none.
    """
    try:
        return Btf((DIRECTORY / "vmlinux").read_bytes())
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        raise RunError(
            "This kernel says nothing of its types (/sys/kernel/btf/vmlinux is missing): a probe "
            "that reads its structures needs CONFIG_DEBUG_INFO_BTF."
        ) from error
