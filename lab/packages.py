# SPDX-License-Identifier: Apache-2.0
"""Debian packages unpacked beside the sources, without installing them.

Installing a database package would start its service on the person's machine.
"""

import contextlib
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
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


_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
_OF_SUITE = """
Dir::State "{here}/state";
Dir::State::status "/dev/null";
Dir::Cache "{here}/cache";
Dir::Etc::sourcelist "{here}/suite.sources";
Dir::Etc::sourceparts "/dev/null";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


@contextlib.contextmanager
def suite(name: str) -> Iterator[None]:
    """Meanwhile packages are those of another suite of Debian's; what apt knows does not change."""
    here = STORE / f".{name}"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (here / part).mkdir(parents=True, exist_ok=True)
    (here / "suite.sources").write_text(
        f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {name}\nComponents: main\n"
        f"Signed-By: {_KEYS}\n",
        encoding="ascii",
    )
    (here / "apt.conf").write_text(_OF_SUITE.format(here=here), encoding="utf-8")
    before = os.environ.get("APT_CONFIG")
    os.environ["APT_CONFIG"] = str(here / "apt.conf")
    try:
        yield
    finally:
        if before is None:
            del os.environ["APT_CONFIG"]
        else:
            os.environ["APT_CONFIG"] = before


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
