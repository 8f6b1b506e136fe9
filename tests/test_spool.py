# SPDX-License-Identifier: Apache-2.0
"""The spool by itself: whatever happens to its files, recovered + lost = appended, exactly."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from disk import Disk
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trapstream_vtap.errors import RunError
from trapstream_vtap.ledger import Account, Booked
from trapstream_vtap.spool import Spool, directory_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIZE = 1 << 16  # bytes; a segment then has 4 KiB
_HEADER = 64  # bytes ahead of each payload, as docs/delivery.md says
deterministic = settings(derandomize=True, deadline=None, max_examples=150)


def payload(number: int, length: int) -> bytes:
    """A payload that is told by its number, and in which no two bytes in a row are alike."""
    text = f"<{number}>" + "".join(chr(33 + (number + 7 * i) % 90) for i in range(length))
    return text.encode()


def booked(number: int) -> Booked:
    """What that payload holds: sums of these tell which payloads they are of."""
    return Booked(1 << number % 61, 3 << number % 59) if number % 5 else Booked()


def total(numbers: Sequence[int]) -> Booked:
    """What these payloads hold together."""
    return sum((booked(number) for number in numbers), Booked())


class Opened:
    """A spool, its account, and the payloads that are told by number."""

    def __init__(self, directory: Path, size: int = SIZE) -> None:
        self.said: list[str] = []
        self.account = Account()
        self.spool = Spool(directory, size, self.said.append)
        self.spool.begin(self.account)

    def close(self) -> None:
        """Let go of the directory."""
        self.spool.close()

    def append(self, *sizes: int, first: int = 0) -> None:
        """Payloads of SIZES bytes, numbered from FIRST on."""
        for number, length in enumerate(sizes, first):
            self.spool.append(payload(number, length), booked(number), time.time_ns())

    def read(self, *, most: int = 1 << 30, settle: bool = True) -> list[int]:
        """The numbers of the next payloads, each of which must be whole."""
        numbers = []
        while len(numbers) < most and (frame := self.spool.read()):
            number, _, rest = frame.data[1:].partition(b">")
            assert payload(int(number), len(rest)) == frame.data
            assert booked(int(number)) == frame.booked
            numbers.append(int(number))
            if settle:
                assert self.spool.settle(frame)
        return numbers

    def amount(self, name: str) -> Booked:
        """Records and packets that the account has under NAME."""
        values = self.account.values()
        return Booked(values[f"records_{name}"], values[f"packets_{name}"])


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Thousands of spools here need not wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _descriptor: None)
        yield


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that is not there yet."""
    return tmp_path / "sink"


def segments(directory: Path) -> list[Path]:
    """The spool's segments, oldest first."""
    return sorted(directory.glob("*.segment"))


def test_first_in_first_out(directory: Path) -> None:
    """Payloads come out as they went in; when all have settled, the disk is empty again."""
    with closing(Opened(directory)) as opened:
        opened.append(*range(0, 500, 5))
        assert opened.amount("spooled") == total(range(100))
        assert opened.spool.bytes == sum(path.stat().st_size for path in segments(directory))
        assert opened.read(most=50) == list(range(50))
        opened.append(*range(50), first=100)
        assert opened.read() == list(range(50, 150))
        opened.spool.sync()
        assert (opened.spool.bytes, segments(directory)) == (0, [])
        assert opened.amount("spooled") == Booked()
        assert opened.said == []


@pytest.mark.parametrize("in_flight", [0, 7])
def test_next_run_finds_what_had_not_settled(directory: Path, in_flight: int) -> None:
    """A later run has exactly what the one before had not seen settle, in order."""
    with closing(Opened(directory)) as opened:
        opened.append(*range(100, 200))
        opened.read(most=33)
        opened.read(most=in_flight, settle=False)
    with closing(Opened(directory)) as opened:
        assert opened.amount("recovered") == total(range(33, 100)) == opened.amount("spooled")
        assert opened.read() == list(range(33, 100))
    with closing(Opened(directory)) as opened:
        assert (opened.amount("recovered"), opened.read()) == (Booked(), [])


def test_age_is_that_of_the_oldest(directory: Path) -> None:
    """The age is counted from the birth of the oldest payload that has not settled."""
    hour = 3600 * 10**9
    with closing(Opened(directory)) as opened:
        for hours in (5, 3, 1):
            opened.spool.append(b"x", Booked(1, 1), time.time_ns() - hours * hour)
    with closing(Opened(directory)) as opened:
        assert round(opened.spool.age / hour) == 5
        for hours in (5, 3, 1):
            frame = opened.spool.read()
            assert frame
            assert round(opened.spool.age / hour) == hours
            opened.spool.settle(frame)
        assert opened.spool.age == 0


def test_nobody_shares_a_spool(directory: Path) -> None:
    """A second process is told that the spool is taken."""
    with closing(Opened(directory)), pytest.raises(RunError, match="Another process has the spool"):
        Opened(directory)
    Opened(directory).close()


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A file in the way is an error in one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot spool in"):
        Opened(tmp_path / "file" / "sink")


def test_directory_names() -> None:
    """Names are safe as a directory's, can be read, and are different where addresses are."""
    names = {directory_name(f"tcp://[::1]:{port} influx") for port in range(1, 400)}
    assert len(names) == 399
    assert directory_name("tcp://10.0.0.1:8094 influx").startswith("tcp-10.0.0.1-8094-influx-")
    assert "/" not in directory_name("file:/../../etc json")
    assert len(directory_name("kafka://" + "a" * 4000)) < 100


def test_bound(directory: Path) -> None:
    """Beyond its size, the oldest segments are dropped, and what was in them is counted."""
    with closing(Opened(directory)) as opened:
        for number in range(300):
            opened.append(1000, first=number)
            assert opened.spool.bytes <= SIZE
            assert sum(path.stat().st_size for path in segments(directory)) <= SIZE
        lost = opened.account.losses()["spool_full"]
        left = opened.read()
        assert left == list(range(left[0], 300))
        assert lost == total(range(left[0]))
        assert len(left) > 0.8 * SIZE / 1100
        assert any("is full: the oldest records are dropped" in said for said in opened.said)
        with pytest.raises(OSError, match="larger than --spool-size"):
            opened.append(SIZE, first=300)
        assert opened.spool.empty


def test_bound_while_in_flight(directory: Path) -> None:
    """What is on its way when its segment is dropped is no loss; it is in memory only."""
    with closing(Opened(directory)) as opened:
        opened.append(*[1000] * 20)
        frames = [opened.spool.read() for _ in range(5)]
        opened.append(*[1000] * 100, first=20)
        dropped = opened.account.losses()["spool_full"]
        assert [frame for frame in frames if frame and opened.spool.holds(frame)] == []
        assert [frame for frame in frames if frame and opened.spool.settle(frame)] == []
        left = opened.read()
        assert dropped == total(range(5, left[0]))
        assert opened.amount("spooled") == Booked()


def damage(directory: Path, chance: random.Random) -> None:
    """One of the things that can happen to files."""
    path = chance.choice(segments(directory))
    octets = bytearray(path.read_bytes())
    at = chance.randrange(len(octets) + 1)
    length = chance.randrange(1, 1 + chance.choice((1, 10, 1000, 5000)))
    kind = chance.choice(("flip", "flip", "zero", "cut", "torn", "insert", "gone", "misplaced"))
    if kind == "flip":
        for bit in range(length):
            if at + bit < len(octets):
                octets[at + bit] ^= 1 << chance.randrange(8)
    elif kind == "zero":
        octets[at : at + length] = bytes(len(octets[at : at + length]))
    elif kind == "cut":
        del octets[at : at + length]
    elif kind == "torn":
        del octets[at:]
    elif kind == "insert":
        octets[at:at] = chance.randbytes(length)
    elif kind == "misplaced":
        source = chance.choice(segments(directory)).read_bytes()
        begin = chance.randrange(len(source) + 1)
        octets[at : at + length] = source[begin : begin + length]
    else:
        path.unlink()
        return
    path.write_bytes(octets)


@contextmanager
def used(sizes: Sequence[int], settled: int) -> Iterator[Path]:
    """A spool to which payloads of SIZES were appended, and SETTLED of them have settled."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with closing(Opened(directory)) as opened:
            opened.append(*sizes[: len(sizes) // 2])
            opened.read(most=settled)
        with closing(Opened(directory)) as opened:
            opened.append(*sizes[len(sizes) // 2 :], first=len(sizes) // 2)
        yield directory


sizes = st.lists(st.one_of(st.integers(0, 60), st.integers(0, 3000)), min_size=1, max_size=50)


@deterministic
@given(
    sizes=sizes, settled=st.integers(0, 40), seed=st.integers(0, 1 << 32), times=st.integers(1, 4)
)
def test_damage_is_counted_exactly(sizes: list[int], settled: int, seed: int, times: int) -> None:
    """Damaged anywhere, a spool gives whole payloads in order, and counts each that it does not."""
    settled = min(settled, len(sizes) // 2)
    chance = random.Random(seed)  # noqa: S311 - damage, not secrets
    with used(sizes, settled) as directory:
        for _ in range(times):
            if segments(directory):
                damage(directory, chance)
        with closing(Opened(directory)) as opened:
            unsettled = list(range(settled, len(sizes)))
            assert opened.amount("recovered") == total(unsettled)
            found = opened.read()
            assert found == sorted(set(found) & set(unsettled))
            missing = sorted(set(unsettled) - set(found))
            assert opened.amount("lost") == total(missing)
            assert opened.amount("spooled") == Booked()
            opened.spool.sync()
            assert segments(directory) == []


@deterministic
@given(sizes=sizes, where=st.integers(0, 1 << 32), kind=st.sampled_from(("flip", "cut", "insert")))
@example(sizes=[10, 20], where=0, kind="flip")
def test_one_damaged_payload_costs_itself(sizes: list[int], where: int, kind: str) -> None:
    """A bit that is flipped costs one payload, also in a header; so does a byte that is gone."""
    with used(sizes, 0) as directory:
        paths = segments(directory)
        path = paths[where % len(paths)]
        octets = bytearray(path.read_bytes())
        at = where // len(paths) % len(octets)
        if kind == "flip":
            octets[at] ^= 1 << where % 8
        elif kind == "cut":
            del octets[at]
        else:
            octets.insert(at, where % 256)
        path.write_bytes(octets)
        with closing(Opened(directory)) as opened:
            found = opened.read()
            missing = sorted(set(range(len(sizes))) - set(found))
            assert len(missing) == 1 or (not missing and kind == "insert")
            assert opened.account.values()["lost_spool_corrupt"] == total(missing).records


def frames(path: Path) -> Iterator[tuple[int, int]]:
    """Where each frame of a sound segment begins and ends."""
    octets, at = path.read_bytes(), 0
    while at < len(octets):
        end = at + _HEADER + int.from_bytes(octets[at + 4 : at + 8], "little")
        yield at, end
        at = end


@deterministic
@given(
    sizes=st.lists(st.integers(0, 900), min_size=10, max_size=80),
    source=st.sampled_from(("same segment", "same spool", "other spool")),
    places=st.tuples(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.integers(0, 1 << 32)),
    block=st.sampled_from((512, 4096)),
)
def test_block_in_the_place_of_another(
    sizes: list[int], source: str, places: tuple[int, int, int], block: int
) -> None:
    """A block that a disk has put into the wrong place costs what it lies on, and nothing else."""
    with used(sizes, 0) as directory, used([*reversed(sizes), *sizes], len(sizes)) as other:
        paths = segments(directory)
        target = paths[places[0] % len(paths)]
        donors = {"same segment": [target], "same spool": paths, "other spool": segments(other)}
        donor = donors[source][places[1] % len(donors[source])].read_bytes()
        octets = bytearray(target.read_bytes())
        at = places[1] % len(octets) // block * block
        begin = places[2] % len(donor) // block * block
        there = donor[begin : begin + len(octets[at : at + block])]
        end = at + len(there)
        number, hit = 0, set()
        for path in paths:
            for first, last in frames(path):
                if path == target and first < end and last > at:
                    hit.add(number)
                number += 1
        octets[at:end] = there
        target.write_bytes(octets)
        with closing(Opened(directory)) as opened:
            assert opened.amount("recovered") == total(range(len(sizes)))
            found = opened.read()
            missing = set(range(len(sizes))) - set(found)
            assert found == sorted(set(found))
            assert missing <= hit
            assert opened.amount("lost") == total(sorted(missing))
            assert opened.amount("spooled") == Booked()


def test_segment_of_another_spool(tmp_path: Path) -> None:
    """A file of another spool among ours is told, left alone, and changes no account."""
    with used([100] * 50, 0) as other, closing(Opened(tmp_path / "sink")) as opened:
        opened.append(*[200] * 50)
        opened.close()
        strange = segments(other)[1]
        copied = tmp_path / "sink" / strange.name
        copied.write_bytes(strange.read_bytes())
        with closing(Opened(tmp_path / "sink")) as again:
            assert again.amount("recovered") == total(range(50))
            assert again.read() == list(range(50))
            assert "are 1 segments of another spool: they stay as they are." in again.said[0]
        assert copied.exists()


def test_spool_of_an_older_version(tmp_path: Path) -> None:
    """Segments that do not say of which spool they are stay, and one sentence says so."""
    (tmp_path / "00000000000000000000-0-0.segment").write_bytes(b"\xffVT1")
    with pytest.raises(RunError, match="is of an older vtap-stream: have that one deliver it"):
        Opened(tmp_path)
    assert len(segments(tmp_path)) == 1


def test_nobody_elses(tmp_path: Path) -> None:
    """A directory of somebody else's, or where others may write, and links in it, are refused."""
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(RunError, match=r"Cannot spool in .*link"):
        Opened(tmp_path / "link")
    secret = tmp_path / "secret"
    secret.touch()
    (real / "position").symlink_to(secret)
    with pytest.raises(RunError, match=r"Cannot spool in .*real"):
        Opened(real)
    assert secret.read_bytes() == b""
    (real / "position").unlink()
    for owner, mode in ((0, 0o770), (0, 0o702), (1, 0o700)):
        os.chown(real, owner, 0)
        real.chmod(mode)
        with pytest.raises(RunError, match="it must belong to the user that runs"):
            Opened(real)


@deterministic
@given(sizes=sizes, settled=st.integers(0, 40), where=st.integers(0, 51))
def test_without_a_position(sizes: list[int], settled: int, where: int) -> None:
    """Where the position is damaged, all that is there comes again, and none is lost."""
    settled = min(settled, len(sizes) // 2)
    with used(sizes, settled) as directory:
        position = directory / "position"
        octets = bytearray(position.read_bytes())
        octets[where % len(octets)] ^= 1
        position.write_bytes(octets)
        with closing(Opened(directory)) as opened:
            found = opened.read()
            assert found == list(range(len(sizes) - len(found), len(sizes)))
            assert len(found) >= len(sizes) - settled
            assert opened.amount("recovered") == total(found)
            assert opened.amount("lost") == Booked()


@deterministic
@given(sizes=sizes, cut=st.integers(0, 3000))
def test_power_failure(sizes: list[int], cut: int) -> None:
    """A position older than the segments, and an unwritten end of the last, cost that end only."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with closing(Opened(directory)) as opened:
            opened.append(50, 50)
            opened.read(most=1)
            opened.spool.sync()
            older = (directory / "position").read_bytes()
            opened.append(*sizes, first=2)
            opened.read(most=1)
            kept = {path: path.read_bytes() for path in segments(directory)}
        for path, octets in kept.items():  # what was deleted since the last sync is there still
            path.write_bytes(octets)
        (directory / "position").write_bytes(older)
        last = segments(directory)[-1]
        octets = last.read_bytes()
        last.write_bytes(octets[: max(len(octets) - cut, 0)])
        with closing(Opened(directory)) as opened:
            found = opened.read()
            assert found == list(range(1, 1 + len(found)))
            lost = opened.amount("lost")
            assert opened.amount("recovered") == total(found) + lost
            assert lost in (Booked(), booked(1 + len(found)))


WRITER = """
import sys, time
from pathlib import Path
from trapstream_vtap.ledger import Account, Booked
from trapstream_vtap.spool import Spool
spool = Spool(Path(sys.argv[1]), 1 << 30, lambda sentence: None)
spool.begin(Account())
for number in range(int(sys.argv[2]), 1 << 30):
    spool.append(b"%d" % number + bytes(number % 9000), Booked(1, 2), time.time_ns())
    print(number, flush=True)
    if number % 4 == 3 and (frame := spool.read()):
        spool.settle(frame)
"""


def test_sigkill(directory: Path) -> None:
    """Killed at any moment, a writer loses nothing of what it had appended.

    What it was just appending is there, or is not, or is cut off and booked as lost; so is what an
    earlier one was appending, as long as its segment is there.
    """
    first = earlier = 0
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(directory), str(first)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            for line in writer.stdout:
                if int(line) > first + 200:
                    writer.send_signal(signal.SIGKILL)
                    break
            rest = writer.stdout.read().splitlines()
        said = int([line, *rest][-1])
        opened = Opened(directory, 1 << 30)
        with closing(opened):
            recovered = opened.amount("recovered").records
            numbers = []
            while frame := opened.spool.read():
                number = int(frame.data.rstrip(b"\0"))
                assert frame.data == b"%d" % number + bytes(number % 9000)
                numbers.append(number)
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            cut = opened.amount("lost").records
            assert recovered == len(numbers) + cut
            now = [(numbers[-1], cut - old) for old in range(earlier + 1)]
            assert {*now} & {(said, 0), (said + 1, 0), (said, 1)}
        first, earlier = numbers[-1] + 1, cut


def test_full_disk(tmp_path: Path) -> None:
    """On a full disk a payload is stored whole or not at all, and what is stored is sound."""
    with Disk(tmp_path, 1 << 18) as disk, closing(Opened(tmp_path / "sink", 1 << 20)) as opened:
        opened.append(*[3000] * 20)
        disk.fill()
        refused = 0
        for number in range(20, 40):
            try:
                opened.append(3000, first=number)
            except OSError:
                refused += 1
        assert refused >= 19
        there = sum(path.stat().st_size for path in segments(tmp_path / "sink"))
        assert there == opened.spool.bytes
        assert opened.amount("spooled") == total(range(40 - refused))
        disk.make_room()
        opened.append(*[3000] * 20, first=40)
        assert opened.read() == [*range(40 - refused), *range(40, 60)]
        assert opened.amount("lost") == Booked()
