# SPDX-License-Identifier: Apache-2.0
"""JSON, as orjson and Python's own parser read it."""

from __future__ import annotations

import calendar
import datetime as dt
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import plans
import pytest
from expected import (
    AGENT,
    AGENT_COUNTS,
    INT64_MAX,
    INTERFACES,
    SHIFT,
    Flow,
    agree,
    flow_records,
    keys,
    names,
    says_name,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from trapstream_vtap.formats import JSON, JSON_DATAGRAM
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.probes.flows.settings import DEFAULT_KEY
from trapstream_vtap.schema import Kind, Schema
from trapstream_vtap.settings.core import JSON_LINE_LIMIT

if TYPE_CHECKING:
    from trapstream_vtap import formats

EDGES = [
    calendar.timegm((year, month, day, hour, 0, 0)) * 10**9 - back
    for year in (1970, 1972, 1999, 2000, 2001, 2024, 2100, 2200, 2261)
    for month, day, hour in ((1, 1, 0), (2, 28, 23), (3, 1, 0), (12, 31, 23))
    for back in (0, 1)
    if year > 1970 or month > 1
]
"""Around the ends of days, of February, and of years of all kinds."""
deterministic = settings(derandomize=True, deadline=None, max_examples=200)


def rendered(
    form: formats.Format, schema: Schema, labels: plans.Labels, batch: bytes, most_bytes: int
) -> list[bytes]:
    """The payloads that a batch makes; nothing may be too large."""
    plan = plans.compile_plan(form, schema, labels, coarse_shift=SHIFT)
    payloads, (too_large, _) = plan.render(batch, 10**6, most_bytes)
    assert too_large == 0
    return [payload for payload, _, _ in payloads]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    found = dict(pairs)
    assert len(pairs) == len(found)
    return found


@pytest.mark.parametrize("form", [JSON, JSON_DATAGRAM], ids=["tcp", "udp"])
@deterministic
@given(
    flows=st.lists(flow_records(), min_size=1, max_size=3),
    device=names(),
    interface=st.lists(names(), min_size=len(INTERFACES), max_size=len(INTERFACES)),
    key=keys(),
    bits=st.booleans(),
)
def test_flow_records(
    *,
    form: formats.Format,
    flows: list[Flow],
    device: str,
    interface: list[str],
    key: tuple[str, ...],
    bits: bool,
) -> None:
    """A payload is an array of flat objects that say exactly what went in, types included."""
    name_of = dict(zip(INTERFACES, interface, strict=True))
    labels = plans.Labels(device, name_of)
    batch = b"".join(flow.packed(key) for flow in flows)

    (payload,) = rendered(form, flow_schema(key, bits=bits), labels, batch, 10**9)

    as_text = json.loads(payload, parse_float=str, object_pairs_hook=unique_keys)
    assert len(flows) == len(as_text)
    for flow, found in zip(flows, as_text, strict=True):
        assert says_name(found.pop("device"), device)
        assert says_name(found.pop("interface"), name_of[flow.columns["interface"]])
        decimals = flow.decimals_with(bits=bits)
        assert agree(decimals, {name: found.pop(name) for name in decimals.keys() & found.keys()})
        rest = {"name": "vtap_flow", "timestamp": flow.time, **flow.tags_of(key), **flow.counts}
        assert rest == found
        for name, value in rest.items():
            assert type(value) is type(found[name])
    assert json.loads(payload) == orjson.loads(payload)


@deterministic
@given(
    values=st.lists(st.integers(0, INT64_MAX), min_size=AGENT_COUNTS, max_size=AGENT_COUNTS),
    device=names(),
)
def test_agent_records(values: list[int], device: str) -> None:
    """The exporter's own account is told in integers, exact beyond what a double holds."""
    columns = [f.name for f in AGENT.fields if f.kind is Kind.COUNT]
    counts = dict(zip(columns, values, strict=True))
    record = AGENT.layout.pack({"interface": 7, "time": 1_700_000_000_123_456_789, **counts})

    (payload,) = rendered(JSON, AGENT, plans.Labels(device, {7: "eth0"}), record, 10**9)

    (found,) = json.loads(payload)
    assert says_name(found.pop("device"), device)
    expected = {"name": "vtap_agent", "interface": "eth0", "timestamp": 1_700_000_000_123_456_789}
    assert expected | counts == found
    assert orjson.loads(payload) == json.loads(payload)


@deterministic
@given(time=st.one_of(st.integers(0, INT64_MAX), st.sampled_from(EDGES)))
def test_dates(time: int) -> None:
    """With --timestamp rfc3339 it is the date and time that Python's calendar says, to the ns."""
    record = AGENT.layout.pack({"interface": 7, "time": time})
    form = replace(JSON, rfc3339=True)

    (payload,) = rendered(form, AGENT, plans.Labels("d", {7: "eth0"}), record, 10**9)

    (found,) = json.loads(payload)
    day = dt.datetime.fromtimestamp(time // 10**9, dt.UTC)
    assert found["timestamp"] == f"{day:%Y-%m-%dT%H:%M:%S}.{time % 10**9:09}Z"


@settings(deterministic, max_examples=30)
@given(flows=st.lists(flow_records(), min_size=1, max_size=3), times=st.integers(50, 300))
def test_lines_over_tcp(flows: list[Flow], times: int) -> None:
    """Over TCP an array is one line of at most 60,000 bytes, its end included; nothing is lost."""
    batch = b"".join(flow.packed(DEFAULT_KEY) for flow in flows) * times
    labels = plans.Labels("192.0.2.1", dict.fromkeys(INTERFACES, "eth0"))

    payloads = rendered(JSON, flow_schema(), labels, batch, JSON_LINE_LIMIT)

    assert JSON_LINE_LIMIT <= 60_000
    for payload in payloads:
        assert len(payload) <= 60_000
        assert payload.endswith(b"]\n")
        assert payload.count(b"\n") == 1
    found = [record["timestamp"] for payload in payloads for record in orjson.loads(payload)]
    assert [flow.time for flow in flows] * times == found


def test_datagrams_end_with_the_array() -> None:
    """In a datagram nothing stands behind the array."""
    record = AGENT.layout.pack({"interface": 1})

    (payload,) = rendered(JSON_DATAGRAM, AGENT, plans.Labels("d", {1: "eth0"}), record, 1400)

    assert payload.startswith(b'[{"name":"vtap_agent",')
    assert payload.endswith(b'"timestamp":0}]')
