# SPDX-License-Identifier: Apache-2.0
"""A payload: bytes that are sent as a whole, and what is booked of them."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from trapstream_vtap.ledger import NOTHING, Booked

if TYPE_CHECKING:
    from collections.abc import Collection

_MARK = b"\xffVTW"  # no text in UTF-8 holds it
_WEIGHTS = struct.Struct("=4sI")  # the mark, and how many weights follow


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes that are sent as a whole, what they hold, and since when (CLOCK_MONOTONIC, s).

    Args:
        data: The bytes.
        booked: What is booked of them.
        born: When they were made.
        weights: Packets of each record (64-bit integers), as the renderer says; None: not known.
    """

    data: bytes
    booked: Booked = NOTHING
    born: float = field(default_factory=time.monotonic)
    weights: memoryview | None = None

    def part(self, numbers: Collection[int]) -> Booked:
        """What is booked of the records with these NUMBERS, from 0; all, if that is not known."""
        if self.weights is None or self.booked == NOTHING:
            return self.booked
        return Booked(len(numbers), sum(self.weights[number] for number in numbers))

    def packed(self) -> bytes:
        """Data and weights in one, for the spool."""
        if self.weights is None:
            return self.data
        return _WEIGHTS.pack(_MARK, len(self.weights)) + self.weights.tobytes() + self.data

    @classmethod
    def unpacked(cls, octets: bytes, booked: Booked, born: float) -> Self:
        """From what `packed` made."""
        if not octets.startswith(_MARK):
            return cls(octets, booked, born)
        _, count = _WEIGHTS.unpack_from(octets)
        end = _WEIGHTS.size + 8 * count
        weights = memoryview(octets[_WEIGHTS.size : end]).cast("Q")
        return cls(octets[end:], booked, born, weights)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a collector will never take, and says so: all of a payload, or a part of it.

    Args:
        booked: What it refused.
        why: Its reason, for a person.
        octets: How many bytes of payload that is.
    """

    booked: Booked
    why: str
    octets: int
