# SPDX-License-Identifier: Apache-2.0
"""What sequence numbers say, by the words of docs/sequence.md, in plain Python; sets, no tricks."""

from __future__ import annotations

from dataclasses import dataclass, field

MASK = (1 << 32) - 1
LONGEST_DATAGRAM = 65535
NEAR = 32  # so many of the highest numbers are known one by one
FARTHEST = 1 << 30  # what is farther off belongs to another sequence


def signed(number: int, bits: int = 32) -> int:
    """The distance that a difference of so many BITS stands for (RFC 1982)."""
    half = 1 << bits - 1
    return (number + half & 2 * half - 1) - half


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
    bits: int = 32
    last: int | None = None
    first: int = 0  # neither is cut to so many bits, so that order is that of integers
    highest: int = 0
    seen: set[int] = field(default_factory=set)
    missing: int = 0
    received: int = 0
    restarts: int = 0
    expected_before: int = 0  # the numbers began anew

    @property
    def expected(self) -> int:
        """How many numbers there are from the first to the highest."""
        return self.expected_before + (self.highest - self.first + 1 if self.received else 0)

    def take(self, number: int) -> Error | None:
        """One packet."""
        self.received += 1
        before, self.last = self.last, number
        if before is None:
            self._begin(number)
            return None
        distance = signed(number - before, self.bits)
        if abs(distance) > FARTHEST:
            self.restarts += 1
            self.expected_before += self.highest - self.first + 1
            self._begin(number)
        else:
            self._account(number)
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
        return Error(kind, before + 1 & (1 << self.bits) - 1, number, distance)

    def _begin(self, number: int) -> None:
        self.first = self.highest = number + (1 << 80)
        self.seen = set(range(self.highest - NEAR + 1, self.highest + 1))

    def _account(self, number: int) -> None:
        place = self.highest + signed(number - self.highest, min(self.bits, 32))
        if place > self.highest:
            self.missing += place - self.highest - 1
            self.highest = place
            self.seen.add(place)
        elif place > self.highest - NEAR:
            self.missing -= place not in self.seen
            self.seen.add(place)
        elif self.missing > 0 and signed(number - self.first, self.bits) >= 0:
            self.missing -= 1


@dataclass
class Stream:
    """A TCP stream: which bytes have been seen, one by one."""

    threshold: int
    next: int | None = None  # not cut to 32 bits
    first: int = 0
    initial: int = 0  # number of the SYN
    syn_seen: bool = False
    alone: bool = False  # the last byte came by itself
    open: bool = False  # the end of the last segment is in a later IP fragment
    absent: set[int] = field(default_factory=set)
    holes: set[int] = field(default_factory=set)  # where they begin
    marks: set[int] = field(default_factory=set)  # numbers of SYN and FIN, which are no bytes
    earlier: int = 0  # bytes missing of connections before
    expected_before: int = 0  # likewise
    received: int = 0
    restarts: int = 0

    @property
    def last(self) -> int | None:
        """The next expected number."""
        return None if self.next is None else self.next & MASK

    @property
    def missing(self) -> int:
        """Bytes never seen."""
        return len(self.absent) + self.earlier

    @property
    def expected(self) -> int:
        """How many bytes there are from the first to the next."""
        return self.expected_before + (self.next or 0) - self.first - len(self.marks)

    def _begin(self, sequence: int, length: int, marks: int, *, syn: bool, fragment: bool) -> None:
        self.earlier += len(self.absent)
        self.expected_before = self.expected
        self.absent, self.holes, self.marks = set(), set(), set()
        self.first = (1 << 40) + sequence
        self.next = self.first + length
        self._mark(self.first, self.next, marks, syn=syn)
        self.initial, self.syn_seen = sequence if syn else sequence - 1 & MASK, syn
        self.open, self.alone = fragment, length == 1 and not marks and not fragment

    def take(
        self,
        sequence: int,
        length: int,
        marks: int = 0,
        *,
        syn: bool = False,
        fragment: bool = False,
    ) -> Error | None:
        """A segment that takes LENGTH numbers, MARKS of them for SYN and FIN."""
        self.received += 1
        known = syn and self.next is not None and sequence == self.initial
        far = not known and self._is_far(sequence, length)
        if self.next is None or (syn and not known) or far:
            self.restarts += far and not syn
            self._begin(sequence, length, marks, syn=syn, fragment=fragment)
            return None
        expected = self.next
        distance = signed(sequence - expected)
        start, end = expected + distance, expected + distance + length
        late, self.syn_seen = known and not self.syn_seen, self.syn_seen or known
        if distance >= 0 if known else self._is_nothing(distance, length, marks):
            return None
        if not known and self._is_next(distance, length):
            distance = 0
        self._mark(start, end, marks, syn=syn)
        self._move(end, length, marks, distance, fragment=fragment)
        kind = ""
        if distance > 0:
            kind = "hole"
            self.holes.add(expected)
            self.absent |= set(range(expected, start))
        elif distance < 0:
            filled = self.absent & set(range(start, end))
            if fragment:
                filled = self._rest_of_hole(start)
            self.absent -= filled
            kind = "out_of_order" if filled or late else "retransmission"
        return Error(kind, expected & MASK, sequence, distance) if kind else None

    def _is_far(self, sequence: int, length: int) -> bool:
        """Whether it belongs to another stream."""
        if self.next is None:
            return False
        distance = signed(sequence - self.next)
        return distance > FARTHEST or (distance < -FARTHEST and length > 0)

    def _is_nothing(self, distance: int, length: int, marks: int) -> bool:
        """Whether it is an acknowledgement, a keep-alive, or a probe once more."""
        return distance < 0 and (not length or (length == 1 and distance == -1 and not marks))

    def _is_next(self, distance: int, length: int) -> bool:
        """Whether it follows, behind a zero-window probe, or a fragment."""
        behind_fragment = self.open and 0 < distance <= LONGEST_DATAGRAM
        return behind_fragment or (distance == -1 and self.alone and length > 1)

    def _mark(self, start: int, end: int, marks: int, *, syn: bool) -> None:
        if syn and start >= self.first:
            self.marks.add(start)
        if marks > syn and end > self.first:
            self.marks.add(end - 1)

    def _move(self, end: int, length: int, marks: int, distance: int, *, fragment: bool) -> None:
        if end < (self.next or 0) or (end == self.next and not fragment):
            return
        self.next = end
        self.open = fragment
        self.alone = not distance and length == 1 and not marks and not fragment

    def _rest_of_hole(self, start: int) -> set[int]:
        """Behind START, as far as one datagram can reach."""
        end = start
        while end in self.absent and end < start + LONGEST_DATAGRAM:
            if end > start and end in self.holes:
                break
            end += 1
        return set(range(start, end))
