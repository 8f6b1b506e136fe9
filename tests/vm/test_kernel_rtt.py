# SPDX-License-Identifier: Apache-2.0
"""Under kernel 6.1, over a way that is long by netem: round trips are those of the packets."""

from __future__ import annotations

import base64
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest
from exchanges import segments
from roundtrips import RoundTrips
from rttrecords import about, only

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

DELAY = 0.05  # seconds
TIMES = 12
GIVEN = {"delay": DELAY, "loss": 3, "times": TIMES}
EMULATED = 10.0  # ms between two looks at the same packet, on an emulated processor
THERE = "192.0.2.2"


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[str, Any]:
    """What the guest has measured, and its programs."""
    return dict(vm.python("tests/vm/guest_rtt.py", given=GIVEN, timeout=500).results)


@pytest.fixture(scope="module")
def found(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RoundTrips:
    """What the judge finds in the capture."""
    path = tmp_path_factory.mktemp("guest") / "capture.pcap"
    path.write_bytes(base64.b64decode(results["capture"]))
    return RoundTrips().take(segments(path, results["mac"]))


@pytest.mark.parametrize("side", ["remote", "local"])
def test_records_say_what_the_packets_say(
    results: dict[str, Any], found: RoundTrips, side: str
) -> None:
    """Counts exactly, times about as a capture has them; some was lost, and sent again."""
    expected = found.fields(side)
    assert expected["rtt_count"] > TIMES / 2
    record = only(results["records"], side=side, protocol="tcp")
    about(record, expected, EMULATED, EMULATED)
    if side == "remote":
        assert min(sample.rtt for sample in found.samples if sample.side == side) >= DELAY * 1e9


@pytest.mark.parametrize("protocol", ["icmp", "dns"])
def test_requests_take_what_their_programs_measure(results: dict[str, Any], protocol: str) -> None:
    """Never longer, and not much less."""
    record = only(results["records"], side="remote", protocol=protocol, dst_ip=THERE)
    own = results[protocol]
    assert record["rtt_count"] == len(own) == TIMES
    assert DELAY * 1000 <= record["rtt_min_ms"] <= min(own)
    assert 0 <= mean(own) - record["rtt_mean_ms"] < 3 * EMULATED


def test_the_shortest_is_the_kernels_own(results: dict[str, Any], found: RoundTrips) -> None:
    """Of the connection that asks, `tcp_info` has the same."""
    own = [s.rtt / 1e6 for s in found.samples if s.side == "remote" and s.target.port == 9100]
    assert results["kernel"][1] == pytest.approx(min(own), abs=EMULATED)
    record = only(results["records"], side="remote", protocol="tcp")
    assert record["rtt_min_ms"] <= results["kernel"][1] + EMULATED
