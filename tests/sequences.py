# SPDX-License-Identifier: Apache-2.0
"""What sequence numbers say, by the words of docs/sequence.md, in plain Python; sets, no tricks."""

from __future__ import annotations

from dataclasses import dataclass, field

MASK = (1 << 32) - 1
NEAR = 32  # so many of the highest numbers are known one by one


def signed(number: int) -> int:
    """The distance that a difference of 32 bits stands for (RFC 1982)."""
    return (number + (1 << 31) & MASK) - (1 << 31)


@dataclass(frozen=True)
class Error:
    """A sequence error, as its event says it."""

    kind: str
    expected: int
    received: int
    distance: int


@dataclass
class Numbers:
    """A flow whose packets count one each."""

    threshold: int
    last: int | None = None
    highest: int = 0  # not cut to 32 bits, so that order is that of integers
    seen: set[int] = field(default_factory=set)
    missing: int = 0
    received: int = 0

    def take(self, number: int) -> Error | None:
        """One packet."""
        self.received += 1
        before, self.last = self.last, number
        if before is None:
            self.highest = number + (1 << 40)
            self.seen = set(range(self.highest - NEAR + 1, self.highest + 1))
            return None
        self._account(number)
        distance = signed(number - before)
        if distance == 1:
            return None
        kind = (
            "duplicate"
            if distance == 0
            else "reverse"
            if distance < 0
            else "small"
            if distance <= self.threshold
            else "big"
        )
        return Error(kind, before + 1 & MASK, number, distance)

    def _account(self, number: int) -> None:
        place = self.highest + signed(number - self.highest)
        if place > self.highest:
            self.missing += place - self.highest - 1
            self.highest = place
            self.seen.add(place)
        elif place > self.highest - NEAR:
            self.missing -= place not in self.seen
            self.seen.add(place)
        elif self.missing > 0:
            self.missing -= 1


@dataclass
class Stream:
    """A TCP stream: which bytes have been seen, one by one."""

    threshold: int
    next: int | None = None  # not cut to 32 bits
    absent: set[int] = field(default_factory=set)
    received: int = 0

    @property
    def last(self) -> int | None:
        """The next expected number."""
        return None if self.next is None else self.next & MASK

    @property
    def missing(self) -> int:
        """Bytes never seen."""
        return len(self.absent)

    def take(self, sequence: int, length: int, marks: int = 0) -> Error | None:
        """A segment that takes LENGTH numbers, MARKS of them for SYN and FIN; SYN only at first."""
        self.received += 1
        if self.next is None:
            self.next = (1 << 40) + sequence + length
            return None
        expected = self.next
        distance = signed(sequence - expected)
        start = expected + distance
        self.next = max(expected, start + length)
        if distance > 0:
            self.absent |= set(range(expected, start))
            return Error("hole", expected & MASK, sequence, distance)
        if distance == 0 or not length or (length == 1 and distance == -1 and not marks):
            return None
        filled = self.absent & set(range(start, start + length))
        self.absent -= filled
        kind = "out_of_order" if filled else "retransmission"
        return Error(kind, expected & MASK, sequence, distance)
