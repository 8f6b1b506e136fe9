# SPDX-License-Identifier: Apache-2.0
"""The verifier accepts the program of every configuration that the command accepts."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

import configurations
import pytest
from program import FlowProgram
from test_config import chosen
from test_rules import crowded

from bench.rules import texts
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.settings import HOOKS, TUNNELS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trapstream_vtap.probes.flows.settings import FlowSettings

AT_RANDOM = 9
EACH_TUNNEL = list(zip(TUNNELS, cycle(HOOKS), cycle(configurations.LAYERS[:2]), strict=False))
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


def made(
    monkeypatch: pytest.MonkeyPatch, path: Path, file: dict[str, Any], layers: Sequence[bool]
) -> FlowSettings:
    """What the command makes of FILE, for interfaces with these LAYERS."""
    path.write_text(json.dumps(file))
    settings = chosen(monkeypatch, "-i", "lo", "-c", str(path))
    (loopback,) = settings.interfaces
    interfaces = tuple(replace(loopback, ethernet=ethernet) for ethernet in layers)
    return replace(settings, interfaces=interfaces)


def load(
    monkeypatch: pytest.MonkeyPatch, path: Path, file: dict[str, Any], layers: Sequence[bool]
) -> None:
    """Load what the command makes of FILE, for interfaces with these LAYERS."""
    FlowProgram(made(monkeypatch, path, file, layers)).close()


def at_random(number: int) -> tuple[dict[str, Any], Sequence[bool]]:
    """A configuration file, and interfaces' layers."""
    chance = random.Random(number)  # noqa: S311 - configurations, not secrets
    return configurations.file(chance, most_rules=20), chance.choice(configurations.LAYERS)


@pytest.mark.parametrize("number", range(AT_RANDOM))
def test_at_random(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    """Whatever is chosen together, at any hook, loads."""
    load(monkeypatch, tmp_path / "vtap.json", *at_random(number))


@pytest.mark.parametrize(
    ("hook", "rules"), [("tc", crowded(256, 3)), ("xdp", texts(256)), ("socket", texts(256))]
)
def test_all_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hook: str, rules: list[str]
) -> None:
    """256 rules, even with lists in every word, load beside all that can be asked for."""
    file = {**EVERYTHING, "hook": hook, "RULES": rules}
    load(monkeypatch, tmp_path / "vtap.json", file, (True,))


@pytest.mark.parametrize(("tunnel", "hook", "layers"), EACH_TUNNEL)
def test_each_tunnel(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tunnel: str,
    hook: str,
    layers: tuple[bool, ...],
) -> None:
    """Each tunnel by itself loads, beside all else."""
    file = {**EVERYTHING, "hook": hook, "decapsulate": tunnel}
    load(monkeypatch, tmp_path / "vtap.json", file, layers)
