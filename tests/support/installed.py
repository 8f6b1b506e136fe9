# SPDX-License-Identifier: Apache-2.0
"""The wheel, installed as on a machine that has nothing else of ours, at /opt/vtap-stream."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from lab import wheel

if TYPE_CHECKING:
    from pathlib import Path

PLACE = "/opt/vtap-stream"
COMMAND = f"{PLACE}/bin/vtap-stream"
_STORE = wheel.ROOT / "build" / "installed"
_THERE = """
directory=$1; shift
mount -t tmpfs opt /opt && mkdir /opt/vtap-stream && mount --bind "$directory" /opt/vtap-stream &&
cd / && exec "$@"
"""


def environment() -> Path:
    """Where it is really: made once for each state of the sources, for all test processes."""
    _STORE.mkdir(parents=True, exist_ok=True)
    with (_STORE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = _STORE / _state()
        if not (target / "ready").exists():
            for old in _STORE.glob("*/"):
                shutil.rmtree(old)
            (target / "venv").mkdir(parents=True)
            made = wheel.build(target)
            there = within(target / "venv")
            new = ("-m", "venv", "--system-site-packages", "--without-pip", PLACE)
            _run(*there, "/usr/bin/python3", *new)
            pip = (sys.executable, "-m", "pip", "--python", f"{PLACE}/bin/python")
            _run(*there, *pip, "-q", "install", str(made))
            (target / "ready").touch()
    return target / "venv"


def within(directory: Path) -> tuple[str, ...]:
    """What to put before a command that shall see DIRECTORY as /opt/vtap-stream."""
    return ("unshare", "--mount", "sh", "-c", _THERE, "sh", str(directory))


def _state() -> str:
    """A name for what the sources hold."""
    digest = hashlib.sha256()
    for path in sorted((wheel.ROOT / "trapstream_vtap").rglob("*")):
        if path.is_file() and path.suffix not in (".so", ".cpp", ".pyc"):
            digest.update(str(path).encode() + path.read_bytes())
    digest.update((wheel.ROOT / "setup.cfg").read_bytes())
    return digest.hexdigest()[:16]


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
