# SPDX-License-Identifier: Apache-2.0
"""Files as sinks: what stands in them when they are rotated, moved away, full, or locked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import tap
from flowlines import Handing, booked, line, number_of
from traffic import Wire
from waiting import wait_for

from lab.namespace import Namespace
from trapstream_vtap.errors import UsageError
from trapstream_vtap.privileges import find
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import FileSink, Rotation, file

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = 300
NAME = re.compile(r"records\.lp\.\d{8}-\d{6}\.\d{6}")


def sink(path: Path, size: int = 1 << 30, age: float | None = None, keep: int = 10_000) -> FileSink:
    """To PATH."""
    return FileSink(parse(f"file:{path}"), Rotation(size, age, keep))


def in_order(path: Path) -> list[Path]:
    """The files put aside, then the file at PATH itself."""
    others = sorted(other for other in path.parent.iterdir() if other != path)
    assert all(NAME.fullmatch(other.name) for other in others)
    return [*others, path]


def numbers_in(*paths: Path) -> list[int]:
    """The numbers of all lines, none of which may be broken."""
    found = []
    for path in paths:
        for text in path.read_bytes().splitlines(keepends=True):
            number = number_of(text)
            assert text == line(number)
            found.append(number)
    return found


@pytest.mark.parametrize("form", ["influx", "json"])
def test_whole_run(form: str, tmp_path: Path) -> None:
    """All files of a run, each of a second, together have what a collector got, in its order.

    What was measured when SIGTERM came is there, too.
    """
    path = tmp_path / "records.lp"
    options = ("-f", form, "-i", "wire0", "-t", "0.5", "--file-age", "1", "--sink", f"file:{path}")
    options += ("--user", "root")
    with Wire() as wire, tap.Tap(wire.receiver, *options) as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        wait_for(path.exists)
        for number in range(PACKETS):
            sender.send(bytes(number % 1000))
            if number % 100 == 0:
                wait_for(lambda files=number // 100: len(in_order(path)) > files)
        tapped.process.send_signal(signal.SIGTERM)
        tapped.end()
    files = in_order(path)
    assert len(files) >= PACKETS // 100
    lines = [text for found in files for text in found.read_bytes().splitlines()]
    if form == "json":
        assert [json.loads(text) for text in lines] == [
            record for text in tapped.payload.splitlines() for record in json.loads(text)
        ]
        counts = [json.loads(text)["packets"] for text in lines if b'"vtap_flow"' in text]
    else:
        assert lines == tapped.payload.splitlines()
        counts = [
            int(text.split(b" packets=")[1].split(b"i")[0])
            for text in lines
            if text.startswith(b"vtap_flow,")
        ]
    assert sum(counts) == PACKETS


def test_rotated_by_size(tmp_path: Path) -> None:
    """No file is larger than it may be, and together they have every line once, in order."""
    path = tmp_path / "records.lp"
    with Handing(sink(path, size=10_000)) as handing:
        for start in range(0, 2000, 20):
            handing.put(range(start, start + 20))
        assert handing.account() == (booked(range(2000)), {})
    files = in_order(path)
    assert list(range(2000)) == numbers_in(*files)
    sizes = [found.stat().st_size for found in files]
    assert max(sizes) <= 10_000
    assert len(sizes) <= 2 + sum(sizes) // (10_000 - 2000)  # a payload has less than 2,000 bytes


def test_large_payload_is_whole(tmp_path: Path) -> None:
    """A payload that is larger than a file may be has a file to itself."""
    path = tmp_path / "records.lp"
    with Handing(sink(path, size=1000)) as handing:
        for numbers in (range(2), range(2, 200), range(200, 202)):
            handing.put(numbers)
        handing.account()
    assert [numbers_in(found) for found in in_order(path)] == [
        [0, 1],
        list(range(2, 200)),
        [200, 201],
    ]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """Of files put aside the oldest are removed; what has another name stays."""
    path = tmp_path / "records.lp"
    other = tmp_path / "records.lp.1"
    other.write_bytes(b"")
    with Handing(sink(path, size=1, keep=3)) as handing:
        for number in range(10):
            handing.put([number])
        handing.account()
    assert other.exists()
    other.unlink()
    assert numbers_in(*in_order(path)) == [6, 7, 8, 9]


def test_clock_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest are kept, not those with the latest time."""
    path = tmp_path / "records.lp"
    with Handing(sink(path, size=1, keep=3)) as handing:
        for number in range(10):
            hour = 11.0 if number < 5 else 10.0
            monkeypatch.setattr(file, "time", SimpleNamespace(time=lambda hour=hour: hour * 3600))
            handing.put([number])
            handing.account()
    assert numbers_in(*in_order(path)) == [6, 7, 8, 9]


def test_rotated_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is for an hour of UTC; a clock set back loses no file."""
    path = tmp_path / "records.lp"
    hours = {0: 10.1, 1: 10.9, 2: 11.0, 3: 11.5, 4: 10.2, 5: 10.2, 6: 10.2}
    with Handing(sink(path, age=3600)) as handing:
        for number, hour in hours.items():
            handing.account()
            clock = SimpleNamespace(time=lambda hour=hour: hour * 3600)
            monkeypatch.setattr(file, "time", clock)
            handing.put([number])
        handing.account()
    found = [numbers_in(found) for found in in_order(path)]
    assert found == [[0, 1], [2, 3], [4, 5, 6]]


def test_rotated_by_time_after_a_restart(tmp_path: Path) -> None:
    """A file that was last written in an earlier hour is put aside."""
    path = tmp_path / "records.lp"
    path.write_bytes(line(0))
    os.utime(path, (3600, 3600))
    with Handing(sink(path, age=3600)) as handing:
        handing.put([1])
        handing.account()
    assert [numbers_in(found) for found in in_order(path)] == [[0], [1]]


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def test_full_disk(tmp_path: Path) -> None:
    """On a full disk no part of a payload stands; with room again, every line comes, once."""
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "records.lp"
        (disk / "others").write_bytes(bytes(40_000))
        with Handing(sink(path)) as handing:
            for start in range(0, 500, 100):
                handing.put(range(start, start + 100))
            wait_for(lambda: handing.said)
            assert "No space left on device" in handing.said[0]
            there = numbers_in(path)
            assert 0 < len(there) < 500
            assert len(there) % 100 == 0
            (disk / "others").unlink()
            assert handing.account() == (booked(range(500)), {})
        assert list(range(500)) == numbers_in(path)
        assert "is back." in handing.said[-1]


def test_moved_away(tmp_path: Path) -> None:
    """When somebody moves the file away, what comes next is in a new one under the old name."""
    path, aside = tmp_path / "records.lp", tmp_path / "aside"
    with Handing(sink(path)) as handing:
        handing.put(range(5))
        handing.account()
        path.rename(aside)
        handing.put(range(5, 9))
        handing.account()
        path.unlink()
        wait_for(path.exists)  # without traffic, too
        handing.put([9])
        assert handing.account() == (booked(range(10)), {})
    assert (numbers_in(aside), numbers_in(path)) == (list(range(5)), [9])


def test_two_writers(tmp_path: Path) -> None:
    """A file that another vtap-stream writes is left alone until that one ends."""
    path = tmp_path / "records.lp"
    with Handing(sink(path)) as second, Handing(sink(path)) as first:
        wait_for(lambda: first.said or second.said)
        waiting, writing = (first, second) if first.said else (second, first)
        writing.put(range(5))
        writing.account()
        assert "another program has it locked" in waiting.said[0]
        writing.sender.close()
        waiting.put(range(5, 9))
        waiting.account()
    assert list(range(9)) == numbers_in(path)


def test_broken_line_stays_alone(tmp_path: Path) -> None:
    """What a crash has left of a line does not spoil the next one."""
    path = tmp_path / "records.lp"
    path.write_bytes(line(0)[:-5])
    with Handing(sink(path)) as handing:
        handing.put([1])
        handing.account()
    assert path.read_bytes() == line(0)[:-5] + b"\n" + line(1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file:", "--sink 'file:': give file:/path."),
        ("file://host/path", "--sink 'file://host/path': give file:/path."),
        ("file:/tmp/", "--sink 'file:/tmp/': give file:/path."),
        ("file:/tmp", "--sink file:/tmp: is not a plain file; for a pipe use --sink -."),
        ("file:/dev/null", "--sink file:/dev/null: is not a plain file; .*"),
        ("file:/proc/self/exe", "--sink file:/proc/self/exe: is a link: name the file itself."),
        ("file:/none/a", "--sink file:/none/a: there is no directory /none."),
    ],
)
def test_bad_path(text: str, said: str) -> None:
    """A path that cannot be a file is said at once."""
    with pytest.raises(UsageError, match=said):
        FileSink(parse(text), Rotation(1, None, 1))


def test_as_nobody(tmp_path: Path) -> None:
    """Where nobody may not write, it is said before measuring begins; else files are its own."""
    command = (str(tap.COMMAND), "-i", "lo", "--duration", "0.5", "--sink")
    with Namespace() as namespace:
        done = namespace.run(*command, f"file:{tmp_path}/records.lp", check=False)
        assert done.returncode == 1
        assert done.stderr == (
            f"vtap-stream: nobody may not write {tmp_path}/records.lp: let that user write the "
            "directory, or say --user root.\n"
        )
        with TemporaryDirectory() as made:
            Path(made).chmod(0o755)
            full = Path(made, "records.lp")
            full.touch()
            os.chown(full, *find("nobody"))
            done = namespace.run(*command, f"file:{full}", check=False)
            assert done.returncode == 1
            assert "but not put it aside when it is full: let that user write" in done.stderr
            Path(made).chmod(0o1777)
            os.chown(full, 1, 1)
            full.chmod(0o666)
            done = namespace.run(*command, f"file:{full}", check=False)
            assert "but not put it aside when it is full: let that user write" in done.stderr
        with TemporaryDirectory() as made:
            os.chown(made, *find("nobody"))
            done = namespace.run(*command, f"file:{made}/records.lp")
            assert Path(made, "records.lp").read_text().startswith("vtap_")
            assert Path(made, "records.lp").owner() == "nobody"


def test_spool_as_nobody(tmp_path: Path) -> None:
    """A spool out of nobody's reach is said before measuring begins; within it, it is its own."""
    command = (str(tap.COMMAND), "-i", "lo", "--duration", "0.5", "127.0.0.1", "9", "--spool")
    with Namespace() as namespace:
        done = namespace.run(*command, str(tmp_path / "spool"), check=False)
        assert done.returncode == 1
        assert re.fullmatch(
            rf"vtap-stream: nobody may not come to {tmp_path}: "
            r"let that user reach it and the directories above, or say --user root\.\n",
            done.stderr,
        )
        assert list(tmp_path.iterdir()) == []
        with TemporaryDirectory() as made:
            Path(made).chmod(0o755)
            missing = namespace.run(*command, f"{made}/a/b", check=False)
            assert missing.returncode == 2
            assert f"--spool {made}/a/b: there is no {made}/a." in missing.stderr
            assert list(Path(made).iterdir()) == []
            said = namespace.run(*command, f"{made}/a").stderr
            assert f"vtap-stream: made the directory {made}/a, for nobody\n" in said
            assert "made the directory" not in namespace.run(*command, f"{made}/a").stderr
            found = [*Path(made).rglob("*")]
            assert {path.owner() for path in found} == {"nobody"}
            assert any(path.name.endswith(".segment") for path in found)


def test_odd_path(tmp_path: Path) -> None:
    """In a path every character is itself."""
    path = tmp_path / "a b%20?c#d[e]*"
    with Handing(sink(path, size=1, keep=1)) as handing:
        for number in range(3):
            handing.put([number])
        handing.account()
    assert len(list(tmp_path.iterdir())) == 2
    assert numbers_in(path) == [2]
