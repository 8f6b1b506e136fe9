# SPDX-License-Identifier: Apache-2.0
"""No round-trip time is off by what a clock is set by: the wall clock, or CLOCK_TAI's distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rttrecords import account, roundtrips

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

STEPS = (("wall", 3600), ("tai", 37), ("wall", -7200), ("tai", 0), ("wall", 3600), ("tai", 1))
THINKS = 20.0  # ms before an answer, as the guest has it
CLOSE = 1.0  # ms by which a program may have looked at an answer later than the one who asked


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[str, Any]:
    """What the guest has asked and measured."""
    given = {"steps": STEPS}
    return dict(vm.python("tests/vm/guest_clock_rtt.py", given=given, timeout=400).results)


def test_none_is_off(results: dict[str, Any]) -> None:
    """Every answer is a sample; none is shorter than it was thought over, or longer than a wait."""
    records = roundtrips(results["records"], protocol="dns", side="remote")
    said = account(results["records"], "dns")
    assert said["samples"] == said["probes_set"] == len(results["took"])
    assert sum(record["rtt_count"] for record in records) == said["samples_handed"]
    assert said["samples_handed"] == len(results["took"])
    assert min(record["rtt_min_ms"] for record in records) >= THINKS - CLOSE
    assert max(record["rtt_max_ms"] for record in records) <= max(results["took"]) + CLOSE
