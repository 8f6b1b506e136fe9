# SPDX-License-Identifier: Apache-2.0
"""Line protocol, as InfluxDB's own parser reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

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
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import Oracle, Point, Refused

from trapstream_vtap import formats
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.schema import Schema

deterministic = settings(derandomize=True, deadline=None, max_examples=200)
SEQUENCE_FIELDS = tuple(
    f"seq_{name}"
    for name in (
        "last",
        "received",
        "reverse",
        "small",
        "big",
        "duplicate",
        "errors",
        "missing",
        "restarts",
    )
)
interfaces = st.lists(names(), min_size=len(INTERFACES), max_size=len(INTERFACES), unique=True).map(
    lambda chosen: dict(zip(INTERFACES, chosen, strict=True))
)

_TEXT = r"(?:[^\x00-\x20\x7f-\x9f\\,=]|\\[ ,=])+"  # escaped where it must be; no backslash else
_NUMBER = r"(?:\d+i|\d+\.\d+)"
SAFE_LINE = re.compile(
    rf"vtap_(?:flow|agent)(?:,[a-z_]+={_TEXT})+ [a-z_]+={_NUMBER}(?:,[a-z_]+={_NUMBER})* \d+"
)
"""The safe subset: shared/notes/collectors.md, section 4b."""


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """InfluxDB's parser, running."""
    with Oracle() as running:
        yield running


def rendered(schema: Schema, labels: plans.Labels, batch: bytes) -> bytes:
    """The one payload that a batch makes."""
    plan = plans.compile_plan(formats.INFLUX, schema, labels, coarse_shift=SHIFT)
    ((payload, _, _),), (too_large, _) = plan.render(batch, 10**6, 10**9)
    assert too_large == 0
    return payload


def fields(flow: Flow, *, bits: bool) -> dict[str, Any]:
    """The fields that a point must have; the last place of jitter may differ (`expected.agree`)."""
    decimals = flow.decimals_with(bits=bits)
    values: dict[str, Any] = flow.counts | {name: float(text) for name, text in decimals.items()}
    if "jitter_ms" in values:
        values["jitter_ms"] = pytest.approx(values["jitter_ms"], rel=0, abs=1.5e-9)
    return values


@deterministic
@given(
    flows=st.lists(flow_records(), min_size=1, max_size=3),
    device=names(),
    interface=interfaces,
    key=keys(),
    bits=st.booleans(),
)
def test_flow_records(
    *,
    oracle: Oracle,
    flows: list[Flow],
    device: str,
    interface: dict[int, str],
    key: tuple[str, ...],
    bits: bool,
) -> None:
    """InfluxDB reads from every payload exactly the records that went in, types included."""
    payload = rendered(
        flow_schema(key, bits=bits),
        plans.Labels(device, interface),
        b"".join(flow.packed(key) for flow in flows),
    )

    points = oracle.parse(payload)

    assert len(flows) == len(points)
    for flow, point in zip(flows, points, strict=True):
        named = {"device": device, "interface": interface[flow.columns["interface"]]}
        for tag, name in named.items():
            assert says_name(point.tags.pop(tag), name)
        expected = Point("vtap_flow", flow.tags_of(key), fields(flow, bits=bits), flow.time)
        assert expected == point
        integers = {name for name, value in point.fields.items() if isinstance(value, int)}
        assert flow.counts.keys() == integers


@deterministic
@given(
    flows=st.lists(flow_records(), min_size=1, max_size=3),
    device=names(),
    interface=interfaces,
)
def test_safe_subset(flows: list[Flow], device: str, interface: dict[int, str]) -> None:
    """Every line keeps to what all parsers read alike, and decimals are as short as can be."""
    payload = rendered(
        flow_schema(KEY_FIELDS),
        plans.Labels(device, interface),
        b"".join(flow.packed(KEY_FIELDS) for flow in flows),
    )

    *lines, rest = payload.decode().split("\n")

    assert rest == ""
    for flow, line in zip(flows, lines, strict=True):
        assert SAFE_LINE.fullmatch(line), line
        tags = re.findall(r"(?<!\\),([a-z_]+)=", re.split(r"(?<!\\) ", line)[0])
        assert sorted(set(tags)) == tags
        written = dict(pair.split("=") for pair in line.split(" ")[-2].split(","))
        counts = {name: written.pop(name) for name in flow.counts}
        assert {name: f"{value}i" for name, value in flow.counts.items()} == counts
        assert agree(flow.decimals_with(bits=False), written)


@deterministic
@given(
    values=st.lists(st.integers(0, INT64_MAX), min_size=AGENT_COUNTS, max_size=AGENT_COUNTS),
    device=names(),
)
def test_agent_records(oracle: Oracle, values: list[int], device: str) -> None:
    """The exporter's own account reaches InfluxDB as integers, all of them."""
    columns = [f.name for f in AGENT.fields if f.kind is Kind.COUNT]
    counts = dict(zip(columns, values, strict=True))
    record = AGENT.layout.pack({"interface": 7, "time": 1_700_000_000_000_000_000, **counts})

    payload = rendered(AGENT, plans.Labels(device, {7: "eth0"}), record)

    (point,) = oracle.parse(payload)
    assert says_name(point.tags.pop("device"), device)
    assert Point("vtap_agent", {"interface": "eth0"}, counts, 1_700_000_000_000_000_000) == point
    assert SAFE_LINE.fullmatch(payload.decode()[:-1])


def test_records_without_counts(oracle: Oracle) -> None:
    """Where jitter intervals are the shorter ones, a line has what ends there, and is a line."""
    schema = flow_schema((), jitter=JitterInterval.SHORTER, sequence=True, bits=True)
    counts = {"packets": 4, "bytes": 400, "duration": 2 * 10**9, "seq_received": 4}
    lost, late = ({"seq_missed": n % (1 << 64), "seq_expected": 3} for n in (1, -1))
    gaps = {"iat_count": 2, "iat_sum": 6_000_000, "iat_min": 1_000_000, "iat_max": 5_000_000}
    common = {"interface": 1, "jitter_duration": 500_000_000}
    records = [common, common | gaps, common | counts | lost, common | counts | gaps | late]
    batch = b"".join(schema.layout.pack(columns) for columns in records)

    points = oracle.parse(rendered(schema, plans.Labels("d", {1: "eth0"}), batch))

    length = {"jitter_interval_s": 0.5}
    told = {"iat_mean_ms": 3.0, "jitter_ms": 0.0, "iat_min_ms": 1.0, "iat_max_ms": 5.0}
    counted = {"packets": 4, "bytes": 400, "payload_bytes": 0}
    counted |= {"throughput_bits_per_second": 1600.0, "goodput_bits_per_second": 0.0}
    numbers = {name: 4 if name == "seq_received" else 0 for name in SEQUENCE_FIELDS}
    assert [point.fields for point in points] == [
        length,
        length | told,
        length | counted | numbers | {"loss_ratio": 0.333333333},
        length | counted | told | numbers | {"loss_ratio": 0.0},
    ]


@deterministic
@given(one=names(), other=names())
@example(one="\\", other="%5C")
@example(one="a b", other="a\\ b")
@example(one="\udcc3", other="Ã")
@example(one="%", other="%25")
def test_names_stay_apart(oracle: Oracle, one: str, other: str) -> None:
    """Two different names, as device and as interface, become two different tags."""
    record = AGENT.layout.pack({"interface": 1})

    (first, second) = (
        oracle.parse(rendered(AGENT, plans.Labels(name, {1: name}), record))[0]
        for name in (one, other)
    )

    assert (one == other) == (first.tags["device"] == second.tags["device"])
    assert (one == other) == (first.tags["interface"] == second.tags["interface"])


def test_interface_without_a_name() -> None:
    """An interface that has no name in this run is told by its index."""
    record = AGENT.layout.pack({"interface": 4294967295})

    payload = rendered(AGENT, plans.Labels("d", {}), record)

    assert payload.startswith(b"vtap_agent,device=d,interface=4294967295 ")


def test_counts_above_int64_are_refused(oracle: Oracle) -> None:
    """InfluxDB refuses a count of 2⁶³, which a byte counter reaches in 5.8 years at 400 Gbit/s."""
    # Flows begin anew with every interval, and what is refused is a payload of accounts alone.
    fits = AGENT.layout.pack({"interface": 1, "seen_bytes": INT64_MAX})
    exceeds = AGENT.layout.pack({"interface": 1, "seen_bytes": INT64_MAX + 1})
    labels = plans.Labels("d", {1: "eth0"})

    assert oracle.parse(rendered(AGENT, labels, fits))[0].fields["seen_bytes"] == INT64_MAX
    with pytest.raises(Refused, match="value out of range"):
        oracle.parse(rendered(AGENT, labels, exceeds))
