# SPDX-License-Identifier: Apache-2.0
"""Segments given one by one: samples are those that must be, in frames of every kind."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import tap
from exchanges import segments
from framings import FRAMINGS, Framing
from packets import icmp, ipv4, ipv6, tcp, udp
from rawwire import NAME, RawWire
from roundtripcases import CASES, TOP, Step, come, out
from roundtrips import End, RoundTrips
from rttrecords import account, counts, roundtrips, unlike

from lab.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PORT = 20_000
SIDES = ("remote", "local")
KEY = ("src_ip", "dst_ip", "src_port", "dst_port")
OPTIONS = ("-i", NAME, "--probe", "rtt", "--rtt-key", ",".join(KEY), "-t", "3600")
PAUSE = 0.001  # seconds between steps


def measured(
    path: Path, frames: Iterable[tuple[bytes, bool]], pause: float, *options: str
) -> tuple[list[dict[str, Any]], RoundTrips]:
    """Records of FRAMES, each with whether it leaves, and what the judge finds in a capture."""
    with RawWire() as wire:
        with Capture(wire.tapped, NAME, path), tap.Tap(wire.tapped, *OPTIONS, *options) as tapped:
            for frame, leaves in frames:
                wire.put(frame, leaves=leaves)
                time.sleep(pause)
            records = tapped.stop()
        return records, RoundTrips().take(segments(path, wire.mac))


def ends_of(framing: Framing, number: int) -> tuple[End, End]:
    """The two ends of a case's connection; the port here says which case it is."""
    here, there = framing.addresses()
    return End(here, PORT + number), End(there, 443)


def tags_of(source: End, target: End) -> dict[str, str]:
    """Those of a record."""
    values = (source.address, target.address, str(source.port), str(target.port))
    return dict(zip(KEY, values, strict=True))


def compare(
    records: list[dict[str, Any]], found: RoundTrips, ends: tuple[End, End]
) -> tuple[dict[str, dict[str, float]], list[object]]:
    """Records of one connection have as many as the judge has FOUND.

    Returns:
        What that is, by side, and of each record which times are not the same: the machine may
        stand still for some ms between two who look at the same packet.
    """
    said, differences = {}, []
    for side, (source, target) in zip(SIDES, (ends, ends[::-1]), strict=True):
        mine = roundtrips(records, side=side, **tags_of(source, target))
        said[side] = found.fields(side, lambda *e, own=(source, target): e == own)
        assert len(mine) <= 1
        counts(mine[0] if mine else {}, said[side])
        differences += [unlike(record, said[side]) for record in mine]
    return said, differences


@pytest.fixture(scope="module", params=FRAMINGS)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Framing, list[dict[str, Any]], RoundTrips]:
    """All cases, each a connection of its own, in frames of one kind."""
    framing = FRAMINGS[request.param]
    frames = (
        (framing.frame(ends_of(framing, number), step), step.leaves)
        for number, case in enumerate(CASES.values())
        for step in case.steps
    )
    path = tmp_path_factory.mktemp("cases") / "cases.pcap"
    return framing, *measured(path, frames, PAUSE)


@pytest.mark.parametrize("name", CASES)
def test_each_case_gives_its_samples(
    results: tuple[Framing, list[dict[str, Any]], RoundTrips], name: str
) -> None:
    """As many as are written down, and as the judge finds in a capture of the same packets."""
    framing, records, found = results
    case = CASES[name]
    said, _ = compare(records, found, ends_of(framing, list(CASES).index(name)))
    for number, side in enumerate(SIDES):
        assert said[side]["rtt_count"] == len((case.remote, case.local)[number])
        assert said[side]["rtt_invalidated"] == case.invalidated[number]
        assert said[side]["rtt_stretched"] == case.stretched[number]
        assert ("rtt_handshake_ms" in said[side]) == bool(case.handshakes[number])


def test_times_are_those_of_a_capture(
    results: tuple[Framing, list[dict[str, Any]], RoundTrips],
) -> None:
    """Record by record, but for some where the machine stood still."""
    framing, records, found = results
    differences: list[object] = []
    for number in range(len(CASES)):
        differences += compare(records, found, ends_of(framing, number))[1]
    assert len(differences) == len(roundtrips(records))
    assert sum(map(bool, differences)) < 0.05 * len(differences), differences


def test_every_probe_is_accounted_for(
    results: tuple[Framing, list[dict[str, Any]], RoundTrips],
) -> None:
    """Each that was set ends in one way, and the account names it."""
    _, records, found = results
    said = account(records)
    ended = {
        "samples": len(found.samples),
        "invalidated": found.invalidated.total(),
        "stretched": found.stretched.total(),
        "evicted": 0,
        **found.left(),
    }
    assert {name: said[name] for name in ended} == ended
    assert said["probes_set"] == sum(ended.values()) == found.set.total()


class Speaker:
    """Says by chance what the two ends of a connection send: most of it makes sense."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._next = {leaves: chance.choice((TOP - 60, 1 << 31, 500)) for leaves in (True, False)}
        self._initial: dict[bool, int] = {}

    def step(self) -> Step:
        """The next segment."""
        chance = self._chance
        leaves = chance.random() < 0.5
        say = out if leaves else come
        mine, theirs = self._next[leaves], self._next[not leaves]
        number = theirs - chance.choice((0, 0, 0, 0, 5, 10, 15, -5))
        kind = chance.random()
        if kind < 0.35:  # only an acknowledgement
            return say("A", mine, 0, number)
        if kind < 0.37:
            return say(chance.choice(("R", "RA")), mine, chance.choice((0, 5)), number)
        if kind < 0.40:
            anew = mine + chance.choice((-300_000, 300_000))
            self._initial[leaves] = mine = chance.choice((anew, self._initial.get(leaves, anew)))
            self._next[leaves] = mine + 1
            return say(chance.choice(("S", "SA")), mine, 0, number)
        if kind < 0.55:  # sent again, or more together
            back = chance.choice((5, 10, 20))
            start, length = mine - back, chance.choice((1, 5, 10, 25))
        else:
            start, length = mine + chance.choice((0,) * 8 + (5, 10)), chance.choice((5, 10))
        self._next[leaves] = max(mine, start + length)
        return say(chance.choice(("A", "A", "A", "PA", "FA", "P")), start, length, number)


NOISE = (
    bytes.fromhex("08060001080006040001") + bytes(18),  # ARP
    b"\x08\x00" + ipv4(udp(bytes(40))),
    b"\x08\x00" + ipv4(icmp(bytes(20)), 1),
    b"\x86\xdd" + ipv6(udp(bytes(40))),
    b"\x08\x00" + ipv4(tcp(offset=3), 6),  # which is none
    b"\x08\x00" + ipv4(bytes(40), 6, fragment=5),
)


def spoken(seed: int, steps: int) -> Iterator[tuple[bytes, bool]]:
    """Frames of connections of every framing, mixed, and others between them."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
    framings = [*FRAMINGS.values()]
    speakers = [Speaker(chance) for _ in framings]
    for _ in range(steps):
        if chance.random() < 0.2:
            yield chance.choice(NOISE), chance.random() < 0.5
        number = chance.randrange(len(framings))
        step = speakers[number].step()
        yield framings[number].frame(ends_of(framings[number], number), step), step.leaves


@pytest.mark.parametrize("seed", range(4))
def test_what_chance_says_gives_the_samples_of_the_rule(tmp_path: Path, seed: int) -> None:
    """Thousands of segments of all kinds: every count, and nearly all times, by connection."""
    records, found = measured(tmp_path / "spoken.pcap", spoken(seed, 4000), 0)
    assert len(found.samples) > 200
    assert min(found.invalidated.total(), found.stretched.total()) > 50
    differences: list[object] = []
    for number, framing in enumerate(FRAMINGS.values()):
        differences += compare(records, found, ends_of(framing, number))[1]
    assert sum(map(bool, differences)) < 0.3 * len(differences), differences
