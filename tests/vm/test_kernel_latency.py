# SPDX-License-Identifier: Apache-2.0
"""Under kernels 6.1 and 6.12, which trace functions: latency is what an application measures."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from latencies import MS, ways_back

from trapstream_vtap.probes.latency.settings import STAGES

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

INTERVAL = 0.4
PACKETS = 10
PAUSE = 0.05
SEEN = tuple(stage for stage in STAGES if stage != "rules")
"""By both; programs in netfilter came with 6.4."""


@pytest.fixture(scope="module", params=["vm", "newer"], ids=["6.1", "6.12"])
def machine(request: pytest.FixtureRequest) -> VirtualMachine:
    """Either kernel."""
    found: VirtualMachine = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def results(machine: VirtualMachine) -> dict[str, Any]:
    """What the guest has measured, and its application."""
    given = {"stages": STAGES, "packets": PACKETS, "interval": INTERVAL, "pause": PAUSE}
    done = machine.python("tests/vm/guest_latency.py", given=given, timeout=500)
    return dict(done.results)


def latencies(results: dict[str, Any], protocol: str) -> list[dict[str, Any]]:
    """The records of that protocol's run."""
    return [
        record
        for record in results[protocol]["records"]
        if record["name"] == "vtap_latency" and record["protocol"] == protocol
    ]


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_latency_and_the_way_back_are_what_the_application_measures(
    machine: VirtualMachine, results: dict[str, Any], protocol: str
) -> None:
    """Packet by packet, at every stage that this kernel has; the reader sleeps before `read`."""
    seen = SEEN if machine.release.startswith("6.1.") else STAGES
    found = results[protocol]["found"]
    assert len(found) == PACKETS
    # segments that never left the machine have no receive timestamp before local delivery
    stages = seen if protocol == "udp" else ("socket", "queued", "read")
    gaps = ways_back(latencies(results, protocol), found, stages, INTERVAL)
    assert len(gaps["read"]) > PACKETS // 2
    assert min(gaps["read"]) < 10 * MS  # an emulated processor
    assert median(gaps["queued"]) > PAUSE * 10**9


def test_what_it_has_not_is_said(machine: VirtualMachine, results: dict[str, Any]) -> None:
    """Programs in netfilter came with 6.4."""
    missing = "latency is not measured at rules (this kernel has no programs in netfilter"
    assert (missing in results["udp"]["said"]) == machine.release.startswith("6.1.")
    assert results["udp"]["said"].count("latency is not measured at") <= 1
