# SPDX-License-Identifier: Apache-2.0
"""Runs a loaded program on a frame of our own, attached nowhere (BPF_PROG_TEST_RUN)."""

import ctypes
import os
import struct
from dataclasses import dataclass

CONTEXT = {"ifindex": (40, "I"), "tstamp": (152, "Q"), "wire_len": (160, "I")}
CONTEXT |= {"gso_segs": (164, "I"), "gso_size": (176, "I")}
"""Members of `struct __sk_buff` that a test run may set: offset in bytes, and `struct` format."""

_CONTEXT_SIZE = 192

_libbpf = ctypes.CDLL("libbpf.so.1")


class _Options(ctypes.Structure):
    """`struct bpf_test_run_opts` of libbpf 1.1, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
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


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program returned, and how long a run took on average, in ns."""

    returned: int
    duration: int


def run(program: int, frame: bytes, repeat: int = 1, **context: int) -> Ran:
    """Runs a program on a frame, with these members of its context set.

    Args:
        program: Descriptor of the program.
        frame: From the Ethernet header on.
        repeat: How often.
        context: Out of `CONTEXT`.

    Raises:
        OSError: The kernel does not build such a frame (EINVAL).

    See: bpf(2), bpf_prog_test_run_skb() in net/bpf/test_run.c
    """
    options = _Options(
        sz=ctypes.sizeof(_Options), data_in=frame, data_size_in=len(frame), repeat=repeat
    )
    if context:
        members = bytearray(_CONTEXT_SIZE)
        for name, value in context.items():
            offset, code = CONTEXT[name]
            struct.pack_into(f"={code}", members, offset, value)
        options.ctx_in, options.ctx_size_in = bytes(members), _CONTEXT_SIZE
    failed = _libbpf.bpf_prog_test_run_opts(program, ctypes.byref(options))
    if failed:
        raise OSError(-failed, os.strerror(-failed))
    return Ran(options.retval, options.duration)
