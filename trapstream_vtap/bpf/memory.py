# SPDX-License-Identifier: Apache-2.0
"""Whether there is room for a program's maps in the kernel's memory, before they are made.

Kernel memory is nobody's: where it is gone, the kernel ends other processes.

See: Documentation/filesystems/proc.rst, Documentation/admin-guide/cgroup-v2.rst,
Documentation/admin-guide/cgroup-v1/memory.rst
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_FIRST_VERSION = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_ELEMENT = 48  # struct htab_elem up to the key, kernel/bpf/hashtab.c
_BUCKET = 16  # struct bucket
_SHARE = 0.8  # of what is free; the rest is for others
_MIB = 1 << 20
PAGE = 4096
_RING_HEADER = 8  # bytes that the ring buffer adds to each record
_SMALLEST_RING = 256 << 10
_LARGEST_RING = 8 << 20  # mapped twice into our memory


def hash_bytes(key_size: int, value_size: int, entries: int) -> int:
    """What a hash table with room for so many ENTRIES takes, all of it when it is made; bytes."""
    element = _ELEMENT + (key_size + 7 & ~7) + (value_size + 7 & ~7)
    return entries * element + _BUCKET * (1 << (entries - 1).bit_length())


def ring_pages(records: int, size: int) -> int:
    """Of a ring buffer with room for RECORDS of SIZE bytes, within reason."""
    ring = _LARGEST_RING
    while ring > _SMALLEST_RING and ring // 2 >= records * (size + _RING_HEADER):
        ring //= 2
    return ring // PAGE


def free_bytes() -> int:
    """What the machine has free, or our control groups do, whichever is less."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):  # hidden from a service (ProcSubset=pid): all there is
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        free = next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:")) << 10
    for most, used in _limits():
        with contextlib.suppress(OSError, ValueError):  # no limit: the word max, or no such file
            limit = int(most.read_text(encoding="ascii"))
            free = min(free, max(limit - int(used.read_text(encoding="ascii")), 0))
    return free


def _limits() -> Iterator[tuple[Path, Path]]:
    """The files with limit and use of our control groups, and of those that they are in."""
    with contextlib.suppress(OSError):
        for line in _OWN_CGROUP.read_text(encoding="utf-8").splitlines():
            number, controllers, own = line.split(":", 2)
            if number == "0":
                top, names = _CGROUPS, ("memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                top, names = _CGROUPS / "memory", _FIRST_VERSION
            else:
                continue
            group = top / own.lstrip("/")
            for one in (group, *group.parents):
                if top in one.parents:
                    yield one / names[0], one / names[1]


def check(needed: int, what: str) -> None:
    """See that there is room for NEEDED bytes.

    Args:
        needed: By all maps together.
        what: The option that says how much, with its value.

    Raises:
        RunError: There is not.
    """
    free = free_bytes()
    if needed > free * _SHARE:
        raise RunError(
            f"{what} takes {needed / _MIB:,.0f} MiB of the kernel's memory, and of the "
            f"{free / _MIB:,.0f} MiB that are free at most {_SHARE:.0%} may be taken: choose less."
        )
