# SPDX-License-Identifier: Apache-2.0
"""The command `vtap`: what can be measured here is what loads here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trapstream_vtap.bpf import btf
from trapstream_vtap.errors import RunError
from trapstream_vtap.probes import REGISTRY, named
from trapstream_vtap.probes.latency import hooks
from trapstream_vtap.probes.latency.settings import STAGES

COMMAND = (sys.executable, "-c", "from trapstream_vtap.vtap import main; main()")


def said(*words: str) -> dict[str, list[str]]:
    """What is said of each probe."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    name = ""
    for line in done.stdout.splitlines():
        if line.startswith(" "):
            found[name].append(line.strip())
        else:
            name = line.partition(":")[0]
            found[name] = []
    return found


def test_each_probe_is_told_of() -> None:
    """With what of it the kernel has not: traps without devlink, stages without a hook."""
    found = said("probes")
    assert [*found] == [probe.name for probe in REGISTRY]
    assert found["flows"] == ["all of it"]
    here = hooks.Kernel(btf.read())
    missing = [stage for stage in STAGES if here.find(stage).missing]
    (latency,) = found["latency"]
    assert all(stage in latency for stage in missing)
    assert missing or latency == "all of it"
    if not btf.read().arguments("devlink_trap_report"):
        with pytest.raises(RunError) as refused:
            named("traps").to_load(named("traps").demanding())
        assert found["traps"] == [f"not here: {refused.value}"]


def test_it_takes_root_to_try() -> None:
    """Else it would say that the kernel has nothing."""
    done = subprocess.run(
        [*COMMAND, "probes"], capture_output=True, text=True, check=False, user=65534, cwd="/"
    )
    assert done.returncode == 1
    assert done.stderr == "Error: Only root can try what the kernel has.\n"


def test_it_is_installed() -> None:
    """Beside vtap-stream."""
    command = Path(sys.executable).parent / "vtap"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("vtap, version ")
