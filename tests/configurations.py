# SPDX-License-Identifier: Apache-2.0
"""Configurations that a user may choose, at random: command lines, and files beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.settings import HOOKS, LONGEST_STOP_GAP, MOST_OFFSET, TUNNELS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

LAYERS = ((True,), (False,), (True, False))
"""Interfaces with an Ethernet header, without, or both."""


def file(chance: random.Random, *, most_rules: int) -> dict[str, Any]:
    """Options, rules and the keys of vtap-project, as a configuration file has them."""
    hook = chance.choice(HOOKS)
    decapsulate = some(chance, TUNNELS) if chance.random() < 0.7 else []
    key = some(chance, KEY_FIELDS)
    found: dict[str, Any] = {
        "hook": hook,
        "direction": "ingress" if hook == "xdp" else chance.choice(("ingress", "egress", "both")),
        "decapsulate": decapsulate,
        "key": [name for name in key if decapsulate or name != "tunnel_id"],
        "interval": chance.choice((0.1, 1, 7.3, 3600)),
        "flow_table_size": chance.choice((64, 1000, 65536)),
        "bits": chance.random() < 0.5,
        "RULES": rules(chance, chance.choice((0, 0, 1, 5, most_rules))),
    }
    if chance.random() < 0.7:
        found |= sequence(chance)
    if chance.random() < 0.5:
        found["metrics"] = "127.0.0.1:8080"
    return found | jitter(chance)


def sequence(chance: random.Random) -> dict[str, Any]:
    """Keys and options about sequence numbers."""
    found: dict[str, Any] = {
        "sequence": True,
        "tcp_sequence": chance.choice(("stream", "packet")),
        "sequence_threshold": chance.choice((1, 100, (1 << 31) - 1)),
        "max_events": chance.choice((0, 1, 1000, 1_000_000)),
    }
    if chance.random() < 0.8:
        edge = chance.choice((0, 1, 100, 5000, 16_000, 60_000, MOST_OFFSET - 2))
        found["sequence_offset"] = min(MOST_OFFSET - 2, edge + chance.randrange(4))  # of 32 bits
        if chance.random() < 0.6:
            words = (0, 1, 0xFF, 0x00FF00FF, 0xFFFFFF01, 0xFFFFFFFF, chance.getrandbits(32))
            found["sequence_pattern"] = f"{chance.choice(words):X}"
    return found


def jitter(chance: random.Random) -> dict[str, Any]:
    """Options about jitter."""
    stop = chance.choice((0.001, 2.0, LONGEST_STOP_GAP))
    found: dict[str, Any] = {"stop_gap": stop, "smoothed_jitter": chance.random() < 0.5}
    if chance.random() < 0.5:
        found["expected_gap"] = chance.choice((0, 0.5, 1)) * stop * 1000
    return found


def rules(chance: random.Random, count: int) -> list[str]:
    """COUNT rules, usual ones or crowded ones; none of them is covered by one before."""
    crowded = chance.random() < 0.5
    found = []
    for number in range(count):
        make = chance.choice((ipv4, ipv6))
        words = [
            some_of(chance, make, 4 if crowded else 1),
            some_of(chance, make, 4 if crowded else 1),
            some_of(chance, port, 3 if crowded else 1),
            f"{number}",  # of its own, so that no other rule covers it
            chance.choice(("-", "tcp", "[tcp,udp]", "17")),
        ]
        found.append(" ".join(words))
    return found


def ipv4(chance: random.Random) -> str:
    """An address or prefix."""
    octets = ".".join(str(chance.randrange(256)) for _ in range(3))
    return chance.choice((f"{octets}.{chance.randrange(256)}", f"{octets}.0/24"))


def ipv6(chance: random.Random) -> str:
    """An address or prefix."""
    words = ":".join(f"{chance.randrange(1, 65536):x}" for _ in range(4))
    return chance.choice((f"{words}::/64", f"{words}::{chance.randrange(65536):x}"))


def port(chance: random.Random) -> str:
    """A port or range."""
    first, last = sorted(chance.sample(range(65536), 2))
    return chance.choice((str(first), f"{first}-{last}"))


def some_of(chance: random.Random, make: Callable[[random.Random], str], most: int) -> str:
    """A word of a rule: any, a value, or a list of up to MOST."""
    if chance.random() < 0.2:
        return "-"
    values = [make(chance) for _ in range(chance.randint(1, most))]
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"


def some(chance: random.Random, names: tuple[str, ...]) -> list[str]:
    """Any subset of NAMES, one, or all."""
    count = chance.choice((1, len(names), chance.randint(0, len(names))))
    return sorted(chance.sample(names, count))
