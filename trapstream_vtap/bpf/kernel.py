# SPDX-License-Identifier: Apache-2.0
"""Programs, maps and links through libbpf, for what is done a few times a second at most.

See: bpf(2), /usr/include/bpf/bpf.h
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import TYPE_CHECKING

from trapstream_vtap import system

if TYPE_CHECKING:
    from collections.abc import Iterator

BPF_TCX_INGRESS = 46  # enum bpf_attach_type, include/uapi/linux/bpf.h
BPF_TCX_EGRESS = 47
BPF_XDP = 37
XDP_FLAGS_SKB_MODE = 1 << 1  # include/uapi/linux/if_link.h
XDP_FLAGS_DRV_MODE = 1 << 2
BPF_F_XDP_HAS_FRAGS = 1 << 5
_BPF_F_BEFORE = 1 << 3
_BPF_CGROUP_INET_INGRESS = 0
_BPF_NETFILTER = 45
_BPF_LINK_CREATE = 28
_MOST_AT_A_PLACE = 64  # BPF_MPROG_MAX, include/linux/bpf_mprog.h
_RECURSION_MISSES = 208  # offset in struct bpf_prog_info, bytes
_LONGEST_NAME = 15  # BPF_OBJ_NAME_LEN with its zero
_LOG_SIZE = 1 << 20


@cache
def _libbpf() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1")


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


class _LinkOptions(ctypes.Structure):
    """The beginning of `struct bpf_link_create_opts`, /usr/include/bpf/bpf.h."""

    _fields_ = (("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("none", ctypes.c_uint32))


def link_tcx(program: int, interface: int, attach_type: int) -> int:
    """Attach PROGRAM to an interface, by index; the descriptor of the link that holds it there.

    It comes first: the kernel runs those behind a program that accepts a packet no more.

    Raises:
        OSError: EINVAL on kernels before 6.6, which have no tcx.
    """
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=_BPF_F_BEFORE)
    link = _libbpf().bpf_link_create(program, interface, attach_type, ctypes.byref(options))
    return _checked(link)


def first_tcx(interface: int, attach_type: int) -> int:
    """The id of the program that sees packets of an interface, by index, ahead of all others.

    Returns:
        The id, or 0 if there is no program.

    Raises:
        OSError: EINVAL on kernels before 6.6, which have no tcx; EPERM without CAP_NET_ADMIN.
    """
    ids = (ctypes.c_uint32 * _MOST_AT_A_PLACE)()
    count = ctypes.c_uint32(_MOST_AT_A_PLACE)
    query = _libbpf().bpf_prog_query
    _checked(query(interface, attach_type, 0, None, ids, ctypes.byref(count)))
    return ids[0] if count.value else 0


def program_id(program: int) -> int:
    """The kernel's number of a program."""
    return _words(program)[0] >> 32


def xdp_id(interface: int) -> int:
    """The id of the XDP program of an interface, by index, or 0 if there is none."""
    found = ctypes.c_uint32()
    _checked(_libbpf().bpf_xdp_query_id(interface, 0, ctypes.byref(found)))
    return found.value


def update_link(link: int, program: int) -> None:
    """Put PROGRAM in the place of the one that a link holds, in one step."""
    _checked(_libbpf().bpf_link_update(link, program, None))


def link_xdp(program: int, interface: int, mode: int) -> int:
    """Attach PROGRAM to XDP of an interface, by index; the descriptor of the link.

    Raises:
        OSError: Not in that mode (EOPNOTSUPP and others), or there is another program (EBUSY).
    """
    options = _LinkOptions(ctypes.sizeof(_LinkOptions), mode, 0)
    return _checked(_libbpf().bpf_link_create(program, interface, BPF_XDP, ctypes.byref(options)))


def link_cgroup(program: int, group: int) -> int:
    """Attach PROGRAM to what comes in for the sockets of a control group, by its descriptor."""
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions))
    link = _libbpf().bpf_link_create(
        program, group, _BPF_CGROUP_INET_INGRESS, ctypes.byref(options)
    )
    return _checked(link)


class _NetfilterLink(ctypes.Structure):
    """Of `union bpf_attr`: BPF_LINK_CREATE for netfilter, which libbpf knows since 1.2."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pf", ctypes.c_uint32),
        ("hooknum", ctypes.c_uint32),
        ("priority", ctypes.c_int32),
        ("netfilter_flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 4),
    )


def link_netfilter(program: int, family: int, hook: int, priority: int) -> int:
    """Attach PROGRAM to netfilter in this network namespace; the descriptor of the link.

    Raises:
        OSError: EINVAL on kernels before 6.4, which have no such link.
    """
    attributes = _NetfilterLink(
        prog_fd=program, attach_type=_BPF_NETFILTER, pf=family, hooknum=hook, priority=priority
    )
    return system.call("bpf", _BPF_LINK_CREATE, ctypes.byref(attributes), ctypes.sizeof(attributes))


class _LoadOptions(ctypes.Structure):
    """The beginning of `struct bpf_prog_load_opts`, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("attempts", ctypes.c_int),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_ifindex", ctypes.c_uint32),
        ("kern_version", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
        ("attach_to", ctypes.c_uint32 * 2),
        ("pointers", ctypes.c_void_p),
        ("func_info", ctypes.c_void_p),
        ("func_info_size", ctypes.c_uint32 * 2),
        ("line_info", ctypes.c_void_p),
        ("line_info_size", ctypes.c_uint32 * 2),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_void_p),
    )


def load_program(
    kind: int,
    name: str,
    instructions: bytes,
    attach_type: int = 0,
    flags: int = 0,
    traced: int = 0,
) -> int:
    """Load a program; its descriptor.

    Args:
        kind: enum bpf_prog_type.
        name: What it is called; the kernel keeps 15 characters.
        instructions: struct bpf_insn, one after the other.
        attach_type: enum bpf_attach_type, where the kernel wants to know.
        flags: As for BPF_PROG_LOAD.
        traced: The type (BTF) of what it traces.

    Raises:
        OSError: The kernel refuses it; where it is the verifier, with its last words.
    """
    options = _LoadOptions(
        sz=ctypes.sizeof(_LoadOptions),
        expected_attach_type=attach_type,
        prog_flags=flags,
        attach_btf_id=traced,
    )

    def load() -> int:
        result: int = _libbpf().bpf_prog_load(
            kind,
            name.encode()[:_LONGEST_NAME],
            b"GPL",
            instructions,
            ctypes.c_size_t(len(instructions) // 8),
            ctypes.byref(options),
        )
        return result

    result = load()
    if result >= 0:
        return result
    log = ctypes.create_string_buffer(_LOG_SIZE)
    options.log_level, options.log_size, options.log_buf = 1, _LOG_SIZE, ctypes.addressof(log)
    load()  # the same again, if nothing is wrong with the kernel
    said = log.value.decode(errors="replace").rpartition("\nprocessed ")[0].splitlines()
    why = os.strerror(-result)
    raise OSError(-result, f"{why}, {said[-1]}" if said else why)


class _MapOptions(ctypes.Structure):
    """`struct bpf_map_create_opts` up to the flags, /usr/include/bpf/bpf.h."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf", ctypes.c_uint32 * 4),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
    )


def create_map(
    name: str, kind: int, key_size: int, value_size: int, entries: int, flags: int
) -> int:
    """Make a map of that kind (enum bpf_map_type), with sizes in bytes; its descriptor.

    Raises:
        OSError: The kernel refuses.
    """
    options = _MapOptions(sz=ctypes.sizeof(_MapOptions), map_flags=flags)
    return _checked(
        _libbpf().bpf_map_create(
            kind,
            name.encode()[:_LONGEST_NAME],
            key_size,
            value_size,
            entries,
            ctypes.byref(options),
        )
    )


class _MapInformation(ctypes.Structure):
    """The beginning of `struct bpf_map_info`, include/uapi/linux/bpf.h."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("sizes", ctypes.c_uint32 * 4),  # of keys, of values, entries, flags
        ("name", ctypes.c_char * 16),
    )


def describe_map(map_fd: int) -> tuple[str, int, int, int, int, int]:
    """What `create_map` was asked for when it made this one."""
    found = _MapInformation()
    _information(map_fd, found)
    key_size, value_size, entries, flags = found.sizes
    return found.name.decode(), found.type, key_size, value_size, entries, flags


def _information(descriptor: int, into: ctypes.Structure | ctypes.Array[ctypes.c_uint64]) -> None:
    """What the kernel says of a program or a map, as far as it fits."""
    size = ctypes.c_uint32(ctypes.sizeof(into))
    _checked(_libbpf().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(into), ctypes.byref(size)))


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
    from pathlib import Path  # noqa: PLC0415 - it is large, and the keeper can do without

    ranges = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip()
    return int(ranges.replace("-", ",").split(",")[-1]) + 1


def wait_for_programs() -> None:
    """Return when every program run that had begun before the call is over.

    See: membarrier(2); MEMBARRIER_CMD_GLOBAL waits for an RCU grace period, and programs of network
    hooks run inside RCU read-side sections.
    """
    system.call("membarrier", 1, 0, 0)


def attach_raw_tracepoint(program: int, name: str | None) -> int:
    """Have PROGRAM run at a tracepoint; the descriptor that holds it there.

    None: at what it was loaded to trace.
    """
    return _checked(_libbpf().bpf_raw_tracepoint_open(name and name.encode(), program))


def missed_runs(program: int) -> int:
    """How often PROGRAM was not run because its CPU was running it already (kernel 6.1 or newer).

    See: struct bpf_prog_info, include/uapi/linux/bpf.h
    """
    return _words(program)[_RECURSION_MISSES // 8]


def run_statistics(program: int) -> tuple[int, int]:
    """How long PROGRAM has run (ns) and how often, while kernel.bpf_stats_enabled was on."""
    words = _words(program)
    return words[_RECURSION_MISSES // 8 - 2], words[_RECURSION_MISSES // 8 - 1]


def verified_instructions(program: int) -> int:
    """How many instructions the verifier walked, of a million that it grants (5.16 or newer)."""
    return _words(program)[_RECURSION_MISSES // 8 + 1] & 0xFFFFFFFF


def _words(program: int) -> ctypes.Array[ctypes.c_uint64]:
    """The beginning of its `struct bpf_prog_info`."""
    information = (ctypes.c_uint64 * 32)()
    _information(program, information)
    return information


def elements(map_fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a hash from which nothing is deleted."""
    key, value = None, ctypes.create_string_buffer(value_size)
    while True:
        following = ctypes.create_string_buffer(key_size)
        if _libbpf().bpf_map_get_next_key(map_fd, key, following) < 0:
            return
        _checked(_libbpf().bpf_map_lookup_elem(map_fd, following, value))
        yield following.raw, value.raw
        key = following


def take_elements(
    map_fd: int, key_size: int, value_size: int, most: int
) -> Iterator[tuple[bytearray, bytearray]]:
    """Empty a hash that nobody else writes to: its keys and values, up to MOST together."""
    return _batches("bpf_map_lookup_and_delete_batch", map_fd, key_size, value_size, most)


def read_elements(
    map_fd: int, key_size: int, value_size: int, most: int
) -> Iterator[tuple[bytearray, bytearray]]:
    """Keys and values of a hash, up to MOST together; what comes meanwhile may be there."""
    return _batches("bpf_map_lookup_batch", map_fd, key_size, value_size, most)


def _batches(
    function: str, map_fd: int, key_size: int, value_size: int, most: int
) -> Iterator[tuple[bytearray, bytearray]]:
    keys, values = bytearray(most * key_size), bytearray(most * value_size)
    of_keys, of_values = ((ctypes.c_char * len(part)).from_buffer(part) for part in (keys, values))
    place, following = None, ctypes.create_string_buffer(max(key_size, 8))
    done = False
    while not done:
        count = ctypes.c_uint32(most)
        result = getattr(_libbpf(), function)(
            map_fd, place, following, of_keys, of_values, ctypes.byref(count), None
        )
        done = result == -errno.ENOENT
        if not done:
            _checked(result)
        if count.value:
            yield keys[: count.value * key_size], values[: count.value * value_size]
        place = following
