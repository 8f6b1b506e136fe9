# SPDX-License-Identifier: Apache-2.0
"""QUIC's spin bit in packets given one by one: round trips of connections that spin, and no others.

See: RFC 9000, section 17.4
"""

from __future__ import annotations

import random
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
import tap
from framings import FRAMINGS
from rawwire import NAME, RawWire
from rttrecords import account, roundtrips, total

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS = ("-i", NAME, "--probe", "rtt", "-t", "3600")
SPIN, SHORT = 0x20, 0x40
CLIENT, SERVER = "198.51.100.2", "203.0.113.7"
THINKS, ANSWERS = 0.004, 0.012
"""Seconds from what the client has got to what it sends then, and from that to the answer."""

ROUNDS = 60
MANY = 40_000
"""Packets of those who set the bit by chance."""

BELIEVED = 20  # rounds after which a connection that spins must have been noticed


class Talk:
    """A connection over port 443; AT_CLIENT: what the client sends leaves here."""

    def __init__(self, wire: RawWire, *, at_client: bool, version: int = 4) -> None:
        self._wire, self._at_client = wire, at_client
        self._framing = FRAMINGS[f"IPv{version}"]
        self._here = (CLIENT, SERVER) if version == 4 else ("2001:db8::2", "2001:db8::7")

    def send(self, first: int, *, client: bool) -> None:
        """A packet whose FIRST byte that is, from the client or from the server."""
        ports, ends = (4000, 443), self._here
        if not client:
            ports, ends = ports[::-1], ends[::-1]
        payload = bytes((first,)) + bytes(40)
        data = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
        frame = self._framing.wrap(*ends, data, 17)
        self._wire.put(frame, leaves=client == self._at_client)


def spinning(talk: Talk) -> None:
    """The client inverts what it has got last, the server repeats it."""
    bit = 0
    for _ in range(ROUNDS):
        for _ in range(3):
            talk.send(SHORT | bit, client=True)
        time.sleep(ANSWERS)
        for _ in range(2):
            talk.send(SHORT | bit, client=False)
        time.sleep(THINKS)
        bit ^= SPIN


def standing(talk: Talk) -> None:
    """Neither sets the bit; the client always does."""
    for bits in ((0, 0), (SPIN, 0), (0, SPIN), (SPIN, SPIN)):
        for _ in range(100):
            talk.send(SHORT | bits[0], client=True)
            talk.send(SHORT | bits[1], client=False)


def by_chance(talk: Talk) -> None:
    """Both set it by chance, packet by packet, as those shall who do not spin."""
    chance = random.Random(7)  # noqa: S311 - traffic, not secrets
    for _ in range(MANY):
        talk.send(SHORT | chance.choice((0, SPIN)), client=chance.random() < 0.5)


def one_by_chance(talk: Talk) -> None:
    """The client by chance; the server repeats what it has got, a round trip later."""
    chance = random.Random(8)  # noqa: S311 - traffic, not secrets
    under_way = [0] * 6
    for _ in range(MANY // 2):
        bit = chance.choice((0, SPIN))
        talk.send(SHORT | bit, client=True)
        under_way.append(bit)
        talk.send(SHORT | under_way.pop(0), client=False)


def long_headers(talk: Talk) -> None:
    """What has the form of a spinning connection, with long headers, or no fixed bit."""
    for form in (0xC0, 0x80, 0x00):
        bit = 0
        for _ in range(ROUNDS):
            talk.send(form | bit, client=True)
            talk.send(form | bit, client=False)
            bit ^= SPIN


def measured(
    drive: Callable[[Talk], None], *, at_client: bool = True, version: int = 4
) -> list[dict[str, Any]]:
    """Records of what DRIVE sends."""
    with RawWire() as wire, tap.Tap(wire.tapped, *OPTIONS) as tapped:
        drive(Talk(wire, at_client=at_client, version=version))
        return tapped.stop()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("at_client", [True, False], ids=["at the client", "at the server"])
def test_both_ways_of_a_spinning_connection_are_measured(*, at_client: bool, version: int) -> None:
    """From each edge to the one that answers it, once it has been seen that it spins."""
    records = measured(spinning, at_client=at_client, version=version)
    found = {record["side"]: record for record in roundtrips(records, protocol="quic")}
    to_server, to_client = ("remote", "local") if at_client else ("local", "remote")
    for side, shortest, edges in ((to_server, ANSWERS, ROUNDS), (to_client, THINKS, ROUNDS - 1)):
        record = found[side]
        assert edges - BELIEVED <= record["rtt_count"] <= edges
        assert shortest * 1000 <= record["rtt_min_ms"] < (shortest + 0.004) * 1000
        assert record.get("rtt_invalidated", 0) == 0
    said = account(records, "quic")
    assert said["samples"] == total(list(found.values()), "rtt_count")
    assert (said["evicted"], said["one_way"], said["stretched"]) == (0, 0, 0)


@pytest.mark.parametrize("drive", [standing, by_chance, one_by_chance, long_headers])
def test_what_does_not_spin_gives_no_samples(drive: Callable[[Talk], None]) -> None:
    """However the bit is set there."""
    records = measured(drive)
    account(records, "quic")
    assert total(roundtrips(records), "rtt_count") == 0


def test_one_direction_alone_gives_no_samples() -> None:
    """Who does not see the answers does not know what they answer."""

    def alone(talk: Talk) -> None:
        for number in range(100):
            talk.send(SHORT | SPIN * (number // 2 % 2), client=True)

    records = measured(alone)
    assert account(records, "quic")["samples"] == 0
    assert not roundtrips(records, protocol="quic")
