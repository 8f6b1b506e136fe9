# SPDX-License-Identifier: Apache-2.0
"""Compiled programs, kept from one start to the next.

Compiling takes most of a start. The same text gives the same code, so that it is done once, and
again when anything that the code depends on has changed: all of that is in the name under which it
is kept. What is found is loaded as root, so it must be root's alone to write.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import os
import re
import secrets
import stat
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from trapstream_vtap import places
from trapstream_vtap.bpf.code import Code, Map
from trapstream_vtap.bpf.source import HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.bpf.source import Source

DIRECTORY = "/var/cache/vtap-stream"
"""Where they are kept, if CACHE_DIRECTORY does not say something else, as it does under systemd.

See: systemd.exec(5), CacheDirectory=
"""
_MOST = 512  # of about 30 KB; the one that was not wanted for longest goes
_OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{16}")  # kept, and being written or left half-written
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIGEST = hashlib.sha256


def code(source: Source) -> Code:
    """SOURCE compiled, now or at an earlier time.

    Where it cannot be kept, it is compiled each time.

    Raises:
        RunError: It cannot be compiled.
    """
    found = kept(source)
    if found:
        return found
    from trapstream_vtap.bpf import compile as compiler  # noqa: PLC0415 - it is seldom needed

    made = compiler.compiled(source)
    keep(source, made)
    return made


def kept(source: Source, release: str = "") -> Code | None:
    """What SOURCE was compiled to at an earlier time, if that is there; RELEASE as for `keep`."""
    with contextlib.suppress(OSError, ValueError), _directory() as directory:
        return _find(directory, _name(source, release or os.uname().release))
    return None


def keep(source: Source, made: Code, release: str = "") -> None:
    """Keep what SOURCE was compiled to, if that can be.

    Args:
        source: What was compiled.
        made: What came of it.
        release: Of the kernel that is to load it, as `uname -r` has it; by default the running one.
    """
    with contextlib.suppress(OSError), _directory() as directory:
        _keep(directory, _name(source, release or os.uname().release), made)


def _name(source: Source, release: str) -> str:
    """Of everything on which the code depends."""
    digest = _DIGEST(orjson.dumps((asdict(source), release, os.uname().machine, _bcc())))
    for file in sorted((*HERE.glob("**/*.h"), HERE / "compile.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(HERE)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _bcc() -> str:
    """Its version, without importing it, which brings LLVM in."""
    with contextlib.suppress(OSError):
        found = importlib.util.find_spec("bcc")
        if found and found.origin:
            return Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    return ""


@contextlib.contextmanager
def _directory() -> Iterator[int]:
    """The directory's descriptor; made, if only its last name is missing.

    Raises:
        OSError: It cannot be made, is behind somebody else's link, or others may write to it.
    """
    path = Path(os.environ.get("CACHE_DIRECTORY", DIRECTORY).partition(":")[0]).absolute()
    parent = places.open_directory(path.parent)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.name, 0o700, dir_fd=parent)
    finally:
        os.close(parent)
    descriptor = places.open_directory(path, os.O_RDONLY)
    try:
        _check(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(descriptor: int) -> None:
    """See that a file or directory is ours alone to write.

    Raises:
        PermissionError: It is not.
    """
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError


def _find(directory: int, name: str) -> Code:
    """What was kept as NAME.

    Raises:
        OSError: Nothing was.
        ValueError: It is not whole.
    """
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        _check(descriptor)
        digest, _, body = file.read().partition(b"\n")
        os.utime(descriptor)
    if digest.decode() != _DIGEST(body).hexdigest():
        raise ValueError(name)
    found = orjson.loads(body)
    functions = {key: base64.b64decode(value) for key, value in found["functions"].items()}
    return Code(functions, tuple(Map(*values) for values in found["maps"]))


def _keep(directory: int, name: str, made: Code) -> None:
    """Keep it as NAME: whole, or not at all."""
    functions = {key: base64.b64encode(value).decode() for key, value in made.functions.items()}
    body = orjson.dumps({"functions": functions, "maps": [astuple(each) for each in made.maps]})
    new = f".{secrets.token_hex(8)}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_DIGEST(body).hexdigest().encode() + b"\n" + body)
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(new, dir_fd=directory)
        raise
    ours = (entry for entry in os.scandir(directory) if _OURS.fullmatch(entry.name))
    kept = sorted(ours, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
    for entry in kept[:-_MOST]:
        os.unlink(entry.name, dir_fd=directory)
