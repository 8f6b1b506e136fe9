# SPDX-License-Identifier: Apache-2.0
"""A record's series and time, read back from both formats."""

from __future__ import annotations

import json

import plans
from expected import INTERFACES, SHIFT, Flow, flow_records, keys, names
from hypothesis import given, settings
from hypothesis import strategies as st

from trapstream_vtap import formats
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.sinks import series


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    flows=st.lists(flow_records(), min_size=1, max_size=3),
    device=names() | st.text(r'ab,= "', min_size=1),
    interface=st.lists(names(), min_size=len(INTERFACES), max_size=len(INTERFACES)),
    key=keys(),
)
def test_both_formats_say_the_same(
    flows: list[Flow], device: str, interface: list[str], key: tuple[str, ...]
) -> None:
    """The series is what stands before the fields in line protocol, and the same from JSON.

    The time is the one that JSON's own parser finds.
    """
    labels = plans.Labels(device, dict(zip(INTERFACES, interface, strict=True)))
    batch = b"".join(flow.packed(key) for flow in flows)
    found = {}
    for form in (formats.INFLUX, formats.JSON_LINES):
        plan = plans.compile_plan(form, flow_schema(key), labels, coarse_shift=SHIFT)
        ((payload, _, _),), _ = plan.render(batch, 10**6, 10**9)
        found[form.name] = list(series.records(payload))
        assert b"".join(record + b"\n" for _, record, _ in found[form.name]) == payload
    for (line_key, line, line_ms), (json_key, text, json_ms) in zip(*found.values(), strict=True):
        values = json.loads(text)
        assert line.startswith(line_key + b" packets=")
        assert line_key == json_key
        assert line_ms == json_ms == values["timestamp"] // 1_000_000
        assert series.measurement(line_key) == "vtap_flow"
    assert len({line_key for line_key, _, _ in found["influx"]}) <= len(flows)
