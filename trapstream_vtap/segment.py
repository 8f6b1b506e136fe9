# SPDX-License-Identifier: Apache-2.0
"""A segment of the spool: an append-only file of payloads, each behind a header with checksums.

Every header says how much was spooled ahead of it since the spool was made, and so does the
segment's name of its first: what is missing between two of them is a subtraction. A header's
checksum covers which segment of which spool it is in: a block that a disk has put into the wrong
file is no header there.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trapstream_vtap.ledger import Booked

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = b"\xffVT2"  # no text in UTF-8 holds it
_FRAME = struct.Struct("<4sI6QI")  # magic, length, sums ahead, booked, born, CRC of payload
_CRC = struct.Struct("<I")
HEADER = _FRAME.size + _CRC.size
"""Bytes ahead of each payload."""
_PLACE = struct.Struct("<2Q")  # a spool, and payloads ahead of a segment
_NAME = re.compile(r"(\d{20})-(\d+)-(\d+)-([0-9a-f]{16})\.segment")
_OLD_NAME = re.compile(r"\d{20}-\d+-\d+\.segment")


class Sums(NamedTuple):
    """How much, since the spool was made: payloads, and the records and packets in them."""

    payloads: int = 0
    records: int = 0
    packets: int = 0

    def plus(self, booked: Booked) -> Sums:
        """With one payload more."""
        return Sums(self.payloads + 1, self.records + booked.records, self.packets + booked.packets)

    def since(self, earlier: Sums) -> Booked:
        """What came after EARLIER."""
        return Booked(self.records - earlier.records, self.packets - earlier.packets)


@dataclass(frozen=True, slots=True)
class Frame:
    """A spooled payload: where in the spool it is, what it holds, when it was born (ns, UTC)."""

    before: Sums
    booked: Booked
    born: int
    data: bytes = b""

    @property
    def after(self) -> Sums:
        """The totals with it."""
        return self.before.plus(self.booked)


@dataclass(slots=True)
class Header:
    """What a header says: of its payload, its length and CRC-32 beside what it holds."""

    frame: Frame
    length: int
    check: int

    @classmethod
    def parse(cls, octets: bytes, place: int) -> Header | None:
        """What OCTETS say, if they are an undamaged header of the segment with this PLACE."""
        if len(octets) < HEADER or not octets.startswith(_MAGIC):
            return None
        head = octets[: _FRAME.size]
        if _CRC.unpack_from(octets, _FRAME.size) != (zlib.crc32(head, place),):
            return None
        _, length, payloads, records, packets, inside, of_packets, born, check = _FRAME.unpack(head)
        before, booked = Sums(payloads, records, packets), Booked(inside, of_packets)
        return cls(Frame(before, booked, born), length, check)


class Found(NamedTuple):
    """What a header says, its payload if that is undamaged, and where the next header should be."""

    header: Header
    data: bytes | None
    behind: int


def _packed(frame: Frame, place: int) -> bytes:
    head = _FRAME.pack(
        _MAGIC,
        len(frame.data),
        *frame.before,
        frame.booked.records,
        frame.booked.packets,
        frame.born,
        zlib.crc32(frame.data),
    )
    return head + _CRC.pack(zlib.crc32(head, place))


class Segment:
    """A file of frames.

    Args:
        directory: A descriptor.
        base: The totals ahead of the first frame.
        spool: The number that tells the spool from all others.
    """

    def __init__(self, directory: int, base: Sums, spool: int) -> None:
        self.base = base
        self.spool = spool
        self.size = 0
        self._directory = directory
        self._name = f"{base.payloads:020}-{base.records}-{base.packets}-{spool:016x}.segment"
        self._place = zlib.crc32(_PLACE.pack(spool, base.payloads))
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """Of the file, opened when first asked for.

        Raises:
            OSError: It cannot be.
        """
        if self._descriptor < 0:
            self.open(0)
        return self._descriptor

    def open(self, more: int = os.O_CREAT) -> None:
        """Make the file, or open it.

        Raises:
            OSError: That is not possible.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | more
        self._descriptor = os.open(self._name, flags, 0o600, dir_fd=self._directory)

    def delete(self) -> None:
        """Delete the file.

        Raises:
            OSError: It cannot be.
        """
        os.unlink(self._name, dir_fd=self._directory)

    def append(self, frame: Frame) -> None:
        """Write FRAME behind the others, whole or not at all.

        Raises:
            OSError: There is no room, or the disk fails.
        """
        header, at = _packed(frame, self._place), self.size
        end = at + len(header) + len(frame.data)
        try:
            at += os.pwritev(self.descriptor, (header, frame.data), at)
            while at < end:  # a short write is the last before an error says why
                at += os.pwrite(self.descriptor, frame.data[at - end :], at)
        except OSError:
            with contextlib.suppress(OSError):  # the next frame is written over it anyway
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size = end

    def first(self) -> Header | None:
        """The header of the first frame, if it is undamaged."""
        return self._header(0)

    def find(self, offset: int, totals: Sums) -> Found | None:
        """The frame behind TOTALS, which should be at OFFSET, or else the next that is there.

        Frames are in order, unless a disk has put a block of the segment to the wrong place in it.
        """
        here = self._header(offset)
        if here and here.frame.before == totals:
            data = self._payload(offset, here)
            if data is not None:
                return Found(here, data, self._behind(offset, here))
        headers = [each for each in self._headers() if each[1].frame.before >= totals]
        first = min((header.frame.before for _, header in headers), default=None)
        found = [
            Found(header, self._payload(at, header), self._behind(at, header))
            for at, header in headers
            if header.frame.before == first
        ]
        return max(found, key=lambda each: each.data is not None, default=None)

    def _header(self, offset: int) -> Header | None:
        return Header.parse(os.pread(self.descriptor, HEADER, offset), self._place)

    def _headers(self) -> Iterator[tuple[int, Header]]:
        """All undamaged headers, and where they are."""
        octets = os.pread(self.descriptor, self.size, 0)
        at = octets.find(_MAGIC)
        while at >= 0:
            if found := Header.parse(octets[at : at + HEADER], self._place):
                yield at, found
            at = octets.find(_MAGIC, at + 1)

    def _payload(self, offset: int, header: Header) -> bytes | None:
        """The payload of the HEADER at OFFSET, if it is undamaged."""
        data = os.pread(self.descriptor, header.length, offset + HEADER)
        good = len(data) == header.length and zlib.crc32(data) == header.check
        return data if good else None

    def end(self) -> Sums:
        """The totals with its last frame, as far as its headers tell."""
        return max((header.frame.after for _, header in self._headers()), default=self.base)

    def _behind(self, offset: int, header: Header) -> int:
        """Where to look for what follows HEADER at OFFSET; in its payload, if that is cut."""
        end = offset + HEADER + header.length
        if end == self.size or self._header(end):
            return end
        return offset + HEADER

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def found_in(directory: int) -> list[Segment]:
    """The segments in DIRECTORY, a descriptor, oldest first; of whichever spools.

    Raises:
        OSError: It cannot be read.
    """
    segments = []
    for name in sorted(os.listdir(directory)):
        if match := _NAME.fullmatch(name):
            segment = Segment(directory, Sums(*map(int, match.groups()[:3])), int(match[4], 16))
            segment.size = os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
            segments.append(segment)
    return segments


def is_of_older_version(directory: int) -> bool:
    """Whether DIRECTORY, a descriptor, has segments whose headers do not say where they belong.

    Raises:
        OSError: It cannot be read.
    """
    return any(_OLD_NAME.fullmatch(name) for name in os.listdir(directory))
