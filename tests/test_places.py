# SPDX-License-Identifier: Apache-2.0
"""What root opens and makes where others may write: nobody else's link is followed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import tap

from lab.namespace import Namespace
from trapstream_vtap import places
from trapstream_vtap.credentials import read_file
from trapstream_vtap.errors import UsageError
from trapstream_vtap.privileges import acting, find
from trapstream_vtap.settings import file as configfile
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks.file import FileSink, Rotation

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = "root's own"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach, root's, with a secret beside it."""
    with TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "secret").write_text(CONTENT)
        (place / "secret").chmod(0o600)
        (place / "private").mkdir(mode=0o700)
        yield place


def content(path: Path) -> str:
    """What root reads at PATH."""
    with os.fdopen(places.open_file(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def directory(place: Path, owner: str, mode: int) -> Path:
    """One of OWNER's with MODE, with links to the secret file and the private directory in it."""
    made = place / f"{owner}-{mode:o}"
    made.mkdir()
    os.chown(made, *find(owner))
    made.chmod(mode)
    for name in ("secret", "private"):
        (made / f"to-{name}").symlink_to(place / name)
        os.chown(made / f"to-{name}", *find(owner), follow_symlinks=False)
    return made


@pytest.mark.parametrize(
    ("owner", "mode", "followed"),
    [
        ("root", 0o755, True),
        (
            "root",
            0o1777,
            True,
        ),  # the link is root's, and the sticky bit keeps it: a secret's volume
        ("root", 0o777, False),
        ("root", 0o775, False),
        ("daemon", 0o755, False),
        ("daemon", 0o1777, False),
    ],
)
def test_links(place: Path, owner: str, mode: int, *, followed: bool) -> None:
    """A link is followed only where root alone can have put it, at the end of a path or before."""
    where = directory(place, owner, mode)
    links = (where / "to-secret", where / "to-private" / ".." / "secret")
    for link in links:
        if followed:
            assert content(link) == CONTENT
        else:
            with pytest.raises(OSError, match="is a link, and not only root"):
                content(link)


def test_link_of_somebody_else_in_tmp(place: Path) -> None:
    """In a directory such as /tmp, a link is followed if it is root's, and no other."""
    where = directory(place, "root", 0o1777)
    os.chown(where / "to-secret", *find("daemon"), follow_symlinks=False)
    with pytest.raises(OSError, match="is a link, and not only root"):
        content(where / "to-secret")


def test_read_only_volume(place: Path) -> None:
    """Where a file system is mounted read-only, root's links are followed, whoever might write."""
    where = directory(place, "root", 0o777)
    script = f"mount --bind {where} {where} && mount -o remount,ro,bind {where} && exec "
    code = "import os, sys; from pathlib import Path; from trapstream_vtap import places\n"
    code += "print(os.read(places.open_file(Path(sys.argv[1]), os.O_RDONLY), 100).decode())"
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", script + '"$@"', "sh"),
            *(sys.executable, "-c", code, str(where / "to-secret")),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{CONTENT}\n"


def test_as_anybody_else(place: Path) -> None:
    """Whoever is not root opens what the kernel lets them."""
    where = directory(place, "daemon", 0o755)
    (place / "secret").chmod(0o644)
    with acting("daemon"):
        assert content(where / "to-secret") == CONTENT


def test_secrets(place: Path) -> None:
    """Files of tokens, keys and Kafka's properties are not read through somebody else's link."""
    where = directory(place, "daemon", 0o755)
    with pytest.raises(OSError, match="to-secret is a link"):
        read_file(str(where / "to-secret"))
    assert read_file(str(place / "secret")) == CONTENT.encode()


def test_configuration_file(place: Path) -> None:
    """Nor is the configuration file, of which a sentence about a mistake quotes a line."""
    where = directory(place, "daemon", 0o755)
    with pytest.raises(UsageError) as caught:
        configfile.read(where / "to-secret", {})
    assert "to-secret is a link" in str(caught.value)
    assert CONTENT not in str(caught.value)


def test_pipe() -> None:
    """What a shell puts in the place of `<(command)` is a link of the kernel's, and read."""
    reading, writing = os.pipe()
    os.write(writing, CONTENT.encode())
    os.close(writing)
    assert content(Path(f"/dev/fd/{reading}")) == CONTENT
    os.close(reading)


def test_file_sink(place: Path) -> None:
    """A file sink of root's writes through no link, be it put there later."""
    where = directory(place, "daemon", 0o777)
    link = where / "records.lp"
    sink = FileSink(parse(f"file:{link}"), Rotation(1, None, 1))
    link.symlink_to(place / "secret")
    with pytest.raises(OSError, match="is a link: name the file itself"):
        sink.open()
    sink = FileSink(parse(f"file:{where}/to-private/records.lp"), Rotation(1, None, 1))
    with pytest.raises(OSError, match="to-private is a link"):
        sink.open()
    assert (place / "secret").read_text() == CONTENT


def test_make_directory(place: Path) -> None:
    """Who may not make it has it made, empty and their own; what is there stays whose it is."""
    made = place / "spool"
    assert places.make_directory(made, "daemon")
    assert (made.owner(), stat.S_IMODE(made.stat().st_mode)) == ("daemon", 0o700)
    assert place.owner() == "root"
    (made / "left").touch()
    assert not places.make_directory(made, "daemon")
    assert (made / "left").owner() == "root"
    os.chown(made, 0, 0)
    assert not places.make_directory(made, "daemon")
    assert made.owner() == "root"


def test_make_directory_behind_a_link(place: Path) -> None:
    """Behind somebody else's link nothing is made, nor given away."""
    where = directory(place, "daemon", 0o755)
    with pytest.raises(OSError, match="to-private is a link"):
        places.make_directory(where / "to-private" / "spool", "nobody")
    assert list((place / "private").iterdir()) == []
    assert not places.make_directory(where / "to-private", "nobody")
    assert (place / "private").owner() == "root"


def test_links_in_a_spool(place: Path) -> None:
    """Links that nobody puts into its own spool hand nothing of root's to it."""
    command = (str(tap.COMMAND), "-i", "lo", "--duration", "0.3", "--spool", f"{place}/spool")
    (place / "private").chmod(0o777)
    with Namespace() as namespace:
        namespace.run(*command, "127.0.0.1", "9")
        (sub,) = (place / "spool").iterdir()
        assert {(place / "spool").owner(), sub.owner()} == {"nobody"}
        with acting("nobody"):
            (sub / "x").symlink_to(place / "secret")
        assert namespace.run(*command, "127.0.0.1", "9").returncode == 0
        with acting("nobody"):
            sub.rename(sub.with_suffix(".old"))
            sub.symlink_to(place / "private")
        refused = namespace.run(*command, "127.0.0.1", "9", check=False)
    assert refused.returncode == 1
    assert f"Cannot spool in {sub} (" in refused.stderr
    assert {(place / name).owner() for name in ("secret", "private")} == {"root"}
