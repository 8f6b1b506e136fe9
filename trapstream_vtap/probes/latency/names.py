# SPDX-License-Identifier: Apache-2.0
"""What the numbers stand for that the program gives the values of `--latency-by`."""

from __future__ import annotations

import os
from pathlib import Path

from trapstream_vtap.bpf import kernel
from trapstream_vtap.probes.latency.hooks import cgroups
from trapstream_vtap.probes.latency.records import LONGEST_NAME, OTHER


class Values:
    """Names of the values, which are looked up once each.

    Args:
        by: What they are; None: there are none.
        numbers: The map that has their numbers.
    """

    def __init__(self, by: str | None, numbers: int) -> None:
        self._by = by
        self._map = numbers
        self._names = {0: OTHER}

    def names(self) -> dict[int, str]:
        """All that there are by now, by number."""
        if self._by is None:
            return self._names
        news = {}
        for key, value in kernel.elements(self._map, 8, 4):
            number = int.from_bytes(value, "little")
            if number not in self._names:
                news[number] = int.from_bytes(key, "little")
        if news:
            paths = _paths(set(news.values())) if self._by == "cgroup" else {}
            self._names = self._names | {n: paths.get(v, str(v)) for n, v in news.items()}
        return self._names


def _paths(wanted: set[int]) -> dict[int, str]:
    """Of control groups by their id, which is the inode of their directory."""
    root = cgroups()
    found: dict[int, str] = {}
    for where, _, _ in os.walk(root) if root else ():
        try:
            number = Path(where).stat().st_ino
        except OSError:  # it has just gone
            continue
        if number in wanted:
            found[number] = (where.removeprefix(root) or "/")[-LONGEST_NAME:]
    return found
