# SPDX-License-Identifier: Apache-2.0
"""TCP exchanges at a tap, step by step, and the samples that they must give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

TOP = 1 << 32
HERE, THERE = 100, 5000
"""The first numbers of the two ends in most cases."""


class Step(NamedTuple):
    """One segment; LEAVES: from this machine. Without ACK its acknowledgement number counts not."""

    leaves: bool
    flags: str
    sequence: int
    length: int
    acknowledges: int


def out(flags: str, sequence: int, length: int = 0, ack: int = 0) -> Step:
    """A segment that goes out; FLAGS are of `SAFRP`."""
    return Step(
        leaves=True, flags=flags, sequence=sequence % TOP, length=length, acknowledges=ack % TOP
    )


def come(flags: str, sequence: int, length: int = 0, ack: int = 0) -> Step:
    """A segment that comes in."""
    return Step(
        leaves=False, flags=flags, sequence=sequence % TOP, length=length, acknowledges=ack % TOP
    )


@dataclass(frozen=True)
class Case:
    """What happens, one step after the other, and what is found of it.

    Args:
        steps: In their order.
        remote: How many steps each round trip took, of what went out.
        local: The same of what came in.
        invalidated: Probes of what went out, and of what came in.
        stretched: Likewise.
        handshakes: How many of the samples of each side are.
        left: Probes that wait in the end, and those which nobody can answer.
    """

    steps: tuple[Step, ...]
    remote: tuple[int, ...] = ()
    local: tuple[int, ...] = ()
    invalidated: tuple[int, int] = (0, 0)
    stretched: tuple[int, int] = (0, 0)
    handshakes: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)


def opening(here: int = HERE, there: int = THERE) -> tuple[Step, ...]:
    """A handshake, behind which the two ends begin with these numbers."""
    return (
        out("S", here - 1),
        come("SA", there - 1, ack=here),
        out("A", here, ack=there),
    )


def opened(case: Case, here: int = HERE) -> Case:
    """CASE behind a handshake."""
    handshakes = case.handshakes[0] + 1, case.handshakes[1] + 1
    steps = (*opening(here), *case.steps)
    return replace(
        case, steps=steps, remote=(1, *case.remote), local=(1, *case.local), handshakes=handshakes
    )


OPENED = opening()


def asked(at: int, length: int = 10) -> tuple[Step, Step]:
    """LENGTH bytes go out, and are acknowledged."""
    return out("A", at, length, THERE), come("A", THERE, ack=at + length)


_HANDSHAKES = {
    "handshake from here": Case(OPENED, (1,), (1,), handshakes=(1, 1)),
    "handshake from there": Case(
        (come("S", THERE - 1), out("SA", HERE - 1, ack=THERE), come("A", THERE, ack=HERE)),
        *((1,), (1,)),
        handshakes=(1, 1),
    ),
    "handshake that ends at zero": Case(opening(0, 0), (1,), (1,), handshakes=(1, 1)),
    "SYN sent again": Case((OPENED[0], *OPENED), (), (1,), invalidated=(1, 0), handshakes=(0, 1)),
    "SYN/ACK sent again": Case(
        (
            come("S", THERE - 1),
            out("SA", HERE - 1, ack=THERE),
            out("SA", HERE - 1, ack=THERE),
            come("A", THERE, ack=HERE),
        ),
        *((), (1,)),
        invalidated=(1, 0),
        handshakes=(0, 1),
    ),
    "SYN with data, sent again without": Case(
        (
            out("S", HERE - 1, 50),
            out("S", HERE - 1),
            come("SA", THERE - 1, ack=HERE),
            out("A", HERE, ack=THERE),
        ),
        *((), (1,)),
        invalidated=(1, 0),
        handshakes=(0, 1),
    ),
    "SYN with data that is taken": Case(
        (out("S", HERE - 1, 50), come("SA", THERE - 1, ack=HERE + 50)),
        (1,),
        handshakes=(1, 0),
        left=(1, 0),
    ),
    "both ends open at the same time": Case(
        (
            out("S", HERE - 1),
            come("S", THERE - 1),
            out("SA", HERE - 1, ack=THERE),
            come("SA", THERE - 1, ack=HERE),
        ),
        *((), (1,)),
        invalidated=(1, 0),
        handshakes=(0, 1),
    ),
    "refused": Case((out("S", HERE - 1), come("RA", 0, ack=HERE)), invalidated=(1, 0)),
    "SYN that nobody answers": Case((out("S", HERE - 1),), left=(0, 1)),
}

_OPENED = {
    "RST from there": Case(
        (out("A", HERE, 10, THERE), come("R", THERE), come("A", THERE, ack=HERE + 10)),
        invalidated=(1, 0),
    ),
    "RST from here, with data": Case(
        (
            out("A", HERE, 10, THERE),
            out("RA", HERE + 10, 5, THERE),
            come("A", THERE, ack=HERE + 15),
        ),
        invalidated=(1, 0),
    ),
    "RST while both wait": Case(
        (out("A", HERE, 10, THERE), come("A", THERE, 10, HERE), out("R", HERE + 10)),
        invalidated=(1, 1),
    ),
    "data and its acknowledgement": Case((*asked(HERE), *asked(HERE + 10)), (1, 1)),
    "acknowledged twice": Case((*asked(HERE), come("A", THERE, ack=HERE + 10)), (1,)),
    "only the first of three is the probe": Case(
        (
            out("A", HERE, 10, THERE),
            out("A", HERE + 10, 10, THERE),
            out("A", HERE + 20, 10, THERE),
            come("A", THERE, ack=HERE + 10),
            come("A", THERE, ack=HERE + 20),
            come("A", THERE, ack=HERE + 30),
        ),
        (3,),
    ),
    "acknowledgement of more than the probe": Case(
        (
            out("A", HERE, 10, THERE),
            out("A", HERE + 10, 10, THERE),
            come("A", THERE, ack=HERE + 20),
            *asked(HERE + 20),
        ),
        (1,),
        stretched=(1, 0),
    ),
    "acknowledgement of a part of the probe": Case(
        (
            out("A", HERE, 1000, THERE),
            come("A", THERE, ack=HERE + 400),
            come("A", THERE, ack=HERE + 1000),
        ),
        (2,),
    ),
    "acknowledgement before any probe": Case(
        (come("A", THERE, ack=HERE), come("A", THERE, ack=HERE), *asked(HERE)), (1,)
    ),
    "a number that is no acknowledgement": Case(
        (
            out("A", HERE, 10, THERE),
            come("P", THERE, 10, HERE + 10),
            come("A", THERE + 10, ack=HERE + 10),
        ),
        (2,),
        left=(1, 0),
    ),
    "sent again": Case(
        (out("A", HERE, 10, THERE), *asked(HERE), *asked(HERE + 10)), (1,), invalidated=(1, 0)
    ),
    "something before the probe sent again": Case(
        (
            *asked(HERE),
            out("A", HERE + 10, 10, THERE),
            out("A", HERE, 10, THERE),
            come("A", THERE, ack=HERE + 20),
        ),
        (1,),
        invalidated=(1, 0),
    ),
    "sent again together with more": Case(
        (
            out("A", HERE, 10, THERE),
            out("A", HERE, 25, THERE),
            come("A", THERE, ack=HERE + 10),
            come("A", THERE, ack=HERE + 25),
            *asked(HERE + 25),
        ),
        (1,),
        invalidated=(1, 0),
    ),
    "sent again in the other direction": Case(
        (come("A", THERE, 10, HERE), come("A", THERE, 10, HERE), out("A", HERE, ack=THERE + 10)),
        invalidated=(0, 1),
    ),
    "out of order": Case(
        (
            come("A", THERE + 10, 10, HERE),
            come("A", THERE, 10, HERE),
            out("A", HERE, ack=THERE + 20),
            come("A", THERE + 20, 10, HERE),
            out("A", HERE, ack=THERE + 30),
        ),
        local=(1,),
        invalidated=(0, 1),
    ),
    "a hole that is filled later": Case(
        (
            *asked(HERE),
            out("A", HERE + 20, 10, THERE),
            come("A", THERE, ack=HERE + 10),
            out("A", HERE + 10, 10, THERE),
            come("A", THERE, ack=HERE + 30),
        ),
        (1,),
        invalidated=(1, 0),
    ),
    "a hole that was none": Case(
        (
            out("A", HERE, 10, THERE),
            out("A", HERE + 20, 10, THERE),
            come("A", THERE, ack=HERE + 30),
        ),
        stretched=(1, 0),
    ),
    "keep-alive without data": Case(
        (*asked(HERE), out("A", HERE + 9, 0, THERE), come("A", THERE, ack=HERE + 10)), (1,)
    ),
    "keep-alive of a byte": Case(
        (*asked(HERE), out("A", HERE + 9, 1, THERE), come("A", THERE, ack=HERE + 10)), (1,)
    ),
    "keep-alive without data while a probe is out": Case(
        (out("A", HERE, 10, THERE), out("A", HERE + 9, 0, THERE), come("A", THERE, ack=HERE + 10)),
        (2,),
    ),
    "zero-window probes": Case(
        (
            *asked(HERE),
            out("A", HERE + 10, 1, THERE),
            come("A", THERE, ack=HERE + 10),
            out("A", HERE + 10, 1, THERE),
            come("A", THERE, ack=HERE + 11),
            *asked(HERE + 11),
        ),
        (1, 1),
        invalidated=(1, 0),
    ),
    "zero-window probe that is taken": Case(
        (*asked(HERE), *asked(HERE + 10, 1), *asked(HERE + 11)), (1, 1, 1)
    ),
    "one end speaks, then the other": Case(
        (
            *asked(HERE),
            come("A", THERE, 10, HERE + 10),
            out("A", HERE + 10, ack=THERE + 10),
            out("A", HERE + 10, 10, THERE + 10),
            come("A", THERE + 10, ack=HERE + 20),
        ),
        *((1, 1), (1,)),
    ),
    "data that acknowledges data": Case(
        (
            out("A", HERE, 10, THERE),
            come("A", THERE, 20, HERE + 10),
            out("A", HERE + 10, 10, THERE + 20),
            come("A", THERE + 20, 20, HERE + 20),
        ),
        *((1, 1), (1,)),
        left=(1, 0),
    ),
    "FIN and its acknowledgement": Case(
        (
            out("FA", HERE, ack=THERE),
            come("A", THERE, ack=HERE + 1),
            come("FA", THERE, ack=HERE + 1),
            out("A", HERE + 1, ack=THERE + 1),
        ),
        *((1,), (1,)),
    ),
    "FIN sent again": Case(
        (
            out("FA", HERE, 5, THERE),
            out("FA", HERE, 5, THERE),
            come("A", THERE, ack=HERE + 6),
        ),
        invalidated=(1, 0),
    ),
    "port taken again, numbers before": Case(
        (
            *asked(HERE),
            *opening(HERE - 1_000_000, THERE - 2_000_000),
            out("A", HERE - 1_000_000, 10, THERE - 2_000_000),
            come("A", THERE - 2_000_000, ack=HERE - 999_990),
        ),
        *((1, 1, 1), (1,)),
        handshakes=(1, 1),
    ),
    "port taken again, numbers beyond": Case(
        (
            *asked(HERE),
            *opening(HERE + 1_000_000, THERE + 2_000_000),
            out("A", HERE + 1_000_000, 10, THERE + 2_000_000),
            come("A", THERE + 2_000_000, ack=HERE + 1_000_010),
        ),
        *((1, 1, 1), (1,)),
        handshakes=(1, 1),
    ),
    "port taken again, its first data sent again": Case(
        (
            *opening(HERE - 1_000_000, THERE - 2_000_000),
            out("A", HERE - 1_000_000, 10, THERE - 2_000_000),
            out("A", HERE - 1_000_000, 10, THERE - 2_000_000),
            come("A", THERE - 2_000_000, ack=HERE - 999_990),
        ),
        *((1,), (1,)),
        invalidated=(1, 0),
        handshakes=(1, 1),
    ),
    "port taken again while a probe is out": Case(
        (out("A", HERE, 10, THERE), *opening(HERE - 1_000_000, THERE - 2_000_000)),
        *((1,), (1,)),
        invalidated=(1, 0),
        handshakes=(1, 1),
    ),
    "a jump to other numbers": Case(
        (
            *asked(HERE),
            out("A", HERE + (1 << 30) + 100, 10, THERE),
            come("A", THERE, ack=HERE + (1 << 30) + 110),
            *asked(HERE + (1 << 30) + 110),
        ),
        (1, 1),
    ),
}

_NUMBERED = {
    "numbers begin again": (
        Case((*asked(TOP - 25), *asked(TOP - 15), *asked(TOP - 5), *asked(5)), (1, 1, 1, 1)),
        TOP - 25,
    ),
    "numbers end at zero": (
        Case((*asked(TOP - 10), *asked(0), *asked(10)), (1, 1, 1)),
        TOP - 10,
    ),
    "sent again over the end of numbers": (
        Case(
            (
                out("A", TOP - 5, 10, THERE),
                out("A", TOP - 5, 10, THERE),
                come("A", THERE, ack=5),
                *asked(5),
            ),
            (1,),
            invalidated=(1, 0),
        ),
        TOP - 5,
    ),
    "acknowledgement from before the end of numbers": (
        Case(
            (
                *asked(TOP - 5, 3),
                out("A", TOP - 2, 10, THERE),
                come("A", THERE, ack=TOP - 2),
                come("A", THERE, ack=8),
            ),
            (1, 2),
        ),
        TOP - 5,
    ),
    "over half of all numbers": (
        Case(
            (
                out("A", (1 << 31) - 5, 10, THERE),
                come("A", THERE, ack=(1 << 31) - 5),
                come("A", THERE, ack=(1 << 31) + 5),
            ),
            (2,),
        ),
        (1 << 31) - 5,
    ),
}

_JOINED = {
    "what was first seen may have been sent before": Case((*asked(HERE), *asked(HERE + 10)), (1,)),
    "an acknowledgement says what has not been sent": Case((out("A", HERE), *asked(HERE)), (1,)),
    "what was first seen is sent again": Case(
        (out("A", HERE, 10, THERE), *asked(HERE), *asked(HERE + 10)), (1,)
    ),
    "an end that only acknowledges is seen": Case(
        (*asked(HERE), out("A", HERE + 10, 10, THERE)), left=(1, 0)
    ),
    "what went out alone": Case(
        tuple(out("A", HERE + at, 10, THERE) for at in (0, 10, 20)), left=(0, 1)
    ),
    "what came in alone": Case(
        tuple(come("A", HERE + at, 10, THERE) for at in (0, 10, 20)), left=(0, 1)
    ),
}

CASES = {
    **_HANDSHAKES,
    **{name: opened(case) for name, case in _OPENED.items()},
    **{name: opened(case, here) for name, (case, here) in _NUMBERED.items()},
    **_JOINED,
}
