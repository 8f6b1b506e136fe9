# SPDX-License-Identifier: Apache-2.0
"""Names of places in the kernel.

See: /proc/kallsyms, the kernel's kernel/kallsyms.c
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import BinaryIO

KALLSYMS = Path("/proc/kallsyms")
_CODE = b"tTwW"
_LONGEST = 1 << 20  # no function is longer; what is further on is not in any


class Symbols:
    """The kernel's symbols, as they are in FILE, which root has opened; without it there are none.

    They are looked through when a new place is asked for (0.1 s), not kept: they take 10 MB, and
    modules come and go.
    """

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file

    def names(self, addresses: Collection[int]) -> dict[int, str]:
        """Of each of ADDRESSES the function and the offset in it, or nothing if there is none.

        Never the address: it would tell every reader where in memory the kernel lies.
        """
        wanted = sorted(addresses)
        best: list[tuple[int, bytes]] = [(0, b"")] * len(wanted)
        for line in self._lines():
            if line[17] not in _CODE:
                continue
            start = int(line[:16], 16)
            at = bisect_left(wanted, start)  # the first address that is not ahead of the symbol
            if at < len(wanted) and start > best[at][0]:
                best[at] = (start, line)
        found: dict[int, str] = {}
        nearest = (0, b"")
        for address, candidate in zip(wanted, best, strict=True):
            nearest = max(nearest, candidate)
            found[address] = _told(address, *nearest)
        return found

    def hidden(self) -> bool:
        """Whether the kernel shows no addresses to us: only to CAP_SYSLOG, or to nobody.

        See: Documentation/admin-guide/sysctl/kernel.rst, kptr_restrict
        """
        return not any(line[17] in _CODE and line[:16].strip(b"0") for line in self._lines())

    def _lines(self) -> list[bytes]:
        if not self._file:
            return []
        self._file.seek(0)
        return self._file.readlines()


def _told(address: int, start: int, line: bytes) -> str:
    """ADDRESS within the function that LINE names and that begins at START (0: none)."""
    if not 0 < start <= address < start + _LONGEST:
        return ""
    name, *module = line[19:].decode(errors="replace").split()
    return " ".join((f"{name}+{address - start:#x}", *module))
