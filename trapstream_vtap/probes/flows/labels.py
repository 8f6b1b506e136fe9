# SPDX-License-Identifier: Apache-2.0
"""The labels of a flow, as OpenMetrics and Prometheus' text format write them.

See: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.formats.plan import compile_plan
from trapstream_vtap.probes.flows.layouts import flow_layouts
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.schema import Role, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trapstream_vtap._native import Plan
    from trapstream_vtap.schema import Field


class _Labels:
    name = "openmetrics"
    frame = (b"{", b"", b"}")

    def text(self, value: str) -> bytes:
        return value.replace('"', r"\"").encode()  # backslashes and newlines are never in it

    string = text

    def arranged(self, schema: Schema) -> Schema:
        return schema

    def around(self, schema: Schema, exported: Field) -> tuple[bytes, bytes]:
        lead = "" if exported == schema.fields[0] else ","
        return f'{lead}{exported.name}="'.encode(), b'"'


def label_plan(key: Sequence[str], device: str, interfaces: Mapping[int, str]) -> Plan:
    """From the beginning of a flow's record, its KEY, to labels: the tags without the device.

    Args:
        key: As for `flow_schema`.
        device: What its tag says.
        interfaces: Names by number.
    """
    flows = flow_schema(key)
    tags = [f for f in flows.fields if f.role is Role.TAG and f.name != "device"]
    names = {**flows.names, "interface": interfaces}
    schema = Schema("", "", flow_layouts(key).key, tuple(tags), names)
    return compile_plan(_Labels(), schema, device)
