# SPDX-License-Identifier: Apache-2.0
"""How fast datagrams may go, so that the burst at an interval's end becomes a stream."""

from __future__ import annotations

_SPREAD = 0.8  # of an interval
_LONGEST = 1.0  # seconds that a record may have to wait for its turn
_LEAST_RATE = 2000.0  # datagrams a second; slower than that helps nobody
_AHEAD_SECONDS = 0.001  # how much goes at once: at 20,000 datagrams a second, 20
_IDLE = 0.05  # of an interval without datagrams, then a new burst begins


class Pace:
    """Spreads each burst over four fifths of an interval, but at most over a second.

    The receive buffer of a UDP socket has room for some 90 datagrams of 1,400 bytes by default
    (net.core.rmem_default, 212,992 bytes with the kernel's own overhead): what comes faster than
    the collector reads is lost there, and nobody tells the sender.

    Args:
        interval: Seconds from burst to burst.
    """

    def __init__(self, interval: float) -> None:
        self._span = min(_SPREAD * interval, _LONGEST)
        self._idle = _IDLE * interval
        self._began = self._next = -interval

    def delay(self, behind: int, now: float) -> float:
        """Seconds to wait before the next datagram goes.

        Args:
            behind: How many more wait.
            now: A clock in seconds.
        """
        if now - self._next > self._idle:
            self._began = now
        left = max(self._began + self._span - now, self._span / 10)
        rate = max(_LEAST_RATE, (behind + 1) / left)
        self._next = max(self._next, now) + 1 / rate
        ahead = self._next - now
        return ahead if ahead > _AHEAD_SECONDS else 0.0
