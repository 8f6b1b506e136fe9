# SPDX-License-Identifier: Apache-2.0
"""A file: payloads one behind the other, rotated between two of them.

Settled is what the kernel has taken. What was written of a payload that it could not take wholly,
as on a full disk, is cut off again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap import places
from trapstream_vtap.errors import RunError, UsageError

if TYPE_CHECKING:
    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.payload import Payload

_STAMP = "%Y%m%d-%H%M%S.%f"
_STAMPED = re.compile(r"\.\d{8}-\d{6}\.\d{6}")
_MODE = 0o666  # as the umask lets it


@dataclass(frozen=True)
class Rotation:
    """When a file is put aside, and how many such files are kept.

    Args:
        size: Most bytes in a file; a larger payload has one to itself.
        age: Seconds of UTC that a file is for: an hour's file begins on the hour. None: no limit.
        keep: Most files put aside.
    """

    size: int
    age: float | None
    keep: int


class FileSink:
    """The file at a path, and those put aside beside it: PATH.YYYYMMDD-HHMMSS.ffffff (UTC).

    Args:
        address: Its path.
        rotation: When to begin a new one.

    Raises:
        UsageError: There cannot be such a file.
    """

    def __init__(self, address: Address, rotation: Rotation) -> None:
        self._address = address
        self._path = Path(address.path).absolute()
        self._rotation = rotation
        try:
            self._check_place()
        except OSError as error:
            raise UsageError(f"--sink {address}: {error.strerror}.") from error
        self._descriptor: int | None = None
        self._directory: int | None = None
        self._written = 0
        self._period = 0

    def _check_place(self) -> None:
        if not self._path.parent.is_dir():
            raise UsageError(f"--sink {self._address}: there is no directory {self._path.parent}.")
        if self._path.is_symlink():
            raise UsageError(f"--sink {self._address}: is a link: name the file itself.")
        if self._path.exists() and not self._path.is_file():
            raise UsageError(
                f"--sink {self._address}: is not a plain file; for a pipe use --sink -."
            )

    def __str__(self) -> str:
        """The file as messages name it."""
        return str(self._address)

    def open(self) -> None:
        """Open the file, and see that nobody else writes it.

        Raises:
            OSError: It cannot be written.
        """
        self.close()
        self._directory = places.open_directory(self._path.parent)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path.name, flags, _MODE, dir_fd=self._directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(error.errno, "is a link: name the file itself") from error
            raise
        self._descriptor, self._written = descriptor, 0
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(0, "is not a plain file")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another program has it locked") from error
        if state.st_size and os.pread(descriptor, 1, state.st_size - 1) != b"\n":
            os.write(descriptor, b"\n")  # what a crash left of a record stays alone
        self._period = self._period_of(state.st_mtime)

    def try_out(self, user: str) -> None:
        """See that USER, who we are by now, may write it.

        Raises:
            RunError: That user may not.
        """
        try:
            self.open()
        except PermissionError as error:
            raise RunError(
                f"{user} may not write {self._path}: let that user write the directory, or say "
                "--user root."
            ) from error
        except OSError:
            return  # what may pass is tried again later
        may = self._may_rotate()
        self.close()
        if not may:
            raise RunError(
                f"{user} may write {self._path}, but not put it aside when it is full: let that "
                "user write the directory, or say --user root."
            )

    def _may_rotate(self) -> bool:
        """Whether we may rename the file, which is open."""
        directory = self._path.parent.stat()
        owners = (0, directory.st_uid, os.fstat(self._opened()).st_uid)
        kept = directory.st_mode & stat.S_ISVTX and os.geteuid() not in owners
        return not kept and os.access(self._path.parent, os.W_OK | os.X_OK, effective_ids=True)

    def send(self, payload: Payload) -> None:
        """Append a whole payload, or nothing of it.

        Raises:
            OSError: It was not to be.
        """
        self.check()
        self._rotate(len(payload.data))
        descriptor = self._opened()
        before = os.fstat(descriptor).st_size
        rest = memoryview(payload.data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        self._written += 1

    def settled(self) -> list[None]:
        """One for each payload written since the last call."""
        count, self._written = self._written, 0
        return [None] * count

    def check(self) -> None:
        """Follow the path where somebody has put the file aside.

        Raises:
            OSError: There cannot be a new one.
        """
        ours = os.fstat(self._opened())
        with suppress(FileNotFoundError):
            theirs = self._path.stat()
            if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
                return
        written = self._written
        self.open()
        self._written = written

    def _rotate(self, coming: int) -> None:
        """Begin a new file if there is no room for so many bytes COMING, or its time is over."""
        size = os.fstat(self._opened()).st_size
        now = time.time()
        period = self._period_of(now)
        if not size:
            self._period = period
        if not size or (period == self._period and size + coming <= self._rotation.size):
            return
        moment = datetime.fromtimestamp(now, UTC)
        for name in self._names_aside()[-1:]:
            with suppress(ValueError):  # looks like a date, and is none
                newest = datetime.strptime(name[len(self._path.name) :] + "Z", f".{_STAMP}%z")
                moment = max(moment, newest + timedelta(microseconds=1))  # the clock was set back
        while (aside := self._aside(moment)).exists():
            moment += timedelta(microseconds=1)
        here = self._directory
        os.rename(self._path.name, aside.name, src_dir_fd=here, dst_dir_fd=here)
        self.check()
        self._period = period
        for name in self._names_aside()[: -self._rotation.keep]:
            os.unlink(name, dir_fd=self._directory)

    def _names_aside(self) -> list[str]:
        """Of the files put aside, the oldest first."""
        names = (path.name for path in self._path.parent.iterdir())
        own = (name for name in names if name.startswith(self._path.name))
        return sorted(name for name in own if _STAMPED.fullmatch(name, len(self._path.name)))

    def _aside(self, moment: datetime) -> Path:
        return self._path.with_name(f"{self._path.name}.{moment.strftime(_STAMP)}")

    def _period_of(self, moment: float) -> int:
        return int(moment // self._rotation.age) if self._rotation.age else 0

    def renew(self) -> bool:
        """There are no credentials."""
        return False

    def give_up(self) -> None:
        """Nothing here waits."""

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    def _opened(self) -> int:
        if self._descriptor is None:
            raise OSError(0, "not open")
        return self._descriptor
