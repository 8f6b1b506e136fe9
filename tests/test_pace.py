# SPDX-License-Identifier: Apache-2.0
"""The pace of datagrams, with a clock of the test's own."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

import pytest

from trapstream_vtap.sinks import Pace

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGE = 22_000  # datagrams of 1,400 bytes, 65,536 records of `vtap_flow`


def sent(pace: Pace, arrivals: Iterable[float], *, hurry: float = float("inf")) -> list[float]:
    """When each datagram goes, of those that are handed over at ARRIVALS."""
    coming, waiting, times, now = deque(arrivals), 0, [], 0.0
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0])
        while coming and coming[0] <= now:
            coming.popleft()
            waiting += 1
        if now >= hurry:
            pace.hurry()
            hurry = float("inf")
        waiting -= 1
        now += pace.delay(waiting, now)
        times.append(now)
    return times


def most_in(seconds: float, times: list[float]) -> int:
    """The most datagrams in any time of that length."""
    return max(bisect_left(times, start + seconds) - number for number, start in enumerate(times))


@pytest.mark.parametrize("interval", [1.0, 10.0])
@pytest.mark.parametrize("trickle", [False, True])
def test_burst_is_spread(interval: float, *, trickle: bool) -> None:
    """A burst takes four fifths of the interval, evenly, also while single datagrams come."""
    burst = [5 * interval] * LARGE
    others = [number * interval / 50 for number in range(500)] if trickle else []
    times = sent(Pace(interval), sorted(burst + others))
    since = [time - 5 * interval for time in times if time >= 5 * interval][:LARGE]
    assert 0.7 * interval < since[-1] <= 0.81 * interval
    evenly = LARGE / (0.8 * interval)
    assert most_in(0.01, since) <= 1.1 * evenly * 0.01 + evenly * 0.001 + 2


def test_small_burst() -> None:
    """A few datagrams are not held up: 2,000 go in a second, however long the interval."""
    times = sent(Pace(3600), [0.0] * 1000)
    assert 0.45 < times[-1] <= 0.5


def test_each_interval() -> None:
    """Each interval's burst is spread like the first."""
    ends = [
        sent(Pace(1), [float(n) for n in range(count) for _ in range(8000)])[-1]
        for count in (1, 2, 5)
    ]
    assert ends == pytest.approx([0.8, 1.8, 4.8], abs=0.01)


def test_end_of_run() -> None:
    """When the run ends, what is left of a burst takes a second, no longer."""
    times = sent(Pace(100), [0.0] * 200_000, hurry=10.0)
    assert sent(Pace(100), [0.0] * 200_000)[-1] == pytest.approx(80, abs=0.1)
    assert times[-1] < 11.5
