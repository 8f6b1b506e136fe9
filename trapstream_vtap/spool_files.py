# SPDX-License-Identifier: Apache-2.0
"""A spool's directory: that it is ours alone, and the file `position` in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from trapstream_vtap.errors import RunError
from trapstream_vtap.segment import Sums, is_of_older_version

if TYPE_CHECKING:
    from pathlib import Path

_POSITION = struct.Struct("<Q3Q3Q")  # which spool, settled, appended
_CRC = struct.Struct("<I")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Position(NamedTuple):
    """Of which spool, up to where everything has settled, and has been appended."""

    number: int
    settled: Sums
    appended: Sums


class SpoolFiles:
    """The directory, locked until `close`; its parent must be there.

    Args:
        path: Of the directory; made where it is not there. No link is followed in it.

    Raises:
        RunError: It cannot be had, is not ours alone, or is of an older version.
    """

    def __init__(self, path: Path) -> None:
        self.directory = self.position = -1
        """Descriptors."""
        try:
            self._open(path)
        except RunError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise RunError(f"Cannot spool in {path} ({error.strerror}).") from error

    def _open(self, path: Path) -> None:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        with contextlib.suppress(PermissionError):  # whoever cannot read it has not made it
            _sync(path.parent)
        self.directory = os.open(path, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        state = os.fstat(self.directory)
        if state.st_uid != os.geteuid() or state.st_mode & _OTHERS_MAY_WRITE:
            raise RunError(
                f"Cannot spool in {path}: it must belong to the user that runs, and nobody else "
                "may write there."
            )
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.position = os.open("position", flags, 0o600, dir_fd=self.directory)
        try:
            fcntl.flock(self.position, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"Another process has the spool {path}: give each a --spool of its own."
            ) from error
        if is_of_older_version(self.directory):
            raise RunError(
                f"The spool {path} is of an older vtap-stream: have that one deliver it, or "
                "remove it."
            )

    @property
    def closed(self) -> bool:
        """Whether somebody else may have it."""
        return self.position < 0

    def read_position(self) -> Position | None:
        """As an earlier run has left it; None: that cannot be read."""
        octets = os.pread(self.position, _POSITION.size + _CRC.size, 0)
        numbers, check = octets[: _POSITION.size], octets[_POSITION.size :]
        if check != _CRC.pack(zlib.crc32(numbers)):
            return None
        number, *totals = _POSITION.unpack(numbers)
        return Position(number, Sums(*totals[:3]), Sums(*totals[3:]))

    def write_position(self, position: Position) -> None:
        """Remember POSITION.

        Raises:
            OSError: The disk does not.
        """
        numbers = _POSITION.pack(position.number, *position.settled, *position.appended)
        os.pwrite(self.position, numbers + _CRC.pack(zlib.crc32(numbers)), 0)

    def sync_position(self) -> None:
        """Have the disk write it down.

        Raises:
            OSError: It cannot.
        """
        os.fdatasync(self.position)

    def close(self) -> None:
        """Let go of the directory."""
        for descriptor in (self.position, self.directory):
            if descriptor >= 0:
                os.close(descriptor)
        self.position = self.directory = -1


def _sync(path: Path) -> None:
    """Have the disk write down what stands in the directory PATH."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
