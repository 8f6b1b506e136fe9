# SPDX-License-Identifier: Apache-2.0
"""Compiled kernel programs that are not loaded yet: instructions, and what their maps are like.

Compiling takes LLVM, which an emulated processor keeps busy for a minute; loading does not. So a
program for the virtual machine is compiled here, by what compiles it in the product, and taken
there.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.bpf import kernel

KINDS = {"SOCKET_FILTER": 1, "SCHED_CLS": 3, "XDP": 6}  # enum bpf_prog_type
MAP_MEMBERS = ("map_type", "key_size", "value_size", "max_entries", "map_flags")
_LOAD_MAP = struct.Struct("<BBhi")  # struct bpf_insn: code, registers, offset, immediate
_LD_IMM64, _PSEUDO_MAP_FD = 0x18, 1
_BPF_F_XDP_HAS_FRAGS = 1 << 5
_BPF_LOG_STATS = 4
_LOG_SIZE = 1 << 20
_SAID = 200


def assemble(sources: list[compiler.Source]) -> list[dict[str, Any]]:
    """What to hand to `load`, here or elsewhere, for each of SOURCES; it goes through JSON.

    Raises:
        RuntimeError: BCC refuses one, and what it said.
    """
    asked = json.dumps([asdict(source) for source in sources])
    done = subprocess.run(
        [sys.executable, __file__], input=asked, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _assembly(source: compiler.Source) -> dict[str, Any]:
    """In the child, which has LLVM."""
    module = compiler.compiled(source)
    code = {p.name: module.dump_func((p.function or p.name).encode()) for p in source.programs}
    names = {name: module[name].map_fd for name in source.maps}
    used = {descriptor for program in code.values() for _, descriptor in _map_loads(program)}
    return {
        "programs": [
            {**asdict(p), "code": base64.b64encode(code[p.name]).decode()} for p in source.programs
        ],
        "maps": {descriptor: _described(descriptor) for descriptor in used | {*names.values()}},
        "names": names,
    }


def _described(descriptor: int) -> list[int]:
    """Members of a map, as proc(5) says them."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines()
    said = dict(line.split(":", 1) for line in lines)
    return [int(said[name], 0) for name in MAP_MEMBERS]


def _map_loads(code: bytes) -> list[tuple[int, int]]:
    """Where the program names a map by a descriptor: offset in bytes, and the descriptor."""
    found = []
    for at in range(0, len(code), _LOAD_MAP.size):
        operation, registers, _, immediate = _LOAD_MAP.unpack_from(code, at)
        if operation == _LD_IMM64 and registers >> 4 == _PSEUDO_MAP_FD:
            found.append((at, immediate))
    return found


class _MapOptions(ctypes.Structure):
    """`struct bpf_map_create_opts` up to the flags, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


class _LoadOptions(ctypes.Structure):
    """`struct bpf_prog_load_opts`, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("none", ctypes.c_uint32 * 5),
        ("pointers", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_size", ctypes.c_uint32 * 2),
        ("line_info", ctypes.c_void_p),
        ("line_info_size", ctypes.c_uint32 * 2),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Verdict:
    """What the verifier said of a program.

    Args:
        steps: How many instructions it walked, of a million that it grants.
        seconds: How long it took.
        refused: Why it does not take it; empty where it does.
    """

    steps: int
    seconds: float
    refused: str


def load(assembly: dict[str, Any]) -> tuple[compiler.Objects, dict[str, Verdict]]:
    """Load what was assembled, as far as the kernel takes it; and what it said of each program."""
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    maps = {}
    for descriptor, (kind, key, value, entries, flags) in assembly["maps"].items():
        options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
        made = libbpf.bpf_map_create(kind, b"", key, value, entries, ctypes.byref(options))
        if made < 0:
            raise OSError(-made, f"map of kind {kind}: {os.strerror(-made)}")
        maps[int(descriptor)] = made
    programs, verdicts = {}, {}
    for program in assembly["programs"]:
        code = bytearray(base64.b64decode(program["code"]))
        for at, descriptor in _map_loads(code):
            struct.pack_into("<i", code, at + 4, maps[descriptor])
        log = ctypes.create_string_buffer(_LOG_SIZE)
        options = _LoadOptions(
            sz=ctypes.sizeof(_LoadOptions),
            attempts=1,
            expected_attach_type=kernel.BPF_XDP if program["buffers"] else 0,
            prog_flags=_BPF_F_XDP_HAS_FRAGS if program["buffers"] else 0,
            log_level=_BPF_LOG_STATS,
            log_size=_LOG_SIZE,
            log_buf=ctypes.addressof(log),
        )
        began = time.monotonic()
        loaded = libbpf.bpf_prog_load(
            KINDS[program["kind"]],
            program["name"].encode()[:15],
            b"GPL",
            bytes(code),
            ctypes.c_size_t(len(code) // 8),
            ctypes.byref(options),
        )
        took = time.monotonic() - began
        said, _, counts = log.value.decode(errors="replace").rpartition("processed ")
        if loaded >= 0:
            programs[program["name"]] = loaded
        verdicts[program["name"]] = Verdict(
            steps=int(counts.partition(" ")[0] or 0),
            seconds=took,
            refused="" if loaded >= 0 else f"{os.strerror(-loaded)}: {said[-_SAID:]}",
        )
    named = {name: maps.pop(descriptor) for name, descriptor in assembly["names"].items()}
    for made in maps.values():  # programs hold them
        os.close(made)
    return compiler.Objects(programs, named), verdicts


if __name__ == "__main__":
    json.dump(
        [
            _assembly(
                compiler.Source(
                    asked["text"],
                    tuple(compiler.Program(**p) for p in asked["programs"]),
                    tuple(asked["maps"]),
                )
            )
            for asked in json.load(sys.stdin)
        ],
        sys.stdout,
    )
