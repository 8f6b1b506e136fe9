# SPDX-License-Identifier: Apache-2.0
"""Compiled programs that are not loaded yet, and what loads them.

See: bpf(2); struct bpf_insn, include/uapi/linux/bpf.h
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trapstream_vtap.bpf.source import Program, Source

NOT_ALLOWED = "The kernel refuses to load BPF programs: run as root (CAP_BPF and CAP_NET_ADMIN)."
NO_BPF = "This kernel does not support what is needed of BPF (5.12 or newer is): "

_INSTRUCTION = struct.Struct("=BBhi")  # code, registers, offset, immediate
_LD_IMM64 = 0x18
_PSEUDO_MAP_FD = 1
_CALL = 0x85
_PSEUDO_KFUNC_CALL = 2
KERNEL_FUNCTION = 1 << 24
"""No helper has such a number: a call of it plus N is one of the kernel's own function (kfunc) by
its number N among the types. LLVM 14 knows calls of helpers alone."""

KINDS = {  # enum bpf_prog_type, enum bpf_attach_type
    "SOCKET_FILTER": (1, 0),
    "SCHED_CLS": (3, 0),
    "XDP": (6, 0),
    "CGROUP_SKB": (8, 0),
    "RAW_TRACEPOINT": (17, 0),
    "TRACEPOINT": (26, 23),  # with types (BTF), whose members it loads directly
    "FENTRY": (26, 24),
    "FEXIT": (26, 25),
    "NETFILTER": (32, 45),
}
"""What a program can be."""


@dataclass(frozen=True)
class Map:
    """A map to make: name, type (enum bpf_map_type), sizes in bytes, entries, flags."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int


@dataclass(frozen=True)
class Code:
    """Instructions by C function, which name a map by its place in MAPS; wanted ones come first."""

    functions: Mapping[str, bytes]
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Objects:
    """Open descriptors of loaded programs and of maps, by name. They go when they are closed."""

    programs: dict[str, int]
    maps: dict[str, int]

    def shared(self, maps: Iterable[str]) -> Objects:
        """Some of the MAPS, by descriptors of their own."""
        found = Objects({}, {})
        try:
            for name in maps:
                found.maps[name] = os.dup(self.maps[name])
        except BaseException:
            found.close()
            raise
        return found

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)


def named_maps(function: bytes) -> Iterator[int]:
    """By which numbers the instructions name maps."""
    for _, fields in _map_loads(function):
        yield fields[3]


def renamed_maps(function: bytes, number: Callable[[int], int]) -> bytes:
    """The instructions with other NUMBERs of maps in the place of these."""
    code = bytearray(function)
    for at, (operation, registers, offset, old) in _map_loads(function):
        _INSTRUCTION.pack_into(code, at, operation, registers, offset, number(old))
    return bytes(code)


def with_kernel_functions(function: bytes) -> bytes:
    """The instructions, where functions of the kernel are called as it wants it."""
    code = bytearray(function)
    for at in range(0, len(function), _INSTRUCTION.size):
        operation, registers, _, number = _INSTRUCTION.unpack_from(function, at)
        if operation == _CALL and registers == 0 and number >= KERNEL_FUNCTION:
            called = number - KERNEL_FUNCTION
            _INSTRUCTION.pack_into(code, at, _CALL, _PSEUDO_KFUNC_CALL << 4, 0, called)
    return bytes(code)


def _map_loads(function: bytes) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Which instructions name a map: where, in bytes, and their fields."""
    for at in range(0, len(function), _INSTRUCTION.size):
        fields = _INSTRUCTION.unpack_from(function, at)
        # the second half of a wide instruction, a number of 64 bits, has no operation
        if fields[0] == _LD_IMM64 and fields[1] >> 4 == _PSEUDO_MAP_FD:
            yield at, fields


def load(source: Source, code: Code) -> Objects:
    """Load CODE, which SOURCE was compiled to, into the kernel.

    Raises:
        RunError: We may not, or the kernel will not.
    """
    maps: list[int] = []
    try:
        for each in code.maps:
            maps.append(kernel.create_map(*astuple(each)))  # noqa: PERF401 - those made so far count
        programs = _all_loaded(source.programs, code, maps)
    except OSError as error:
        for descriptor in maps:
            os.close(descriptor)
        if error.errno == errno.EPERM:
            raise RunError(NOT_ALLOWED) from error
        raise RunError(f"{NO_BPF}{error.strerror}") from error
    for descriptor in maps[len(source.maps) :]:  # the programs hold them
        os.close(descriptor)
    return Objects(programs, dict(zip(source.maps, maps, strict=False)))


def _all_loaded(programs: Sequence[Program], code: Code, maps: Sequence[int]) -> dict[str, int]:
    """The descriptors of all PROGRAMS, by name, in their order; or an OSError, and none.

    Each is loaded in a thread of its own: to check them takes the kernel most of a start.
    """
    found: dict[str, int | Exception] = {}

    def load(program: Program) -> None:
        try:
            instructions = renamed_maps(code.functions[program.code], maps.__getitem__)
            found[program.name] = _loaded(program, instructions)
        except Exception as error:  # noqa: BLE001 - raised below, when all are done
            found[program.name] = error

    threads = [threading.Thread(target=load, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [found[program.name] for program in programs]
    loaded = [each for each in results if isinstance(each, int)]
    for each in results:
        if isinstance(each, Exception):
            for descriptor in loaded:
                os.close(descriptor)
            raise each
    return dict(zip((program.name for program in programs), loaded, strict=True))


def _loaded(program: Program, instructions: bytes) -> int:
    """The descriptor of a loaded program."""
    kind, attach_type = KINDS[program.kind]
    if program.buffers:
        with contextlib.suppress(OSError):  # before 5.18, kernels know no such packets
            return kernel.load_program(
                kind, program.name, instructions, kernel.BPF_XDP, kernel.BPF_F_XDP_HAS_FRAGS
            )
    return kernel.load_program(kind, program.name, instructions, attach_type, traced=program.traced)
