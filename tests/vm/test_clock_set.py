# SPDX-License-Identifier: Apache-2.0
"""On a machine whose clock is really set, by an hour forward and back, nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tap

from lab.namespace import Namespace, veth
from lab.vm import SHARED
from trapstream_vtap.bpf import btf
from trapstream_vtap.probes.drops import DROPS
from trapstream_vtap.probes.drops import program as drop
from trapstream_vtap.probes.flows import FLOWS
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.settings.command import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.vm import VirtualMachine
    from trapstream_vtap.bpf.source import Source

STEPS = (3600, -7200, 3600.25, -0.25)  # seconds; the last two move the grid, too
OPTIONS = {
    "each second": ["-t", "1", "--sequence-offset", "0"],
    "jitter by four, drops, metrics": [
        *("-t", "1", "-j", "4", "--smoothed-jitter", "--probe", "flows,drops"),
        *("--metrics", "127.0.0.1:0"),
    ],
}


def sources(machine: VirtualMachine) -> Iterator[Source]:
    """All that will be loaded there."""
    done = machine.run("cp", "/sys/kernel/btf/vmlinux", SHARED, timeout=60)
    assert done.status == 0, done.output
    with pytest.MonkeyPatch.context() as patch, Namespace() as here, Namespace() as there:
        veth(here, "wire0", there, "wire0")
        patch.setattr(btf, "DIRECTORY", machine.shared)
        with here.entered():
            for options in OPTIONS.values():
                chosen = load_settings(["-i", "wire0", *options, "-"], ())
                yield flow.source(chosen.of(FLOWS), machine.release)
                if DROPS in chosen.probes:
                    yield drop.source(chosen.of(DROPS), "drops")


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[str, Any]:
    """What the guest has done and seen."""
    given = {"options": [["-i", "wire0", *o] for o in OPTIONS.values()], "steps": STEPS}
    vm.compile_ahead([*sources(vm)])
    return dict(vm.python("tests/vm/guest_clock.py", given=given, timeout=400).results)


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_is_lost(results: dict[str, Any], name: str) -> None:
    """Each packet is in the records once, no interval is absurd, and the account closes."""
    run = results["runs"][list(OPTIONS).index(name)]
    assert run["code"] == 0, run["said"]
    assert "the clock was set; the grid of intervals follows it" in run["said"]
    flows = [r for r in tap.flows(run["records"]) if r["dst_port"] == "7001"]
    assert sum(r.get("packets", 0) for r in flows) == results["sent"]
    account = tap.agent(run["records"], "wire0")
    assert account["counted_packets"] == account["packets_handed"] >= results["sent"]
    assert account["evicted_packets"] == account["held_packets"] == account["stranded_packets"] == 0
    rates = [r["bytes"] / r["throughput_bytes_per_second"] for r in flows if r.get("bytes")]
    assert all(0 < seconds < 3 for seconds in rates)  # seconds that they say they are of
    assert {r.get("seq_missing", 0) for r in flows} == {0}
