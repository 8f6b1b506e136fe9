# SPDX-License-Identifier: Apache-2.0
"""ICMP echo and DNS in frames given one by one: what is a sample, and what is not."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import tap
from framings import FRAMINGS
from rawwire import NAME, RawWire
from rttrecords import account, roundtrips, total

OPTIONS = ("-i", NAME, "--probe", "rtt", "--rtt-key", "src_ip,dst_ip", "-t", "3600")
PAUSE = 0.002  # seconds between steps
_ICMP, _UDP, _ICMPV6 = 1, 17, 58


class Step(NamedTuple):
    """A question or an answer to one, with its number; MIRRORED: it comes in, whose ever it is."""

    answer: bool
    ours: bool
    number: int = 1
    mirrored: bool = False


ASKS, ASKED = Step(answer=False, ours=True), Step(answer=False, ours=False)
GETS, ANSWERS = Step(answer=True, ours=False), Step(answer=True, ours=True)


def other(step: Step, number: int) -> Step:
    """STEP with another number."""
    return step._replace(number=number)


@dataclass(frozen=True)
class Case:
    """Steps, and how many samples there are of each side, probes dropped, and such as wait."""

    steps: tuple[Step, ...]
    remote: int = 0
    local: int = 0
    invalidated: int = 0
    waiting: int = 0


CASES = {
    "asks and gets": Case((ASKS, GETS), remote=1),
    "is asked and answers": Case((ASKED, ANSWERS), local=1),
    "mirrored": Case((ASKS._replace(mirrored=True), GETS), remote=1),
    "mirrored, asked twice": Case(
        (ASKS._replace(mirrored=True), ASKS._replace(mirrored=True), GETS), invalidated=1
    ),
    "nobody answers": Case((ASKS,), waiting=1),
    "answer to nothing": Case((GETS, ANSWERS)),
    "answered twice": Case((ASKS, GETS, GETS), remote=1),
    "asked twice": Case((ASKS, ASKS, GETS, GETS), invalidated=1),
    "asked three times": Case((ASKS, ASKS, ASKS, GETS), invalidated=1),
    "asked four times": Case((ASKED, ASKED, ASKED, ASKED, ANSWERS, ANSWERS), invalidated=1),
    "asked once more when it was answered": Case((ASKS, GETS, ASKS, GETS), remote=2),
    "another answer": Case((ASKS, other(GETS, 2)), waiting=1),
    "many under way, answered in another order": Case(
        (
            *(other(ASKS, number) for number in range(50)),
            *(other(GETS, number) for number in reversed(range(50))),
        ),
        remote=50,
    ),
    "both ask the same": Case((ASKS, ASKED, GETS, ANSWERS), remote=1, local=1),
}


class Kind(NamedTuple):
    """What asks: protocol, IP version, and the port of who asks."""

    protocol: str
    version: int
    port: int = 4000

    def here(self) -> str:
        """This end's address."""
        return FRAMINGS[f"IPv{self.version}"].addresses()[0]

    def there(self, number: int) -> str:
        """The other end's, of a case's NUMBER."""
        return f"203.0.113.{10 + number}" if self.version == 4 else f"2001:db8:1::{10 + number}"

    def frame(self, step: Step, number: int) -> bytes:
        """The frame of a STEP."""
        source, target = self.here(), self.there(number)
        if not step.ours:
            source, target = target, source
        if self.protocol == "icmp":
            kinds = (8, 0) if self.version == 4 else (128, 129)
            data = struct.pack(">BBHHH", kinds[step.answer], 0, 0, 77, step.number) + bytes(20)
            protocol = _ICMP if self.version == 4 else _ICMPV6
        else:
            ports = (53, self.port) if step.answer else (self.port, 53)
            flags = 0x8180 if step.answer else 0x0100
            query = struct.pack(">HHHHHH", step.number, flags, 1, 0, 0, 0) + bytes(5)
            data = struct.pack(">HHHH", *ports, 8 + len(query), 0) + query
            protocol = _UDP
        return FRAMINGS[f"IPv{self.version}"].wrap(source, target, data, protocol)


KINDS = {
    "ICMP": Kind("icmp", 4),
    "ICMPv6": Kind("icmp", 6),
    "DNS": Kind("dns", 4),
    "DNS over IPv6": Kind("dns", 6),
    "DNS between servers": Kind("dns", 4, 53),
}


@pytest.fixture(scope="module", params=KINDS)
def results(request: pytest.FixtureRequest) -> tuple[Kind, list[dict[str, Any]]]:
    """All cases, each with a peer of its own."""
    kind = KINDS[request.param]
    with RawWire() as wire, tap.Tap(wire.tapped, *OPTIONS) as tapped:
        for number, case in enumerate(CASES.values()):
            for step in case.steps:
                wire.put(kind.frame(step, number), leaves=step.ours and not step.mirrored)
                time.sleep(PAUSE)
        return kind, tapped.stop()


@pytest.mark.parametrize("name", CASES)
def test_each_answer_is_a_sample_of_its_question(
    results: tuple[Kind, list[dict[str, Any]]], name: str
) -> None:
    """Unless the question was asked again before: then nobody knows which one was answered."""
    kind, records = results
    case = CASES[name]
    here, there = kind.here(), kind.there(list(CASES).index(name))
    asked, asking = (
        roundtrips(records, protocol=kind.protocol, src_ip=source, dst_ip=target)
        for source, target in ((here, there), (there, here))
    )
    mine = [*asked, *asking]
    for side, count in (("remote", case.remote), ("local", case.local)):
        assert total([r for r in mine if r["side"] == side], "rtt_count") == count
    assert total(mine, "rtt_invalidated") == case.invalidated
    if not name.startswith("mirrored"):  # nobody knows where the answer to a dropped one goes
        assert {r["side"] for r in asked} <= {"remote"}
        assert {r["side"] for r in asking} <= {"local"}
    for record in mine:
        if record["rtt_count"]:
            assert record["rtt_min_ms"] >= PAUSE * 1000
            assert "rtt_handshake_ms" not in record


def test_every_question_is_accounted_for(results: tuple[Kind, list[dict[str, Any]]]) -> None:
    """Answered, asked again, or waiting still."""
    kind, records = results
    said = account(records, kind.protocol)
    assert said["samples"] == sum(case.remote + case.local for case in CASES.values())
    assert said["invalidated"] == sum(case.invalidated for case in CASES.values())
    assert said["unanswered"] == sum(case.waiting for case in CASES.values())
    assert (said["evicted"], said["one_way"], said["stretched"]) == (0, 0, 0)
