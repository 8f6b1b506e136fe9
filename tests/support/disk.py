# SPDX-License-Identifier: Apache-2.0
"""A small disk that is full when a test wants it to be: a tmpfs."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class Disk:
    """A disk of SIZE bytes at PATH, while the context lasts."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._filler = path / "filler"

    def __enter__(self) -> Self:
        options = ("-o", f"size={self._size}")
        subprocess.run(["mount", "-t", "tmpfs", *options, "small", str(self._path)], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._path)], check=True)

    def fill(self) -> None:
        """Leave no room."""
        self._filler.write_bytes(bytes(shutil.disk_usage(self._path).free))

    def make_room(self) -> None:
        """Leave as much as there was."""
        self._filler.unlink()
