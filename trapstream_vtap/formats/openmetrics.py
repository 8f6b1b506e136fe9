# SPDX-License-Identifier: Apache-2.0
"""The labels of a flow, as OpenMetrics and Prometheus' text format write them.

See: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.formats.plan import compile_plan
from trapstream_vtap.layouts import flow_layouts
from trapstream_vtap.records import flow_schema
from trapstream_vtap.schema import Role, Schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap._native import Plan
    from trapstream_vtap.formats.plan import Labels
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


def label_plan(key: Sequence[str], labels: Labels) -> Plan:
    """From the beginning of a flow's record, its KEY, to labels: the tags without the device."""
    tags = [f for f in flow_schema(key).fields if f.role is Role.TAG and f.name != "device"]
    schema = Schema("", "", flow_layouts(key).key, tuple(tags))
    return compile_plan(_Labels(), schema, labels)
