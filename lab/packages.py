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
                new = Path(directory) / "files"
                try:
                    unpack(new, package)
                except subprocess.CalledProcessError:
                    update()  # the lists were missing or old
                    unpack(new, package)
                new.rename(target)
    return target


def unpack(directory: Path, *names: str) -> None:
    """Fetches packages and unpacks them into one directory.

    Args:
        directory: Where to.
        names: Of the packages; `name=version` where it must be that one.

    Raises:
        subprocess.CalledProcessError: When the distribution lacks one, or the lists are old.
    """
    with tempfile.TemporaryDirectory() as fetched:
        # The sandbox user of apt may not write here.
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names, cwd=fetched)
        for archive in Path(fetched).glob("*.deb"):
            run("dpkg-deb", "-x", str(archive), str(directory))


def update() -> None:
    """Fetches the lists of what the distribution has."""
    run("apt-get", "-qq", "update")


def run(*command: str, cwd: str | Path | None = None) -> str:
    """What a command printed.

    Raises:
        subprocess.CalledProcessError: With what it said as a note.
    """
    try:
        done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(str(error.stderr))
        raise
    return done.stdout
