# SPDX-License-Identifier: Apache-2.0
"""From a batch to payloads: limits, order, and what is booked for each."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import plans
import pytest
from expected import AGENT, INTERFACES, SHIFT, Flow, flow_records, names
from hypothesis import given, settings
from hypothesis import strategies as st

from trapstream_vtap.delivery import shape
from trapstream_vtap.formats import INFLUX, JSON, JSON_DATAGRAM
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, flow_layouts
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.settings.address import parse

if TYPE_CHECKING:
    from trapstream_vtap import formats
    from trapstream_vtap._native import Plan, Tallies

UNLIMITED = 1 << 62
FORMATS = pytest.mark.parametrize(
    "form", [INFLUX, JSON, JSON_DATAGRAM], ids=["influx", "tcp", "udp"]
)
deterministic = settings(derandomize=True, deadline=None, max_examples=120)
batches = st.lists(st.tuples(flow_records(), st.integers(1, 8)), min_size=1, max_size=4).map(
    lambda groups: [flow for flow, times in groups for _ in range(times)]
)


def plan_of(form: formats.Format, name: str = "eth0") -> Plan:
    """A plan with that name as device and interfaces."""
    labels = plans.Labels(name, dict.fromkeys(INTERFACES, name))
    return plans.compile_plan(form, flow_schema(KEY_FIELDS), labels, coarse_shift=SHIFT)


def numbered(flows: list[Flow]) -> list[bytes]:
    """The records, each with its place among them as its time, so that no two are the same."""
    return [
        flow_layouts(KEY_FIELDS).record.pack(flow.columns | {"time": i})
        for i, flow in enumerate(flows)
    ]


def alone(plan: Plan, form: formats.Format, record: bytes) -> bytes:
    """The text of a record by itself, without what a payload begins and ends with."""
    opening, _, ending = form.frame
    ((payload, _, _),), _ = plan.render(record, 1, UNLIMITED)
    return payload.removeprefix(opening).removesuffix(ending) if ending else payload


def tally(flows: list[Flow]) -> Tallies:
    """What is to be booked for these records."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for flow in flows:
        amount = sums[flow.columns["interface"]]
        for i, number in enumerate((1, flow.counts["packets"], flow.counts["bytes"])):
            amount[i] = (amount[i] + number) % (1 << 64)
    return {interface: tuple(amount) for interface, amount in sums.items()}


@FORMATS
@deterministic
@given(
    flows=batches,
    name=names(),
    most_records=st.integers(1, 12),
    limit=st.one_of(st.integers(1, 4000), st.just(UNLIMITED)),
    near=st.one_of(st.none(), st.tuples(st.integers(1, 6), st.integers(-1, 1))),
)
def test_payloads(
    *,
    form: formats.Format,
    flows: list[Flow],
    name: str,
    most_records: int,
    limit: int,
    near: tuple[int, int] | None,
) -> None:
    """Payloads keep both limits and hold every record that fits at all once, whole, in order."""
    plan = plan_of(form, name)
    opening, separator, ending = form.frame
    records = numbered(flows)
    texts = [alone(plan, form, record) for record in records]
    most_bytes = limit
    if near:  # what some records need, or a byte more or less
        most_bytes = len(opening + separator.join(texts[: near[0]]) + ending) + near[1]
    fits = [len(opening + text + ending) <= most_bytes for text in texts]

    payloads, (too_large, lost) = plan.render(b"".join(records), most_records, most_bytes)

    left = [(text, flow) for text, flow, fit in zip(texts, flows, fits, strict=True) if fit]
    for i, (data, weights, booked) in enumerate(payloads):
        count = len(weights)
        assert len(data) <= most_bytes
        assert 1 <= count <= most_records
        here, left = left[:count], left[count:]
        assert opening + separator.join(text for text, _ in here) + ending == data
        assert tally([flow for _, flow in here]) == booked
        assert [flow.counts["packets"] for _, flow in here] == weights.tolist()
        if i + 1 < len(payloads):  # no earlier than need be
            longer = len(data) + len(separator) + len(left[0][0])
            assert count == most_records or longer > most_bytes
    assert left == []
    gone = [flow for flow, fit in zip(flows, fits, strict=True) if not fit]
    assert len(gone) == too_large
    assert tally(gone) == lost


@FORMATS
@deterministic
@given(flows=batches, name=names())
def test_longest(form: formats.Format, flows: list[Flow], name: str) -> None:
    """No record is longer than the plan says, so that a datagram which may be so long takes any."""
    plan = plan_of(form, name)

    payloads, (too_large, lost) = plan.render(b"".join(numbered(flows)), 5000, plan.longest)

    assert (too_large, lost) == (0, {})
    assert all(len(data) <= plan.longest for data, _, _ in payloads)


@FORMATS
def test_longest_is_no_exaggeration(form: formats.Format) -> None:
    """Accounts of the largest numbers fill what the plan says a record may take, to the byte."""
    plan = plans.compile_plan(form, AGENT, plans.Labels("d", {1: "i" * 10}))
    most = dict.fromkeys(AGENT.layout.offsets, 2**64 - 1)
    record = AGENT.layout.pack(most | {"interface": 1, "reserved": 0})

    ((payload, _, _),), _ = plan.render(record, 1, UNLIMITED)

    assert plan.longest - len(form.frame[1]) == len(payload)


def test_nothing_makes_no_payload() -> None:
    """An empty batch makes no payload, not an empty one."""
    assert plan_of(JSON).render(b"", 10, UNLIMITED) == ([], (0, {}))


def test_large_batch() -> None:
    """A batch of many thousand records is rendered without a limit of its own."""
    plan = plan_of(INFLUX)
    layout = flow_layouts(KEY_FIELDS).record
    record = layout.pack({"family": 4, "interface": 1})
    before, behind = record[: layout.offsets["time"]], record[layout.offsets["time"] + 8 :]
    batch = b"".join(before + i.to_bytes(8, sys.byteorder) + behind for i in range(50_000))

    ((data, weights, booked),), _ = plan.render(batch, 10**6, UNLIMITED)

    times = [int(line.rpartition(b" ")[2]) for line in data.splitlines()]
    assert (list(range(50_000)), 50_000) == (times, len(weights))
    assert booked == {1: (50_000, 0, 0)}


def test_text_of_accounts_is_not_counted_as_flows() -> None:
    """Records without packets are counted, but account for none."""
    plan = plans.compile_plan(INFLUX, AGENT, plans.Labels("d", {1: "a", 2: "b"}))
    batch = b"".join(AGENT.layout.pack({"interface": i}) for i in (1, 2, 1))

    ((_, weights, booked),), _ = plan.render(batch, 10, UNLIMITED)

    assert (weights.tolist(), booked) == ([0, 0, 0], {1: (2, 0, 0), 2: (1, 0, 0)})


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("batch_size", "device", "lines"),
    [
        (100_000, "192.0.2.2", [5000, 5000, 2001]),
        (4000, "192.0.2.2", [4000, 4000, 4000, 1]),
        (100_000, "x" * 1500, None),
    ],
    ids=["lines", "fewer", "bytes"],
)
def test_requests(scheme: str, batch_size: int, device: str, lines: list[int] | None) -> None:
    """A request to InfluxDB has at most 5,000 lines, and at most 5 MB."""
    where = parse(f"{scheme}://192.0.2.2?db=x")
    wanted = shape(where, FlowSettings(sinks=(where,), device=device, batch_size=batch_size))
    plan = plans.compile_plan(wanted.form, flow_schema(), plans.Labels(device, {1: "eth0"}))
    record = flow_layouts().record.pack({"interface": 1, "family": 4, "duration": 1, "packets": 1})
    payloads, _ = plan.render(record * 12_001, wanted.most_records, wanted.most_bytes)
    found = [data.count(b"\n") for data, _, _ in payloads]
    assert sum(found) == 12_001
    if lines:
        assert found == lines
    else:
        assert 4_997_000 < max(len(data) for data, _, _ in payloads) <= 5_000_000
