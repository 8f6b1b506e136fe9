# SPDX-License-Identifier: Apache-2.0
"""Debian packages unpacked beside the sources, without installing them.

Installing a database package would start its service on the person's machine.
"""

import fcntl
import subprocess
import tempfile
from pathlib import Path

STORE = Path(__file__).resolve().parent.parent / "build" / "debian"


def unpacked(package: str) -> Path:
    """The directory that holds a package's files, fetched and unpacked at the first call.

    Args:
        package: Name of the Debian package.

    Raises:
        subprocess.CalledProcessError: When the distribution does not have it, or not now.
    """
    STORE.mkdir(parents=True, exist_ok=True)
    target = STORE / package
    with (STORE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=STORE, prefix=".new-") as directory:
                new = Path(directory)
                _download(package, new)
                (archive,) = new.glob("*.deb")
                _run("dpkg-deb", "-x", str(archive), str(new / "files"))
                (new / "files").rename(target)
    return target


def _download(package: str, directory: Path) -> None:
    # The sandbox user of apt may not write here.
    fetch = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package)
    try:
        _run(*fetch, cwd=directory)
    except subprocess.CalledProcessError:
        _run("apt-get", "-qq", "update")  # the lists were missing or old
        _run(*fetch, cwd=directory)


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(str(error.stderr))
        raise
