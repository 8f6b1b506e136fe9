# SPDX-License-Identifier: Apache-2.0
"""Records of round-trip times, held against what they should say."""

from __future__ import annotations

from typing import Any

import pytest

CLOSE = 0.1
"""ms by which two who look at the same packet may differ."""

LATE = 1.0
"""ms by which a program may be late, on the mean, in looking at its clock."""

FATES = ("samples", "invalidated", "stretched", "evicted", "unanswered", "one_way", "waiting")

_BUCKETS = 0.1  # a percentile's own error, of itself: four buckets in a doubling


def roundtrips(records: list[dict[str, Any]], **tags: str) -> list[dict[str, Any]]:
    """The records of `vtap_rtt` with these TAGS."""
    return [
        record
        for record in records
        if record["name"] == "vtap_rtt" and all(record.get(t) == v for t, v in tags.items())
    ]


def only(records: list[dict[str, Any]], **tags: str) -> dict[str, Any]:
    """The one record with these TAGS."""
    found = roundtrips(records, **tags)
    assert len(found) == 1, (tags, found)
    return found[0]


def account(records: list[dict[str, Any]], protocol: str = "tcp") -> dict[str, Any]:
    """The last account of that PROTOCOL's probes; each of them has one fate."""
    found: dict[str, Any] = [
        record
        for record in records
        if record["name"] == "vtap_agent" and record.get("protocol") == protocol
    ][-1]
    assert found["probes_set"] == sum(found[name] for name in FATES)
    return found


def counts(record: dict[str, Any], expected: dict[str, float]) -> None:
    """RECORD has as many as EXPECTED, and says nothing else.

    What was dropped is one count there; only the account tells stretched ones from others.
    """
    dropped = expected["rtt_invalidated"] + expected["rtt_stretched"]
    assert record.get("rtt_count", 0) == expected["rtt_count"], (record, expected)
    assert record.get("rtt_invalidated", 0) == dropped, (record, expected)
    said = {name for name in record if name.startswith("rtt_")}
    if said:
        assert said == expected.keys() - {"rtt_stretched"}, (record, expected)


def unlike(
    record: dict[str, Any], expected: dict[str, float], close: float = CLOSE
) -> dict[str, tuple[float, float]]:
    """Times in RECORD that are not what is EXPECTED, by more than CLOSE ms or a bucket's width."""
    found = {}
    for name, value in expected.items():
        if name.endswith("_ms"):
            twice = 2 if name == "rtt_jitter_ms" else 1  # a difference of two
            bucket = _BUCKETS if name.startswith("rtt_p") else 0
            if record[name] != pytest.approx(value, rel=bucket, abs=twice * close):
                found[name] = record[name], value
    return found


def about(
    record: dict[str, Any], expected: dict[str, float], close: float = CLOSE, late: float = LATE
) -> None:
    """RECORD says what is EXPECTED: counts exactly, shortest and mean about, on a busy machine."""
    counts(record, expected)
    for name, most in (("rtt_min_ms", close), ("rtt_mean_ms", late)):
        assert abs(record[name] - expected[name]) <= most, (name, record, expected)


def total(records: list[dict[str, Any]], name: str) -> int:
    """Sum of a field over records."""
    return sum(record.get(name, 0) for record in records)
