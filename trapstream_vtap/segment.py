# SPDX-License-Identifier: Apache-2.0
"""A segment of the spool: an append-only file of payloads, each behind a header with checksums.

Every header says how much was spooled ahead of it since the spool was made, and so does the
segment's name of its first: what is missing between two of them is a subtraction.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trapstream_vtap.ledger import Held

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"\xffVT1"  # no text in UTF-8 holds it
_FRAME = struct.Struct("<4sI6QI")  # magic, length, Totals ahead, held, born, CRC of payload
_CRC = struct.Struct("<I")
HEADER = _FRAME.size + _CRC.size
"""Bytes ahead of each payload."""
_NAME = re.compile(r"(\d{20})-(\d+)-(\d+)\.segment")


class Totals(NamedTuple):
    """How much, since the spool was made: payloads, and the records and packets in them."""

    payloads: int = 0
    records: int = 0
    packets: int = 0

    def plus(self, held: Held) -> Totals:
        """With one payload more."""
        return Totals(self.payloads + 1, self.records + held.records, self.packets + held.packets)

    def since(self, earlier: Totals) -> Held:
        """What came after EARLIER."""
        return Held(self.records - earlier.records, self.packets - earlier.packets)


@dataclass(frozen=True, slots=True)
class Frame:
    """A spooled payload: where in the spool it is, what it holds, when it was born (ns, UTC)."""

    before: Totals
    held: Held
    born: int
    data: bytes = b""

    @property
    def after(self) -> Totals:
        """The totals with it."""
        return self.before.plus(self.held)


@dataclass(slots=True)
class Header:
    """What a header says: of its payload, its length and CRC-32 beside what it holds."""

    frame: Frame
    length: int
    check: int

    @classmethod
    def parse(cls, octets: bytes) -> Header | None:
        """What OCTETS say, if they are an undamaged header."""
        if len(octets) < HEADER or not octets.startswith(_MAGIC):
            return None
        head = octets[: _FRAME.size]
        if _CRC.unpack_from(octets, _FRAME.size) != (zlib.crc32(head),):
            return None
        _, length, payloads, records, packets, inside, of_packets, born, check = _FRAME.unpack(head)
        before, held = Totals(payloads, records, packets), Held(inside, of_packets)
        return cls(Frame(before, held, born), length, check)


def _packed(frame: Frame) -> bytes:
    head = _FRAME.pack(
        _MAGIC,
        len(frame.data),
        *frame.before,
        frame.held.records,
        frame.held.packets,
        frame.born,
        zlib.crc32(frame.data),
    )
    return head + _CRC.pack(zlib.crc32(head))


class Segment:
    """A file of frames, of which the first has the totals BASE ahead of it."""

    def __init__(self, directory: Path, base: Totals) -> None:
        self.base = base
        self.path = directory / f"{base.payloads:020}-{base.records}-{base.packets}.segment"
        self.size = 0
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
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | more, 0o600)

    def append(self, frame: Frame) -> None:
        """Write FRAME behind the others, whole or not at all.

        Raises:
            OSError: There is no room, or the disk fails.
        """
        header, at = _packed(frame), self.size
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

    def header(self, offset: int) -> tuple[int, Header] | None:
        """The first undamaged header from OFFSET on, and where it is."""
        if found := Header.parse(os.pread(self.descriptor, HEADER, offset)):
            return offset, found
        rest = os.pread(self.descriptor, max(self.size - offset, 0), offset)
        at = rest.find(_MAGIC)
        while at >= 0:
            if found := Header.parse(rest[at : at + HEADER]):
                return offset + at, found
            at = rest.find(_MAGIC, at + 1)
        return None

    def payload(self, offset: int, header: Header) -> bytes | None:
        """The payload of the HEADER at OFFSET, if it is undamaged."""
        data = os.pread(self.descriptor, header.length, offset + HEADER)
        good = len(data) == header.length and zlib.crc32(data) == header.check
        return data if good else None

    def end(self) -> Totals:
        """The totals with its last frame, as far as its headers tell."""
        end, offset = self.base, 0
        while found := self.header(offset):
            at, header = found
            end = max(end, header.frame.after)
            offset = self.behind(at, header)
        return end

    def behind(self, offset: int, header: Header) -> int:
        """Where to look for what follows HEADER at OFFSET; in its payload, if that is cut."""
        end = offset + HEADER + header.length
        if end == self.size or Header.parse(os.pread(self.descriptor, HEADER, end)):
            return end
        return offset + HEADER

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def found_in(directory: Path) -> list[Segment]:
    """The segments in DIRECTORY, oldest first.

    Raises:
        OSError: It cannot be read.
    """
    segments = []
    for path in sorted(directory.glob("*.segment")):
        if match := _NAME.fullmatch(path.name):
            segment = Segment(directory, Totals(*map(int, match.groups())))
            segment.size = path.stat().st_size
            segments.append(segment)
    return segments
