# SPDX-License-Identifier: Apache-2.0
"""The time by which everything is measured, and the grid of intervals that is laid over it.

A moment is in ns of CLOCK_MONOTONIC, which nobody sets. The wall clock is so much ahead of it, and
intervals end where the wall clock says a multiple of their length.

See: clock_gettime(2)
"""

from __future__ import annotations

import socket
import time
from typing import Protocol

NS = 1_000_000_000
NEVER = 1 << 62
"""A moment that does not come: 146 years after the machine's start."""

_SO_TIMESTAMP = 29  # include/uapi/asm-generic/socket.h
_STEP_NS = 1_000_000  # by so much the two drift apart without anybody noticing


class Clock(Protocol):
    """What time it is."""

    @property
    def offset(self) -> int:
        """How far the wall clock is ahead of CLOCK_MONOTONIC: ns, a multiple of 4."""

    def now(self) -> int:
        """The moment that it is."""

    def follow(self) -> None:
        """Look at the wall clock: if it has been set, `offset` is another from now on."""

    def sleep(self, ns: int) -> None:
        """Return when so much time has gone by."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.offset = wall_clock_offset()

    def now(self) -> int:
        """As CLOCK_MONOTONIC says."""
        return time.monotonic_ns()

    def follow(self) -> None:
        """Look at the wall clock; drift of less than a millisecond is left alone."""
        offset = wall_clock_offset()
        if abs(offset - self.offset) >= _STEP_NS:
            self.offset = offset

    def sleep(self, ns: int) -> None:
        """Wait."""
        time.sleep(ns / NS)


class ReplayClock:
    """A clock that stands until it is told to go on: the time of a capture, or of a test.

    Args:
        now: Its first moment, ns.
        offset: As of `Clock`.
    """

    def __init__(self, now: int = 0, offset: int = 0) -> None:
        self._now = now
        self.offset = self._set = offset & ~3

    def now(self) -> int:
        """The moment that was said last."""
        return self._now

    def go_on(self, now: int) -> None:
        """From now on it is NOW; what has been is not told again."""
        self._now = max(self._now, now)

    def set(self, offset: int) -> None:
        """Somebody sets the wall clock."""
        self._set = offset & ~3

    def follow(self) -> None:
        """Learn what has been set."""
        self.offset = self._set

    def sleep(self, ns: int) -> None:
        """Go on by so much."""
        self._now += ns


class Grid:
    """Intervals of one length, aligned to the wall clock.

    Args:
        clock: Whose.
        interval: Their length, ns.
    """

    def __init__(self, clock: Clock, interval: int) -> None:
        self._clock = clock
        self._interval = interval

    def next_line(self) -> int:
        """The moment at which the present interval ends."""
        wall = self.wall(self._clock.now())
        return wall - wall % self._interval + self._interval - self._clock.offset

    def number(self, moment: int) -> int:
        """Of the interval that MOMENT is in, counted from the epoch."""
        return self.wall(moment) // self._interval

    def wall(self, moment: int) -> int:
        """What the wall clock says at MOMENT, ns since the epoch."""
        return moment + self._clock.offset


def wall_clock_offset() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns, a multiple of 4; the tightest of a few readings."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1] & ~3


def receive_timestamps() -> socket.socket:
    """While this is open, the kernel gives every packet that it receives a timestamp.

    See: socket(7), SO_TIMESTAMP
    """
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return asking


def clock_ahead() -> int:
    """How far CLOCK_TAI is ahead of CLOCK_MONOTONIC, ns: it changes when somebody sets a clock."""
    return time.clock_gettime_ns(time.CLOCK_TAI) - time.monotonic_ns()


def tai_offset() -> int:
    """How far CLOCK_TAI is ahead of CLOCK_REALTIME: ns, whole seconds.

    See: clock_gettime(2), adjtimex(2)
    """
    ahead = time.clock_gettime_ns(time.CLOCK_TAI) - time.clock_gettime_ns(time.CLOCK_REALTIME)
    return round(ahead / NS) * NS
