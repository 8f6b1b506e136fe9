# SPDX-License-Identifier: Apache-2.0
"""No latency is off by what a clock is set by: neither the wall clock, nor CLOCK_TAI's distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

STAGES = ("stack", "queued", "read")
STEPS = (("wall", 3600), ("tai", 37), ("wall", -7200), ("tai", 0), ("wall", 3600), ("tai", 36))
LONGEST = 2000  # ms, on an emulated processor; less than any step
PARTS = ("measured", "unstamped", "delivery", "blocked", "negative", "other", "missed")


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[str, Any]:
    """What the guest has sent and measured."""
    given = {"stages": STAGES, "steps": STEPS}
    return dict(vm.python("tests/vm/guest_clock_latency.py", given=given, timeout=400).results)


@pytest.mark.parametrize("stage", STAGES)
def test_no_latency_is_off(results: dict[str, Any], stage: str) -> None:
    """All are as short as they were; packets whose time is in doubt are counted, and no others."""
    mine = [r for r in results["records"] if r.get("stage") == stage]
    records = [r for r in mine if r["name"] == "vtap_latency"]
    (account,) = [r for r in mine if r["name"] == "vtap_agent"][-1:]
    assert max(r["max_ms"] for r in records) < LONGEST
    assert min(r["min_ms"] for r in records) >= 0
    assert account["seen_packets"] == sum(account[f"{part}_packets"] for part in PARTS)
    assert sum(r["count"] for r in records) == account["measured_packets"]
    doubtful = account["negative_packets"]
    assert account["measured_packets"] + doubtful + account["unstamped_packets"] == results["sent"]
    # it is looked each second how far CLOCK_TAI is ahead; the wall clock is followed at once
    assert 0 < doubtful < results["sent"] // 4
