# SPDX-License-Identifier: Apache-2.0
"""How fast datagrams may go, so that the burst at an interval's end becomes a stream."""

from __future__ import annotations

_SPREAD = 0.8  # of an interval
_LEAST_RATE = 2000.0  # datagrams a second; slower than that helps nobody
_AHEAD_SECONDS = 0.001  # how much goes at once: at 20,000 datagrams a second, 20
_LAST_SPAN = 1.0  # seconds, for a burst at the end of a run


class Pace:
    """Spreads each burst over four fifths of an interval, or goes at 2,000 datagrams a second.

    The receive buffer of a UDP socket has room for 92 datagrams of 1,400 bytes by default
    (net.core.rmem_default, 212,992 bytes with the kernel's own overhead): what comes faster than
    the collector reads is lost there, and nobody tells the sender.

    Args:
        interval: Seconds from burst to burst.
    """

    def __init__(self, interval: float) -> None:
        self._span = _SPREAD * interval
        self._late = False
        self._new = True  # what goes next begins a burst
        self._rate = _LEAST_RATE
        self._began = self._next = 0.0

    def follow(self, interval: float) -> None:
        """From now on it is INTERVAL seconds from burst to burst."""
        self._span = min(self._span, _LAST_SPAN) if self._late else _SPREAD * interval

    def hurry(self) -> None:
        """The end is near: nothing may take long any more."""
        self._late = True
        self._span = min(self._span, _LAST_SPAN)
        self._new = True

    def delay(self, behind: int, now: float) -> float:
        """Seconds to wait before the next datagram goes.

        Args:
            behind: How many more wait.
            now: A clock in seconds.
        """
        if self._new:
            self._began, self._rate = now, _LEAST_RATE
        self._new = not behind
        left = max(self._began + self._span - now, self._span / 10)
        self._rate = max(self._rate, (behind + 1) / left)
        self._next = max(self._next, now) + 1 / self._rate
        ahead = self._next - now
        return ahead if ahead > _AHEAD_SECONDS else 0.0
