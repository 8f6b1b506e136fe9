# SPDX-License-Identifier: Apache-2.0
"""Round-trip times of TCP by the rule of docs/rtt.md, packet by packet, in plain Python.

One probe at a time in each direction; what is sent again makes it invalid (Karn); an
acknowledgement of exactly its end is a sample, one of more is stretched. What is seen first of a
direction, unless it is a SYN, may have been sent before, and is no probe; an acknowledgement
without data says what has not. A packet that is seen leaving and arriving (loopback) is two.

See: Karn and Partridge, Improving Round-Trip Time Estimates in Reliable Transport Protocols
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sequences import MASK, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MS = 10**6  # ns
FARTHEST = 1 << 30
"""A number farther off belongs to something else."""


class End(NamedTuple):
    """Who sends or receives."""

    address: str
    port: int


@dataclass(frozen=True)
class Segment:
    """A TCP segment at the tap, at a time in ns; LEAVES: it goes out there."""

    time: int
    source: End
    target: End
    sequence: int
    acknowledges: int | None
    length: int
    syn: bool = False
    fin: bool = False
    rst: bool = False
    leaves: bool = True
    stamps: tuple[int, int] | None = None
    """TCP's timestamp, and the one that it echoes."""

    @property
    def numbers(self) -> int:
        """How many sequence numbers it takes."""
        return self.length + self.syn + self.fin


@dataclass(frozen=True)
class Sample:
    """A round trip: of what SOURCE sent to TARGET, answered at TIME; both times in ns."""

    source: End
    target: End
    time: int
    rtt: int
    number: int
    """What was acknowledged."""
    handshake: bool
    side: str


@dataclass
class _Half:
    """One direction of a connection as seen going one way; numbers go on beyond 32 bits."""

    highest: int | None = None
    initial: int | None = None
    probe: tuple[int, Segment] | None = None
    seen: bool = False


def side_of(asked: bool, answered: bool) -> str:  # noqa: FBT001 - whether each leaves
    """From which side of the tap the answer came; `local` is what came in and was answered here."""
    return "local" if not asked and answered else "remote"


@dataclass
class RoundTrips:
    """What is found in segments, which are taken in their order."""

    samples: list[Sample] = field(default_factory=list)
    set: Counter[End] = field(default_factory=Counter)
    invalidated: Counter[tuple[End, End, str]] = field(default_factory=Counter)
    stretched: Counter[tuple[End, End, str]] = field(default_factory=Counter)
    _halves: dict[tuple[End, End, bool], _Half] = field(default_factory=dict)

    def take(self, segments: Iterable[Segment]) -> RoundTrips:
        """All of them, one after the other."""
        for segment in segments:
            self._take(segment)
        return self

    _answers_leave: bool = False  # those to what the segment at hand drops

    def left(self) -> Counter[str]:
        """Of probes that are out still: whether they wait, or nobody could have answered."""
        found: Counter[str] = Counter()
        for (source, target, leaves), half in self._halves.items():
            if half.probe:
                others = (self._half(target, source, way) for way in (leaves, not leaves))
                found["unanswered" if any(other.seen for other in others) else "one_way"] += 1
        return found

    def _half(self, source: End, target: End, leaves: bool) -> _Half:  # noqa: FBT001
        return self._halves.get((source, target, leaves), _Half())

    def _take(self, segment: Segment) -> None:
        ends = segment.source, segment.target
        own = self._halves.setdefault((*ends, segment.leaves), _Half())
        other = self._half(*ends[::-1], not segment.leaves)
        mirrored = self._half(*ends[::-1], segment.leaves)
        if other.highest is None and mirrored.highest is not None:  # both directions come in
            other = mirrored
        self._answers_leave = segment.leaves == (other is mirrored)
        own.seen = True
        if segment.rst:
            self._invalidate(own)
            self._answers_leave = segment.leaves
            self._invalidate(other)
            return
        self._look(own, other, segment)

    def _look(self, own: _Half, other: _Half, segment: Segment) -> None:
        if segment.numbers:
            self._sent(own, segment, segment.numbers)
        elif own.highest is None:  # what has not been sent yet begins there
            own.highest = segment.sequence
        if segment.acknowledges is not None:
            self._answered(other, segment, segment.acknowledges)

    def _sent(self, half: _Half, segment: Segment, numbers: int) -> None:
        end = segment.sequence + numbers
        if segment.syn and half.initial != segment.sequence:  # another connection
            self._invalidate(half)
            half.highest, half.initial = end, segment.sequence
            self._set(half, segment)
            return
        if half.highest is None:
            half.highest = end
            return
        end = half.highest + signed(end - half.highest)
        if not -FARTHEST < end - half.highest <= FARTHEST:
            self._invalidate(half)
            half.highest = end
            return
        again = end - numbers < half.highest
        if again:
            self._invalidate(half)
        if end > half.highest:
            half.highest = end
            if not again:
                self._set(half, segment)

    def _set(self, half: _Half, segment: Segment) -> None:
        if half.probe is None:
            assert half.highest is not None
            half.probe = half.highest, segment
            self.set[segment.source] += 1

    def _answered(self, half: _Half, answer: Segment, number: int) -> None:
        if half.probe is None:
            return
        end, asked = half.probe
        beyond = signed(number - end)
        if beyond < 0:
            return
        half.probe = None
        side = side_of(asked.leaves, answer.leaves)
        if beyond:
            self.stretched[asked.source, asked.target, side] += 1
            return
        rtt = answer.time - asked.time
        ends = asked.source, asked.target
        self.samples.append(Sample(*ends, answer.time, rtt, end & MASK, asked.syn, side))

    def _invalidate(self, half: _Half) -> None:
        if half.probe is not None:
            _, asked = half.probe
            half.probe = None
            side = side_of(asked.leaves, self._answers_leave)
            self.invalidated[asked.source, asked.target, side] += 1

    def fields(self, side: str, of: Callable[[End, End], bool] | None = None) -> dict[str, float]:
        """What a record says of that SIDE and of all connections OF which it is, times in ms."""
        samples = [
            s for s in self.samples if s.side == side and (of is None or of(s.source, s.target))
        ]
        lost = {
            name: sum(
                n
                for (source, target, at), n in counter.items()
                if at == side and (of is None or of(source, target))
            )
            for name, counter in (
                ("rtt_invalidated", self.invalidated),
                ("rtt_stretched", self.stretched),
            )
        }
        return {**summary(samples), **lost}


class EchoedTimes(RoundTrips):
    """The same by TCP's timestamps, which are new in what is sent again.

    Only what is first seen with its timestamp is a probe, and only if it takes numbers: what comes
    later within the same tick has the same one.

    See: RFC 7323, section 4
    """

    def _look(self, own: _Half, other: _Half, segment: Segment) -> None:
        if segment.stamps is None:
            return
        value, echoed = segment.stamps
        if segment.syn:  # the clock of another connection may begin anywhere
            self._invalidate(own)
            own.highest = value
            self._set(own, segment)
        elif own.highest is None:
            own.highest = value
        else:
            ahead = signed(value - own.highest)
            own.highest += max(0, ahead)
            if ahead > 0 and segment.numbers:
                self._set(own, segment)
        if segment.acknowledges is not None:
            self._answered(other, segment, echoed)


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Count, shortest, mean, longest and so on, in ms, as far as there are any."""
    times = [sample.rtt / MS for sample in samples]
    found: dict[str, float] = {"rtt_count": len(times)}
    if times:
        mean = math.fsum(times) / len(times)
        found |= {"rtt_min_ms": min(times), "rtt_mean_ms": mean, "rtt_max_ms": max(times)}
        for percent in (50, 90, 99):
            rank = max(1, -(-percent * len(times) // 100))
            found[f"rtt_p{percent}_ms"] = sorted(times)[rank - 1]
    handshakes = [sample.rtt / MS for sample in samples if sample.handshake]
    if handshakes:
        found["rtt_handshake_ms"] = math.fsum(handshakes) / len(handshakes)
    differences = _differences(samples)
    if differences:
        found["rtt_jitter_ms"] = math.fsum(differences) / len(differences)
    return found


def _differences(samples: Iterable[Sample]) -> list[float]:
    """Of neighbouring samples of one direction of one connection, in ms."""
    last: dict[tuple[End, End], int] = {}
    found = []
    for sample in samples:
        ends = sample.source, sample.target
        if ends in last:
            found.append(abs(sample.rtt - last[ends]) / MS)
        last[ends] = sample.rtt
    return found
