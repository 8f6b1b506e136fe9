# SPDX-License-Identifier: Apache-2.0
"""Load the flow program beside others, and run programs by BPF_PROG_TEST_RUN (bpf(2))."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.config import Settings, resolve
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes import flow

if TYPE_CHECKING:
    from trapstream_vtap.bpf.compile import Objects

_CONTEXT_SIZE, _TSTAMP_AT = 192, 152  # struct __sk_buff, include/uapi/linux/bpf.h

EMPTY = (
    "int empty(struct context *ctx)\n{\n\treturn HOOK_XDP ? XDP_PASS : HOOK_SOCKET ? 0 : -1;\n}\n"
)


class _Options(ctypes.Structure):
    """struct bpf_test_run_opts, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def settings(**changes: object) -> Settings:
    """Settings for the loopback interface, which is where test runs seem to arrive."""
    plain = Settings(resolve("127.0.0.1", 9), choose(("lo",)), "127.0.0.1")
    return replace(plain, **changes)  # type: ignore[arg-type]


def load(chosen: Settings) -> Objects:
    """The flow program for CHOSEN, with a program `empty` beside it; attached to nothing."""
    wanted = flow.source(chosen)
    return compiler.load(
        compiler.Source(
            wanted.text + EMPTY,
            (*wanted.programs, compiler.Program("empty", wanted.programs[0].kind)),
            wanted.maps,
        )
    )


def run(program: int, frame: bytes, repeat: int = 1, *, tstamp: int = 0, bare: bool = False) -> int:
    """Run PROGRAM on FRAME with that receive timestamp; ns per run, as the kernel measures it.

    BARE: without a context of ours, which only programs of traffic control take.
    """
    context = bytearray(_CONTEXT_SIZE)
    struct.pack_into("=Q", context, _TSTAMP_AT, tstamp)
    data = ctypes.create_string_buffer(frame, len(frame))
    options = _Options(
        sz=ctypes.sizeof(_Options),
        data_in=ctypes.addressof(data),
        data_size_in=len(frame),
        repeat=repeat,
    )
    if not bare:
        options.ctx_in = ctypes.addressof((ctypes.c_char * _CONTEXT_SIZE).from_buffer(context))
        options.ctx_size_in = _CONTEXT_SIZE
    failed = ctypes.CDLL("libbpf.so.1").bpf_prog_test_run_opts(program, ctypes.byref(options))
    if failed:
        raise OSError(-failed, os.strerror(-failed))
    return int(options.duration)
