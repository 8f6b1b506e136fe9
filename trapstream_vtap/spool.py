# SPDX-License-Identifier: Apache-2.0
"""The spool: payloads on disk, first in, first out, of which no loss goes uncounted.

A directory of append-only segments (`segment.py`), and the file `position`, which says how far
everything has settled, and has been appended. Wherever bytes are damaged or gone, the next good
header tells exactly what was lost.

What survives: after a SIGKILL all of it; after a power failure what was there at the last `sync`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from trapstream_vtap.errors import RunError, worth_saying
from trapstream_vtap.ledger import NOTHING, Account, Booked
from trapstream_vtap.segment import HEADER, Frame, Segment, Sums, found_in
from trapstream_vtap.spool_files import Position, SpoolFiles
from trapstream_vtap.words import amount, are

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_LONGEST_SEGMENT = 4 << 20  # bytes
_UNREADABLE = (errno.EIO, errno.EBADMSG, errno.ENOENT)  # the disk's last word
_SEGMENTS = 16  # of the spool's size, one is dropped at a time


def directory_name(name: str) -> str:
    """A directory's name that is safe, can be read, and is no other NAME's."""
    safe = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:80]
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _number(segments: Sequence[Segment], position: Position | None) -> int:
    """That of the spool of which SEGMENTS and POSITION are left; something may be misplaced."""
    counts = Counter(segment.spool for segment in segments)
    if position and (position.number in counts or not counts):
        return position.number
    return (
        max(counts, key=lambda number: counts[number])
        if counts
        else int.from_bytes(os.urandom(8), "little")
    )


class Spool:
    """Payloads on disk for one sink; thread-safe.

    Args:
        directory: For this sink and this process alone; made where it is not there.
        size: Most bytes on disk.
        report: Takes a sentence for the person at the terminal.

    Raises:
        RunError: Another process has it, or it cannot be written to.
    """

    def __init__(self, directory: Path, size: int, report: Callable[[str], None]) -> None:
        self.directory = directory
        self._size = size
        self._report = report
        self._lock = threading.Lock()
        self._account = Account()
        self._segments: deque[Segment] = deque()
        self._active: Segment | None = None  # the last, if it takes more
        self._reading: Segment | None = None
        self._offset = 0  # in the segment that is read
        self._cursor = Sums()  # up to here everything was read, or is lost
        self._end = Sums()
        self._in_flight: deque[Frame] = deque()  # read and not settled, without their data
        self._given_back = False  # what is in flight is here alone
        self._born = 0  # when the oldest was
        self._rotated: list[int] = []  # descriptors that are to be synced once more
        self._done: list[Segment] = []  # to be deleted once the disk has the position
        self._unsynced = False
        self._damages = self._drops = 0
        self.bytes = 0
        """On disk, headers included."""
        self._number = 0  # that tells this spool from all others
        self._files = SpoolFiles(directory)

    def begin(self, account: Account) -> None:
        """Find what an earlier run has left, and book everything in ACCOUNT from now on.

        Raises:
            RunError: It cannot be read.
        """
        with self._lock:
            self._account = account
            try:
                found = self._begin()
            except OSError as error:
                raise RunError(f"Cannot read the spool in {self.directory} ({error}).") from error
        if found != NOTHING:
            records = amount(found.records, "record")
            self._report(f"In the spool there {are(found.records)} {records} of an earlier run.")

    def _begin(self) -> Booked:
        """What an earlier run has left."""
        there, position = found_in(self._files.directory), self._files.read_position()
        self._number = _number(there, position)
        self._segments.extend(segment for segment in there if segment.spool == self._number)
        if strangers := len(there) - len(self._segments):
            self._report(
                f"In the spool {self.directory} are {strangers} segments of another spool: they "
                "stay as they are."
            )
        self.bytes = sum(segment.size for segment in self._segments)
        first = self._segments[0].base if self._segments else Sums()
        settled = appended = first
        if position and position.number == self._number:
            settled, appended = position.settled, position.appended
        last = self._segments[-1].end() if self._segments else first
        self._cursor, self._end = settled, max(settled, appended, last)
        if self._segments and self._segments[-1].base == self._end:
            self._done.append(self._segments.pop())  # begun, and nothing is in it
        found = self._end.since(settled)
        self._account.recovered(found)
        self._account.spooled(found)
        self._settle()
        self._files.sync_position()
        self._delete(self._done)
        self._born = self._oldest()
        return found

    @property
    def readable(self) -> bool:
        """Whether something is left to read."""
        return self._cursor < self._end

    @property
    def empty(self) -> bool:
        """Whether nothing is left to read, nor waits to settle."""
        return not self.readable and not self._in_flight

    @property
    def age(self) -> int:
        """Of the oldest payload, in ns."""
        return 0 if self.empty else max(time.time_ns() - self._born, 0)

    def append(self, data: bytes, booked: Booked, born: int) -> None:
        """Store a payload that was BORN then (ns since the epoch); the oldest may have to go.

        Raises:
            OSError: There is no room on the disk, or it fails. Nothing of it is in the spool.
        """
        octets = HEADER + len(data)
        if octets > self._size:
            raise OSError(0, "a payload is larger than --spool-size")
        with self._lock:
            while self.bytes + octets > self._size:
                if not self._done:
                    self._drop_oldest()
                self._files.sync_position()
                self._delete(self._done)
            if self.empty:
                self._born = born
            frame = Frame(self._end, booked, born, data)
            self._segment(octets).append(frame)
            self._end = frame.after
            self.bytes += octets
            self._account.spooled(booked)
            self._write_position()

    def read(self) -> Frame | None:
        """The oldest payload that was not read yet, in flight from now on; None: all were read.

        Those that are damaged are booked as lost.

        Raises:
            OSError: It cannot be read now, but perhaps later.
        """
        with self._lock:
            while self._cursor < self._end:
                try:
                    frame = self._read()
                except OSError as error:
                    if error.errno not in _UNREADABLE:
                        raise
                    frame = None
                    self._damaged(self._end_of(self._reading))
                if frame:
                    return frame
            self._settle()
            return None

    def settle(self, frame: Frame) -> bool:
        """FRAME, the oldest in flight, has found its end; whether it was in the spool still."""
        with self._lock:
            if not self._holds(frame):
                return False
            self._in_flight.popleft()
            self._account.unspooled(frame.booked)
            self._settle()
            return True

    def holds(self, frame: Frame) -> bool:
        """Whether FRAME, in flight, is in the spool still: room may have been made meanwhile."""
        with self._lock:
            return self._holds(frame)

    def give_back(self) -> None:
        """Nobody has what is in flight any more; it is still in the spool."""
        with self._lock:
            self._given_back = True

    def sync(self) -> None:
        """Have the disk write down what was appended and settled since the last call.

        Raises:
            OSError: It cannot.
        """
        with self._lock:
            if not self._unsynced:
                return
            descriptors, self._rotated = self._rotated, []
            if self._active:
                descriptors.append(os.dup(self._active.descriptor))
            descriptors.append(os.dup(self._files.position))
            descriptors.append(os.dup(self._files.directory))
            done = list(self._done)
            self._unsynced = False
        try:
            for descriptor in descriptors:
                os.fdatasync(descriptor)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with self._lock:
            self._delete([segment for segment in done if segment in self._done])

    def close(self) -> None:
        """Write everything down, and let go of the directory."""
        if self._files.closed:
            return
        with contextlib.suppress(OSError):
            self.sync()
        with self._lock:
            for segment in self._segments:
                segment.close()
            self._files.close()

    def _segment(self, octets: int) -> Segment:
        """The one that takes OCTETS bytes more."""
        limit = min(_LONGEST_SEGMENT, self._size // _SEGMENTS)
        if self._active and (not self._active.size or self._active.size + octets <= limit):
            return self._active
        segment = Segment(self._files.directory, self._end, self._number)
        segment.open()
        if self._active:
            self._rotated.append(os.dup(self._active.descriptor))
        self._segments.append(segment)
        self._active = segment
        return segment

    def _read(self) -> Frame | None:
        """The next payload; None: there was none where it should be, and the cursor is behind."""
        segment = None
        for candidate in self._segments:
            if candidate.base > self._cursor:
                break
            segment = candidate
        if segment is not self._reading:
            self._reading, self._offset = segment, 0
        end = self._end_of(segment)
        if segment and (found := segment.find(self._offset, self._cursor)):
            frame, data, self._offset = found.header.frame, found.data, found.behind
            if frame.before > self._cursor:
                self._damaged(frame.before)
            if data is None:
                self._damaged(frame.after)
                return None
            if not self._in_flight:
                self._born = frame.born
            self._in_flight.append(frame)
            self._cursor = frame.after
            return Frame(frame.before, frame.booked, frame.born, data)
        self._damaged(end)
        return None

    def _end_of(self, segment: Segment | None) -> Sums:
        """The totals behind SEGMENT; None is what is missing ahead of the first."""
        found = segment is None
        for candidate in self._segments:
            if found:
                return candidate.base
            found = candidate is segment
        return self._end

    def _damaged(self, upto: Sums) -> None:
        """What is between the cursor and UPTO cannot be read."""
        booked = self._skip("spool_corrupt", upto)
        self._damages += 1
        if worth_saying(self._damages):
            records = f"{amount(booked.records, 'record')} {are(booked.records)}"
            self._report(f"Spool {self.directory} is damaged: {records} lost.")

    def _skip(self, reason: str, upto: Sums) -> Booked:
        """What is between the cursor and UPTO is lost."""
        booked = upto.since(self._cursor)
        self._account.unspooled(booked)
        self._account.lost(reason, booked)
        self._cursor = upto
        return booked

    def _drop_oldest(self) -> None:
        """Make room; what is in flight is from now on in memory only."""
        segment = self._segments[0]
        end = self._end_of(segment)
        while self._in_flight and self._in_flight[0].before < end:
            booked = self._in_flight.popleft().booked
            self._account.unspooled(booked)
            if self._given_back:
                self._account.lost("spool_full", booked)
        if self._cursor < end:
            self._skip("spool_full", end)
        self._settle()
        self._born = self._oldest()
        self._drops += 1
        if worth_saying(self._drops):
            self._report(f"Spool {self.directory} is full: the oldest records are dropped.")

    def _oldest(self) -> int:
        """When the oldest payload was born."""
        if self._in_flight:
            return self._in_flight[0].born
        with contextlib.suppress(OSError):
            if self._segments and (found := self._segments[0].first()):
                return found.frame.born
        return time.time_ns()

    def _holds(self, frame: Frame) -> bool:
        return bool(self._in_flight) and self._in_flight[0].before <= frame.before

    def _settle(self) -> None:
        """Remember how far everything has settled; what nobody needs any more can go."""
        settled = self._settled()
        if self._in_flight:
            self._born = self._in_flight[0].born
        self._write_position()
        while self._segments and self._end_of(self._segments[0]) <= settled:
            segment = self._segments.popleft()
            segment.close()
            self._done.append(segment)
            if segment is self._active:
                self._active = None

    def _settled(self) -> Sums:
        return self._in_flight[0].before if self._in_flight else self._cursor

    def _delete(self, segments: Sequence[Segment]) -> None:
        """Delete SEGMENTS, of those that are done."""
        for segment in tuple(segments):
            self._done.remove(segment)
            self.bytes -= segment.size
            with contextlib.suppress(OSError):
                segment.delete()

    def _write_position(self) -> None:
        self._unsynced = True
        with contextlib.suppress(OSError):  # then more is sent again after a crash, none is lost
            self._files.write_position(Position(self._number, self._settled(), self._end))
