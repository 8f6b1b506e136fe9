# SPDX-License-Identifier: Apache-2.0
"""Configurations that a user may choose, at random: command lines, and files beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from program import settings

from trapstream_vtap.clock import NS
from trapstream_vtap.probes.flows.settings import LONGEST_STOP_GAP, MOST_OFFSET

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from trapstream_vtap.probes.flows.settings import FlowSettings

import json
import random
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.settings import HOOKS, TUNNELS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trapstream_vtap.probes.flows.settings import FlowSettings

from typing import TYPE_CHECKING

from click.testing import CliRunner

from trapstream_vtap import cli
from trapstream_vtap.probes.flows import FLOWS

if TYPE_CHECKING:
    from trapstream_vtap.settings.settings import Settings

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    collector: tuple[str, ...] = ("127.0.0.1", "8094"),
) -> Any:
    """What the command makes of its command line."""
    found: list[Any] = []

    def nothing(made: Settings, _again: object) -> bool:
        found.append(made)
        return True

    monkeypatch.setattr(cli, "run", nothing)
    done = CliRunner().invoke(cli.main, [*arguments, *collector])
    assert done.exit_code == 0, done.output
    (made,) = found
    return made.of(FLOWS)


AT_RANDOM = 9
EACH_TUNNEL = list(zip(TUNNELS, cycle(HOOKS), cycle(LAYERS[:2]), strict=False))
EVERYTHING = {
    "decapsulate": list(TUNNELS),
    "key": list(KEY_FIELDS),
    "sequence_offset": 4,
    "sequence_pattern": "5EC70123",
    "sequence_bits": 64,
    "expected_gap": 20,
    "smoothed_jitter": True,
    "metrics": "127.0.0.1:8080",
}


WITH_A_GUEST = {
    "probe": "flows,rtt",
    "direction": "both",
    "key": [name for name in KEY_FIELDS if name != "tunnel_id"],
    **{name: value for name, value in EVERYTHING.items() if name not in ("decapsulate", "key")},
}


def made(
    monkeypatch: pytest.MonkeyPatch, path: Path, file: dict[str, Any], layers: Sequence[bool]
) -> FlowSettings:
    """What the command makes of FILE, for interfaces with these LAYERS."""
    path.write_text(json.dumps(file))
    settings = chosen(monkeypatch, "-i", "lo", "-c", str(path))
    (loopback,) = settings.interfaces
    interfaces = tuple(replace(loopback, ethernet=ethernet) for ethernet in layers)
    return replace(settings, interfaces=interfaces)


def at_random(number: int) -> tuple[dict[str, Any], Sequence[bool]]:
    """A configuration file, and interfaces' layers."""
    chance = random.Random(number)  # noqa: S311 - configurations, not secrets
    return file(chance, most_rules=20), chance.choice(LAYERS)


KEYS = ((), ("protocol",), ("src_ip", "dst_port", "vlan"))
ALL = {"expected_gap": 20_000_000, "smoothed_jitter": True}
RULES = ("10.0.0.0/8 [192.0.2.1,2001:db8::/32] - 1-9 [udp,tcp]", "- - 5000 - -")
CHOICES = (
    {"sequence": True},
    {"sequence": True, "tcp_sequence": "packet", "smoothed_jitter": True},
    {"offset": 0, "max_events": 0, **ALL},
    {"offset": 4096, "tcp_sequence": "packet"},
    {"offset": MOST_OFFSET, "sequence_threshold": (1 << 31) - 1, **ALL},
    {"offset": 8, "pattern": 0, "tcp_sequence": "packet", "max_events": 1_000_000},
    {"offset": 0, "pattern": 0xFFFFFFFF, "sequence_threshold": 1, **ALL},
    {"offset": MOST_OFFSET, "pattern": 0x00FF00FF, "stop_gap": LONGEST_STOP_GAP * NS},
    {"offset": 2, "sequence_bits": 16, "tcp_sequence": "packet", "rules": RULES, **ALL},
    {"offset": 8, "sequence_bits": 64, "sequence_order": "little", "pattern": 7, "rules": RULES},
    {"stop_gap": 1_000_000, "expected_gap": 0, "smoothed_jitter": True},
    {"jitter_interval": NS, "offset": 0, "pattern": 0xFFFFFFFF, "rules": RULES, **ALL},
    {"jitter_interval": 7200 * NS, "offset": 4096, "rules": RULES, **ALL},
    {"jitter_interval": 7200 * NS, "sequence": True, "tcp_sequence": "packet"},
)


def choice(number: int) -> FlowSettings:
    """One of them, with an Ethernet header and without, in a direction: they are alike."""
    direction = ("ingress", "egress")[number // 2 % 2]
    return settings(key=KEYS[number % len(KEYS)], direction=direction, **CHOICES[number])
