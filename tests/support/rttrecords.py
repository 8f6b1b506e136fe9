# SPDX-License-Identifier: Apache-2.0
"""Records of round-trip times, held against what they should say."""

from __future__ import annotations

from typing import Any

import pytest

CLOSE = 0.1
"""ms by which two who look at the same packet may differ."""

FATES = ("samples", "invalidated", "stretched", "evicted", "one_way", "waiting")

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


def agrees(record: dict[str, Any], expected: dict[str, float], close: float = CLOSE) -> None:
    """RECORD says what is EXPECTED: counts exactly, times within CLOSE ms.

    What was dropped is one count there; only the account tells stretched ones from others.
    """
    expected = dict(expected)
    expected["rtt_invalidated"] += expected.pop("rtt_stretched")
    for name, value in expected.items():
        if not name.endswith("_ms"):
            assert record.get(name, 0) == value, (name, record, expected)
        elif name[4:6] in ("p5", "p9"):
            assert record[name] == pytest.approx(value, rel=_BUCKETS, abs=close), (name, expected)
        else:
            twice = 2 if name == "rtt_jitter_ms" else 1  # a difference of two
            assert record[name] == pytest.approx(value, abs=twice * close), (name, record, expected)
    assert expected.keys() >= {
        name for name, value in record.items() if name[:4] == "rtt_" and value
    }


def total(records: list[dict[str, Any]], name: str) -> int:
    """Sum of a field over records."""
    return sum(record.get(name, 0) for record in records)
