# SPDX-License-Identifier: Apache-2.0
"""The judge of round-trip times, judged by exchanges whose samples are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from roundtripcases import CASES, Case, Step
from roundtrips import MS, End, RoundTrips, Segment

ENDS = End("192.0.2.2", 4000), End("192.0.2.1", 53)


def segment(number: int, step: Step) -> Segment:
    """A STEP, a millisecond after the one before."""
    source, target = ENDS if step.leaves else reversed(ENDS)
    return Segment(
        time=number * MS,
        source=source,
        target=target,
        sequence=step.sequence,
        acknowledges=step.acknowledges if "A" in step.flags else None,
        length=step.length,
        syn="S" in step.flags,
        fin="F" in step.flags,
        rst="R" in step.flags,
        leaves=step.leaves,
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_samples_are_those_of_the_rule(case: Case) -> None:
    """Those, and no others; every probe ends in one way."""
    found = RoundTrips().take(segment(*step) for step in enumerate(case.steps))
    sides = ("remote", "local")
    fields = [found.fields(side) for side in sides]
    for side, expected in zip(sides, (case.remote, case.local), strict=True):
        assert [s.rtt // MS for s in found.samples if s.side == side] == [*expected]
    assert tuple(f["rtt_invalidated"] for f in fields) == case.invalidated
    assert tuple(f["rtt_stretched"] for f in fields) == case.stretched
    handshakes = [s.side for s in found.samples if s.handshake]
    assert tuple(map(handshakes.count, sides)) == case.handshakes
    left = found.left()
    assert (left["unanswered"], left["one_way"]) == case.left
    ended = len(found.samples) + sum(case.invalidated) + sum(case.stretched) + sum(case.left)
    assert sum(found.set.values()) == ended


def test_a_record_sums_up_samples() -> None:
    """Times in ms, jitter between neighbours of one connection and direction."""
    found = RoundTrips().take(
        segment(*step) for step in enumerate(CASES["numbers end at zero"].steps)
    )
    nothing = {"rtt_count": 0, "rtt_invalidated": 0, "rtt_stretched": 0}
    assert found.fields("local", lambda *_: False) == nothing
    times = dict.fromkeys(("min", "mean", "max", "p50", "p90", "p99"), 1.0)
    assert found.fields("remote") == {
        "rtt_count": 4,
        "rtt_handshake_ms": 1.0,
        **{f"rtt_{name}_ms": value for name, value in times.items()},
        "rtt_jitter_ms": 0.0,
        "rtt_invalidated": 0,
        "rtt_stretched": 0,
    }


def test_jitter_is_between_neighbours_of_one_connection() -> None:
    """Round trips of 1, 3 and 1 ms, beside another connection's of 2 ms."""
    name = "data and its acknowledgement"
    ours = [segment(*step) for step in enumerate(CASES[name].steps)]
    times = (0, 1, 1, 2, 5, 6, 7)
    late = [replace(s, time=t * MS) for s, t in zip(ours, times, strict=True)]
    others = [
        replace(
            s, time=2 * n * MS, source=s.source._replace(port=1), target=s.target._replace(port=1)
        )
        for n, s in enumerate(ours)
    ]
    found = RoundTrips().take(sorted(late + others, key=lambda s: s.time)).fields("remote")
    assert found["rtt_jitter_ms"] == 1.0  # 2, 2, 0 and 0, not what lies between connections
    assert (found["rtt_p50_ms"], found["rtt_p99_ms"]) == (2.0, 3.0)


def test_what_comes_in_in_both_directions_is_remote() -> None:
    """Mirrored traffic: all of it comes in."""
    segments = [segment(*s) for s in enumerate(CASES["data and its acknowledgement"].steps)]
    found = RoundTrips().take(replace(s, leaves=False) for s in segments)
    assert [s.side for s in found.samples] == ["remote"] * 4


def test_what_is_seen_twice_is_measured_twice() -> None:
    """On loopback all leaves, and then arrives: each time from there until its answer is there."""
    segments = [segment(*s) for s in enumerate(CASES["data and its acknowledgement"].steps)]
    twice = [
        replace(s, leaves=way, time=2 * s.time + (0 if way else MS))
        for s in segments
        for way in (True, False)
    ]
    found = RoundTrips().take(twice)
    remote, local = (
        [s.rtt // MS for s in found.samples if s.side == side] for side in ("remote", "local")
    )
    assert (remote, local) == ([3] * 4, [1] * 4)
    assert not found.invalidated
