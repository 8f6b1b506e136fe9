# SPDX-License-Identifier: Apache-2.0
"""The verifier accepts the program of every configuration that the command accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from configurations import AT_RANDOM, EACH_TUNNEL, EVERYTHING, WITH_A_GUEST, at_random, made
from program import FlowProgram, settings
from rulesets import crowded

from bench.rules import texts
from trapstream_vtap.bpf import kernel
from trapstream_vtap.probes.flows.settings import HOOKS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def load(
    monkeypatch: pytest.MonkeyPatch, path: Path, file: dict[str, Any], layers: Sequence[bool]
) -> None:
    """Load what the command makes of FILE, for interfaces with these LAYERS."""
    FlowProgram(made(monkeypatch, path, file, layers)).close()


@pytest.mark.parametrize("hook", HOOKS)
def test_quickly(hook: str) -> None:
    """The kernel checks each program of a plain run in 100,000 steps, about a tenth of a second.

    It goes through each way that a packet may take; where many ways meet, they must look the same
    to it, or it goes through all that follows for each. A start waits for it.
    """
    loaded = FlowProgram(settings(hook=hook))
    steps = {n: kernel.verified_instructions(p) for n, p in loaded.objects.programs.items()}
    loaded.close()
    assert not {name: each for name, each in steps.items() if each > 100_000}


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


@pytest.mark.parametrize("how", ["sequence", "timestamp"])
def test_with_a_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """Round-trip times measured in it load, beside all else."""
    file = {**WITH_A_GUEST, "RULES": crowded(256, 3), "rtt_tcp": how}
    load(monkeypatch, tmp_path / "vtap.json", file, (True, False))


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
