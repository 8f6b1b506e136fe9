# SPDX-License-Identifier: Apache-2.0
"""The histogram of inter-arrival times: arrival times are chosen by the test."""

from __future__ import annotations

import random
import struct
import time
from typing import Any

import pytest
from program import LOOPBACK, FlowProgram, settings

from bench import testrun
from trapstream_vtap.clock import NS, SystemClock
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.probes.flows.layouts import GAP_BOUNDS
from trapstream_vtap.probes.flows.table import FlowTable

MOST = 3 * NS
WHERE = ("127.0.0.1", 8080)


def frame(protocol: int, ipv6: bool = False) -> bytes:  # noqa: FBT001, FBT002
    """A packet of PROTOCOL: room for any transport header behind the IP header."""
    transport = bytes(12) + b"\x50" + bytes(19)  # as TCP: a header of 20 bytes
    transport = transport[:4] + struct.pack(">H", len(transport)) + transport[6:]  # as UDP: length
    if ipv6:
        header = struct.pack(">IHBB", 6 << 28, len(transport), protocol, 64) + bytes(32)
        return bytes(12) + b"\x86\xdd" + header + transport
    header = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0, 0xC0000201, 0xC6336401
    )
    return bytes(12) + b"\x08\x00" + header + transport


def gathered(arrivals: list[tuple[bytes, int]], **chosen: Any) -> dict[str, list[int]]:
    """The histogram by protocol when these frames have come at these times (ns)."""
    plain = settings(direction="ingress", layers=(True,), metrics=WHERE, stop_gap=MOST, **chosen)
    program = FlowProgram(plain)
    probe = FlowTable(plain, program.objects, SystemClock())
    begin = time.time_ns() - max(when for _, when in arrivals)
    for packet, when in arrivals:
        testrun.run(program.objects.programs["vtap_ingress"], packet, tstamp=begin + when)
    found = probe.gaps()
    program.close()
    assert {(index, direction) for index, direction, _ in found} == {(LOOPBACK, 0)}
    return {protocol: counts for (_, _, protocol), counts in found.items()}


def sorted_into(gaps: list[int]) -> list[int]:
    """The sum of GAPS, and how many of them are up to each bound and above the one before."""
    bounds = [*GAP_BOUNDS, MOST + 1]
    return [
        sum(gaps),
        *(
            sum(low < gap <= high for gap in gaps)
            for low, high in zip([-1, *bounds], bounds, strict=False)
        ),
    ]


def test_bounds() -> None:
    """Three to a decade, from a microsecond to five seconds; each bound is in its own bucket."""
    assert GAP_BOUNDS[:4] == (1000, 2000, 5000, 10_000)
    assert GAP_BOUNDS[-1] == 5 * NS
    gaps = [bound + more for bound in GAP_BOUNDS if bound < MOST for more in (-1, 0, 1)]
    gaps += [0, MOST, MOST + 1]  # the last one is a stop
    times = [0]
    for gap in gaps:
        times.append(times[-1] + gap)
    found = gathered([(frame(17), when) for when in times])
    expected = sorted_into(gaps[:-1])
    assert found["udp"] == expected
    assert sum(expected[1:]) == len(gaps) - 1


@pytest.mark.parametrize("by_protocol", [True, False])
def test_protocols(by_protocol: bool) -> None:  # noqa: FBT001
    """Each protocol is by itself where flows are told apart by it, others are together."""
    chance = random.Random(7)  # noqa: S311 - times, not secrets
    frames = {
        "tcp": [frame(6)],
        "udp": [frame(17), frame(17, ipv6=True)],
        "icmp": [frame(1)],
        "icmpv6": [frame(58, ipv6=True)],
        "other": [frame(132), frame(50)],
    }
    arrivals, last = [], {}
    expected: dict[str, list[int]] = {name: [] for name in frames}
    together: list[int] = []
    when = 0
    for _ in range(2000):
        when += round(10 ** chance.uniform(1, 7))
        name = chance.choice(list(frames))
        packet = chance.choice(frames[name])
        arrivals.append((packet, when))
        if packet in last:
            expected[name].append(when - last[packet])
        if "" in last:
            together.append(when - last[""])
        last[packet] = last[""] = when
    key = ("protocol", "src_ip") if by_protocol else ("vlan",)
    found = gathered(arrivals, key=key)
    if by_protocol:
        assert found == {name: sorted_into(gaps) for name, gaps in expected.items()}
    else:
        assert found == {"": sorted_into(together)}


def test_off() -> None:
    """Without --metrics the program has no histogram."""
    plain = settings(direction="ingress", layers=(True,))
    assert "#define VTAP_GAPS" not in flow.source(plain).text
    assert "gaps" not in flow.source(plain).maps
