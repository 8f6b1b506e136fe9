# SPDX-License-Identifier: Apache-2.0
"""TCP exchanges at a tap, step by step, and the samples that they must give."""

from __future__ import annotations

from dataclasses import dataclass
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


OPENED = (
    out("S", HERE - 1),
    come("SA", THERE - 1, ack=HERE),
    out("A", HERE, ack=THERE),
)


def asked(at: int, length: int = 10) -> tuple[Step, Step]:
    """LENGTH bytes go out, and are acknowledged."""
    return out("A", at, length, THERE), come("A", THERE, ack=at + length)


CASES = {
    "handshake from here": Case(OPENED, (1,), (1,), handshakes=(1, 1)),
    "handshake from there": Case(
        (come("S", THERE - 1), out("SA", HERE - 1, ack=THERE), come("A", THERE, ack=HERE)),
        *((1,), (1,)),
        handshakes=(1, 1),
    ),
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
    "RST from there": Case(
        (*OPENED, out("A", HERE, 10, THERE), come("R", THERE), come("A", THERE, ack=HERE + 10)),
        *((1,), (1,)),
        invalidated=(1, 0),
        handshakes=(1, 1),
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
        ),
        (2,),
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
    "numbers begin again": Case(
        (*asked(TOP - 25), *asked(TOP - 15), *asked(TOP - 5), *asked(5)), (1, 1, 1, 1)
    ),
    "numbers end at zero": Case((*asked(TOP - 10), *asked(0), *asked(10)), (1, 1, 1)),
    "handshake that ends at zero": Case(
        (out("S", TOP - 1), come("SA", TOP - 1, ack=0), out("A", 0, ack=0)),
        *((1,), (1,)),
        handshakes=(1, 1),
    ),
    "sent again over the end of numbers": Case(
        (
            out("A", TOP - 5, 10, THERE),
            out("A", TOP - 5, 10, THERE),
            come("A", THERE, ack=5),
            *asked(5),
        ),
        (1,),
        invalidated=(1, 0),
    ),
    "acknowledgement from before the end of numbers": Case(
        (
            *asked(TOP - 5, 3),
            out("A", TOP - 2, 10, THERE),
            come("A", THERE, ack=TOP - 2),
            come("A", THERE, ack=8),
        ),
        (1, 2),
    ),
    "far beyond, by half of all numbers": Case(
        (
            out("A", (1 << 31) - 5, 10, THERE),
            come("A", THERE, ack=(1 << 31) - 5),
            come("A", THERE, ack=(1 << 31) + 5),
        ),
        (2,),
    ),
    "what went out alone": Case(
        (out("A", HERE, 10, THERE), out("A", HERE + 10, 10, THERE)), left=(0, 1)
    ),
    "what came in alone": Case(
        (come("A", HERE, 10, THERE), come("A", HERE + 10, 10, THERE)), left=(0, 1)
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
            *OPENED,
            *asked(HERE),
            out("S", HERE - 1_000_000),
            come("SA", THERE - 2_000_000, ack=HERE - 999_999),
            out("A", HERE - 999_999, ack=THERE - 1_999_999),
        ),
        *((1, 1, 1), (1, 1)),
        handshakes=(2, 2),
    ),
    "port taken again, numbers beyond": Case(
        (
            *OPENED,
            *asked(HERE),
            out("S", HERE + 1_000_000),
            come("SA", THERE + 2_000_000, ack=HERE + 1_000_001),
            out("A", HERE + 1_000_001, ack=THERE + 2_000_001),
        ),
        *((1, 1, 1), (1, 1)),
        handshakes=(2, 2),
    ),
    "port taken again, first data lost": Case(
        (
            *OPENED,
            out("S", HERE - 1_000_000),
            come("SA", THERE - 2_000_000, ack=HERE - 999_999),
            out("A", HERE - 999_999, 10, THERE - 1_999_999),
            out("A", HERE - 999_999, 10, THERE - 1_999_999),
            come("A", THERE - 1_999_999, ack=HERE - 999_989),
        ),
        *((1, 1), (1, 1)),
        invalidated=(1, 0),
        handshakes=(2, 2),
    ),
}
