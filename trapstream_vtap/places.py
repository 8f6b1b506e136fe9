# SPDX-License-Identifier: Apache-2.0
"""Files and directories, opened so that root follows nobody else's links.

Where others may write, a link that root follows lets them choose what root opens, makes, or gives
away. A link is root's own where only root could have put it there: in a directory that is root's
and that nobody else may write, or, root's itself, in one where the sticky bit keeps it, or that is
mounted read-only, as Kubernetes' volumes of secrets and configurations are.

See: openat(2), symlink(7), proc_sys_fs(5) on protected_symlinks
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from trapstream_vtap.privileges import acting, find

if TYPE_CHECKING:
    from pathlib import Path

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_IS_LINK = (errno.ELOOP, errno.ENOTDIR)  # what open(2) says of one that it is not to follow


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """A descriptor of the file at PATH; to whoever is not root, a link is a link.

    Raises:
        OSError: It cannot be opened, or is behind somebody else's link.
    """
    flags |= os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(path, flags, mode)
    directory = open_directory(path.absolute().parent)
    try:
        return _step(directory, path.name, flags, mode)
    finally:
        os.close(directory)


def open_directory(path: Path, how: int = os.O_PATH) -> int:
    """A descriptor of the directory at PATH; unless HOW says more, for openat(2) and the like.

    Raises:
        OSError: It cannot be opened, or is behind somebody else's link.
    """
    flags = os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(path, flags | how)
    here = os.open("/", flags | os.O_PATH)
    for name in (*path.absolute().parts[1:], "."):
        try:
            below = _step(here, name, flags | (how if name == "." else os.O_PATH))
        finally:
            os.close(here)
        here = below
    return here


def make_directory(path: Path, user: str) -> bool:
    """Make the directory PATH in one that is there, for USER, as whom we shall run.

    Where USER may not make it, root does, and gives it to that user, empty as it is. What is there
    already stays as it is.

    Returns:
        Whether it was made.

    Raises:
        OSError: It cannot be.
        UsageError: There is no such user.
    """
    is_somebody = False  # and not root: USER may be root, and a container may keep us root
    with acting(user), contextlib.suppress(FileExistsError, PermissionError):
        is_somebody = os.geteuid() != 0
        if is_somebody:
            path.mkdir(mode=0o700)
            return True
    if path.is_dir() or os.geteuid() != 0:
        path.mkdir(mode=0o700, exist_ok=True)  # says what is wrong, if anything is
        return False
    parent = open_directory(path.parent)
    try:
        os.mkdir(path.name, 0o700, dir_fd=parent)
        made = os.open(path.name, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        if is_somebody and os.fstat(made).st_uid == 0 and not any(os.scandir(made)):
            os.fchown(made, *find(user))
    finally:
        os.close(made)
    return True


def _step(directory: int, name: str, flags: int, mode: int = 0) -> int:
    """Open NAME in DIRECTORY, through a link only if that is root's own."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=directory)
    except OSError as error:
        if error.errno not in _IS_LINK:
            raise
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode) and not _is_roots(directory, found):
        raise OSError(errno.ELOOP, f"{name} is a link, and not only root may write where it is")
    return os.open(name, flags, mode, dir_fd=directory)


def _is_roots(directory: int, link: os.stat_result) -> bool:
    """Whether nobody but root can have put LINK into DIRECTORY."""
    found = os.fstat(directory)
    if found.st_uid != 0:
        return False
    if not found.st_mode & _OTHERS_MAY_WRITE:
        return True
    kept = found.st_mode & stat.S_ISVTX or os.fstatvfs(directory).f_flag & os.ST_RDONLY
    return link.st_uid == 0 and bool(kept)
