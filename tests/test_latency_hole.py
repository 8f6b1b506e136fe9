# SPDX-License-Identifier: Apache-2.0
"""What waits in the kernel for a segment ahead of it that comes late is the network's latency."""

from __future__ import annotations

import time
from typing import Any

import pytest
import tap
from latencies import Application
from waiting import wait_for
from withheld import Relay

PORT = 7001
GAP = 0.02  # seconds between segments
BEFORE, BEHIND, AFTER = 15, 5, 15  # segments; the one that is withheld is ahead of those behind
SECONDS = 0.6  # that it is withheld
PARTS = ("measured", "unstamped", "delivery", "blocked", "negative", "other", "missed")


def run(held: int, pause: float) -> tuple[list[dict[str, Any]], list[float]]:
    """Records of a connection whose segment of that number is late, and how long others waited."""
    with Relay(held, SECONDS) as relay:
        options = ("-i", "wire0", "--probe", "latency", "-t", "0.2")
        with tap.Tap(relay.receiver, *options, "--latency-stages", "stack,queued,read") as tapped:
            sending, taking = relay.connection(PORT)
            Application(taking, pause)
            for number in range(BEFORE + 1 + BEHIND + AFTER):
                if number == BEFORE + 1 + BEHIND and held:
                    wait_for(lambda: relay.waits)
                    time.sleep(0.5)  # until all has been acknowledged
                sending.send(bytes(100 + number))
                time.sleep(0 if BEFORE <= number < BEFORE + BEHIND else GAP)
            time.sleep(0.3 + pause)
            return tapped.stop(), relay.waits


def account(records: list[dict[str, Any]], stage: str) -> dict[str, int]:
    """The last one of that stage."""
    rows = [r for r in records if r["name"] == "vtap_agent" and r.get("stage") == stage]
    return dict(rows[-1])


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_what_waited_for_a_late_segment_is_counted_apart(pause: float) -> None:
    """It is in no latency; all that came ahead of it, and after it has been read, is."""
    records, waits = run(BEFORE + 1, pause)
    assert min(waits) > SECONDS / 3 + pause
    for stage in ("queued", "read"):
        row = account(records, stage)
        assert row["blocked_packets"] > 0
        assert row["seen_packets"] == sum(row[f"{part}_packets"] for part in PARTS)
        assert row["packets_handed"] == row["measured_packets"]
        mine = [r for r in records if r["name"] == "vtap_latency" and r["stage"] == stage]
        assert max(r["max_ms"] for r in mine) / 1000 < SECONDS / 3 + pause
    if not pause:  # else several are read as one
        fewest = (BEFORE + AFTER) * 2 // 3
        most = BEFORE + 1 + BEHIND + AFTER - len(waits)
        assert fewest < account(records, "read")["measured_packets"] <= most
    stack = account(records, "stack")  # where nothing has waited yet
    assert stack["blocked_packets"] == 0
    assert stack["measured_packets"] > BEFORE + AFTER


def test_what_comes_in_order_is_measured() -> None:
    """Nothing is blocked then, however much the reader lags behind."""
    records, _ = run(0, 0.03)
    for stage in ("stack", "queued", "read"):
        row = account(records, stage)
        assert row["blocked_packets"] == 0
        assert row["measured_packets"] > 0
