# SPDX-License-Identifier: Apache-2.0
"""Kernel 6.1's verifier accepts the program of every configuration that the command accepts."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import configurations
import pytest
from rulesets import crowded

from bench.rules import texts
from lab.vm import SHARED
from trapstream_vtap.probes.flows.program import source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.vm import VirtualMachine
    from trapstream_vtap.probes.flows.settings import FlowSettings

DEADLINE = 500.0  # seconds, for all of them together
STEPS = 1_000_000
"""That a verifier grants: BPF_COMPLEXITY_LIMIT_INSNS in include/linux/bpf.h."""

ALL_AT_ONCE = {"tc": crowded(128, 3), "xdp": texts(256), "socket": texts(256)}
FILES = {
    **{f"random {n}": configurations.at_random(n) for n in range(0, configurations.AT_RANDOM, 4)},
    **{
        f"all at once, {hook}": (
            {**configurations.EVERYTHING, "hook": hook, "RULES": rules},
            (True,),
        )
        for hook, rules in ALL_AT_ONCE.items()
    },
    "a guest": (configurations.WITH_A_GUEST, (True,)),
    "a guest alone": ({"probe": "flows,rtt", "direction": "both"}, (True,)),
    **{
        f"{tunnel}, {hook}": (
            {**configurations.EVERYTHING, "hook": hook, "decapsulate": tunnel},
            layers,
        )
        for tunnel, hook, layers in configurations.EACH_TUNNEL
    },
}
CHOICES = {f"sequence {n}": n for n in (1, 4, 6, 9, 10)}
"""Of `configurations.CHOICES`: every place of a number, shorter and longer jitter intervals."""
NAMES = (*FILES, *CHOICES)


def chosen(path: Path) -> Iterator[tuple[str, FlowSettings]]:
    """All configurations, by name."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (file, layers) in FILES.items():
            yield name, configurations.made(patch, path, file, layers)
    for name, number in CHOICES.items():
        yield name, configurations.choice(number)


@pytest.fixture(scope="module")
def verdicts(vm: VirtualMachine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the verifier said of each program of each configuration.

    One is loaded while the next is compiled.
    """
    directory = vm.shared / "loads"
    directory.mkdir()
    path = tmp_path_factory.mktemp("loads") / "vtap.json"
    failed: list[BaseException] = []
    given = {"directory": f"{SHARED}/loads", "names": NAMES}
    said: dict[str, Any] = {}

    def load() -> None:
        try:
            done = vm.python("tests/vm/guest_loads.py", timeout=DEADLINE, given=given)
            said.update(done.results)
        except RuntimeError as error:
            failed.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        for name, settings in chosen(path):
            wanted = source(settings, vm.release)
            vm.compile_ahead([wanted])
            (directory / ".new").write_text(json.dumps(asdict(wanted)), encoding="ascii")
            (directory / ".new").rename(directory / name)
    except BaseException:
        (directory / "stop").touch()
        raise
    finally:
        loading.join()
    if failed:
        raise failed[0]
    return said


@pytest.mark.parametrize("name", NAMES)
def test_loads_there(verdicts: dict[str, Any], name: str) -> None:
    """Each program loads, within the verifier's steps."""
    assert isinstance(verdicts[name], dict), verdicts[name]
    assert len(verdicts[name]) >= 2
    for program, steps in verdicts[name].items():
        assert 0 < steps <= STEPS, program
