# SPDX-License-Identifier: Apache-2.0
"""On a machine that has just booted, with intervals that began before it did, nothing is lost."""

from __future__ import annotations

import json
import platform
import re
from typing import TYPE_CHECKING, Any

import lastline
import pytest
import tap

from lab.namespace import Namespace, veth
from lab.vm import SHARED, VirtualMachine
from trapstream_vtap.bpf import btf
from trapstream_vtap.probes.drops import DROPS
from trapstream_vtap.probes.drops import program as drop
from trapstream_vtap.probes.flows import FLOWS
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.settings.command import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.bpf.source import Source

PACKETS = 25  # before the reload, and once more after it
OPTIONS = {
    "a minute, reload": ["-t", "60", "-c", f"{SHARED}/rules.json"],
    "a minute, jitter by the hour": ["-t", "60", "-j", "3600", "--smoothed-jitter"],
    "an hour, jitter by the minute": [
        *("-t", "3600", "-j", "60", "--metrics", "127.0.0.1:0", "--sequence-offset", "0"),
    ],
    "an hour, drops": ["-t", "3600", "--probe", "flows,drops", "--drop-reasons", "all"],
}
RULES = {"RULES": ["- - - - udp"]}


def sources(machine: VirtualMachine) -> Iterator[Source]:
    """All that will be loaded there; to compile it takes ten times as long there."""
    done = machine.run("cp", "/sys/kernel/btf/vmlinux", SHARED, timeout=60)
    assert done.status == 0, done.output
    rules = machine.shared / "rules.json"
    rules.write_text(json.dumps(RULES))
    with pytest.MonkeyPatch.context() as patch, Namespace() as here, Namespace() as there:
        veth(here, "wire0", there, "wire0")
        patch.setattr(btf, "DIRECTORY", machine.shared)
        with here.entered():
            for options in OPTIONS.values():
                words = [word.replace(SHARED, str(machine.shared)) for word in options]
                chosen = load_settings([*words, "-"], ("wire0",))
                yield flow.source(chosen.of(FLOWS), machine.release)
                if DROPS in chosen.probes:
                    yield drop.source(chosen.of(DROPS), "drops")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What the guest, booted for this, has done and seen."""
    if platform.machine() != "x86_64":
        pytest.skip("The virtual machine runs this machine's own programs; its kernel is amd64.")
    given = {"options": list(OPTIONS.values()), "packets": PACKETS}
    with VirtualMachine() as machine:
        machine.compile_ahead([*sources(machine)])
        done = machine.python("tests/vm/guest_boot.py", given=given, timeout=400)
    return dict(done.results)


@pytest.mark.parametrize("name", OPTIONS)
def test_all_is_handed_over(results: dict[str, Any], name: str) -> None:
    """Each packet is in the records, the account closes, and the end is a good one."""
    run = results["runs"][list(OPTIONS).index(name)]
    assert results["uptime"] < 600
    assert run["code"] == 0, run["said"]
    flows = [r for r in tap.flows(run["records"]) if r["dst_port"] == "7001"]
    assert sum(r.get("packets", 0) for r in flows) == 2 * PACKETS
    account = tap.agent(run["records"], "wire0")
    assert account["counted_packets"] == account["packets_handed"] >= 2 * PACKETS
    assert account["evicted_packets"] == account["held_packets"] == account["stranded_packets"] == 0
    said = lastline.read(run["said"])
    assert (said.packets, said.lost) == (account["counted_packets"], 0)


def test_table_that_is_too_large(results: dict[str, Any]) -> None:
    """A table for which the machine has no memory is refused, with both numbers."""
    code, said = results["large"]
    assert code == 1
    assert re.search(r"--flow-table-size 16777216 takes [\d,]+ MiB .* the [\d,]+ MiB that", said)


def test_sequence_errors(results: dict[str, Any]) -> None:
    """No number is missing, and all have been looked at."""
    run = results["runs"][list(OPTIONS).index("an hour, jitter by the minute")]
    flows = [r for r in tap.flows(run["records"]) if r["dst_port"] == "7001"]
    assert max(r.get("seq_received", 0) for r in flows) == 2 * PACKETS
    assert {r.get("seq_missing", 0) for r in flows} == {0}
