# SPDX-License-Identifier: Apache-2.0
"""Maps and links through libbpf, for what is done a few times a second at most.

See: bpf(2), /usr/include/bpf/bpf.h
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

BPF_TCX_INGRESS = 46  # enum bpf_attach_type, include/uapi/linux/bpf.h
BPF_TCX_EGRESS = 47


@cache
def _libbpf() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1")


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def link_tcx(program: int, interface: int, attach_type: int) -> int:
    """Attach PROGRAM to an interface, by index; the descriptor of the link that holds it there.

    Raises:
        OSError: EINVAL on kernels before 6.6, which have no tcx.
    """
    return _checked(_libbpf().bpf_link_create(program, interface, attach_type, None))


def update_link(link: int, program: int) -> None:
    """Put PROGRAM in the place of the one that a link holds, in one step."""
    _checked(_libbpf().bpf_link_update(link, program, None))


def read_element(map_fd: int, index: int, size: int) -> bytes:
    """Element INDEX of an array map, SIZE bytes."""
    key, value = ctypes.c_uint32(index), ctypes.create_string_buffer(size)
    _checked(_libbpf().bpf_map_lookup_elem(map_fd, ctypes.byref(key), value))
    return value.raw


def write_element(map_fd: int, index: int, value: bytes) -> None:
    """Set element INDEX of an array map."""
    key = ctypes.c_uint32(index)
    _checked(_libbpf().bpf_map_update_elem(map_fd, ctypes.byref(key), value, 0))


def possible_cpus() -> int:
    """How many values an element of a per-CPU map has.

    See: Documentation/admin-guide/cputopology.rst
    """
    ranges = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(ranges.replace("-", ",").split(",")[-1]) + 1


def wait_for_programs() -> None:
    """Return when every program run that had begun before the call is over.

    See: membarrier(2); MEMBARRIER_CMD_GLOBAL waits for an RCU grace period, and programs of network
    hooks run inside RCU read-side sections.
    """
    number = {"x86_64": 324, "aarch64": 283}[os.uname().machine]
    if ctypes.CDLL(None, use_errno=True).syscall(number, 1, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
