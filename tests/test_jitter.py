# SPDX-License-Identifier: Apache-2.0
"""Jitter against exact arithmetic: arrival times are chosen by the test, as receive timestamps."""

from __future__ import annotations

import random
import time
from fractions import Fraction
from typing import Any

import orjson
import plans
import pytest
from intervals import near, smoothed
from numbering import udp
from program import FlowProgram, settings

from bench import testrun
from trapstream_vtap import formats
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.records import schema_of
from trapstream_vtap.probes.flows.settings import STOP_GAP_NS
from trapstream_vtap.probes.flows.squares import limits, square_limits
from trapstream_vtap.probes.flows.table import FlowTable

NS = 10**9
HOUR = 3600 * NS


def measured(gaps: list[int], **chosen: Any) -> dict[str, Any]:
    """What a flow with those gaps (ns) exports, in one interval."""
    plain = settings(
        direction="ingress", layers=(True,), interval=HOUR, smoothed_jitter=True, **chosen
    )
    program = FlowProgram(plain)
    probe = FlowTable(plain, program.objects, SystemClock())
    when = time.time_ns() - sum(gaps)
    for gap in (0, *gaps):
        when += gap
        testrun.run(program.objects.programs["vtap_ingress"], udp(b""), tstamp=when)
    batch = bytearray()
    for _ in probe.sweep(force=True):
        batch += probe.read(10)
    program.close()
    plan = plans.compile_plan(
        formats.JSON, schema_of(plain), plans.Labels("x"), coarse_shift=limits(plain)[1]
    )
    ((payload, _, _),), _ = plan.render(batch, 10, 1 << 20)
    (record,) = orjson.loads(payload)
    return dict(record)


SERIES = {
    "10 million a second": (100, 10, 3000),
    "1,000 a second": (1_000_000, 300_000, 500),
    "just within the stop gap": (STOP_GAP_NS - 500_000, 500_000, 300),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", SERIES)
def test_against_exact_arithmetic(name: str, known: bool) -> None:  # noqa: FBT001
    """At both ends: mean, deviation, distance and smoothed jitter, within a thousandth of a ns."""
    middle, spread, count = SERIES[name]
    chance = random.Random(name)  # noqa: S311 - times, not secrets
    gaps = [middle + chance.randint(-spread, spread) for _ in range(count)]
    expected = middle + spread // 3 if known else None
    record = measured(gaps, expected_gap=expected)
    mean = Fraction(sum(gaps), count)
    variance = sum((gap - mean) ** 2 for gap in gaps) / count
    assert near(record["iat_mean_ms"], mean)
    # the squares of long gaps are cut by a few bits each in so long an interval
    coarse = Fraction(2 ** (square_limits(HOUR, STOP_GAP_NS)[1] + 1))
    deviation = Fraction(record["jitter_ms"]) * 10**6
    limit = square_limits(HOUR, STOP_GAP_NS)[0]
    allowed = coarse * max(gaps) if max(gaps) >= limit else Fraction(1, 100) * (1 + 2 * deviation)
    assert abs(deviation**2 - variance) <= allowed
    assert near(record["jitter_rfc3550_ms"], smoothed(gaps, expected))
    if expected is None:
        assert "iat_deviation_ms" not in record
    else:
        distance = Fraction(sum(abs(gap - expected) for gap in gaps), count)
        assert near(record["iat_deviation_ms"], distance)


def test_stop_begins_anew() -> None:
    """A gap above --stop-gap enters nothing, and smoothing begins anew behind it."""
    gaps = [1000, 9000, 5000]
    record = measured([700, 80_000, 1_000_001, *gaps], stop_gap=1_000_000)
    assert near(record["jitter_rfc3550_ms"], smoothed(gaps, None))
    assert near(record["iat_mean_ms"], Fraction(sum((700, 80_000, *gaps)), 5))
    only = measured([2_000_000], stop_gap=1_000_000)
    assert not {"iat_mean_ms", "jitter_rfc3550_ms"} & only.keys()


@pytest.mark.parametrize("short", [True, False])
def test_longest_sums(short: bool) -> None:  # noqa: FBT001
    """An hour of 10 million packets a second, or of gaps of 2 s, overflows no sum on export."""
    gap, expected = (100, STOP_GAP_NS) if short else (STOP_GAP_NS, 100)
    count = HOUR // gap
    plain = settings(direction="ingress", layers=(True,), interval=HOUR, expected_gap=expected)
    schema = schema_of(plain)
    limit, shift = square_limits(HOUR, STOP_GAP_NS)
    squares = count * gap**2 if gap < limit else 0
    coarse = 0 if gap < limit else count * (gap >> shift) ** 2
    assert max(squares, coarse) < 1 << 64
    columns = {
        "family": 4,
        "interface": 1,
        "duration": HOUR,
        "packets": count,
        "iat_count": count,
        "iat_sum": count * gap,
        "iat_squares": squares,
        "iat_squares_coarse": coarse,
        "iat_excess": count * max(0, gap - expected),
        "expected_gap": expected,
    }
    batch = schema.layout.pack(columns)
    plan = plans.compile_plan(formats.JSON, schema, plans.Labels("x"), coarse_shift=shift)
    ((payload, _, _),), _ = plan.render(batch, 10, 1 << 20)
    (record,) = orjson.loads(payload)
    assert record["iat_mean_ms"] == gap / 10**6
    assert record["iat_deviation_ms"] == abs(gap - expected) / 10**6
