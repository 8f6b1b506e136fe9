# SPDX-License-Identifier: Apache-2.0
"""InfluxDB line protocol, the subset that every parser of it reads alike.

See: https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.formats.plan import is_first_value
from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from trapstream_vtap.schema import Field, Schema

_INTEGERS = (Kind.COUNT, Kind.SIGNED, Kind.COUNT_IF, Kind.NUMBER)
_ORDER = (Role.TAG, Role.VALUE, Role.TIME)


class _Influx:
    name = "influx"
    frame = (b"", b"", b"")

    def text(self, value: str) -> bytes:
        for special in ",= ":
            value = value.replace(special, "\\" + special)
        return value.encode()

    def string(self, value: str) -> bytes:
        return value.replace('"', '\\"').encode()

    def arranged(self, schema: Schema) -> Schema:
        def place(exported: Field) -> tuple[int, str]:
            tag = exported.role is Role.TAG
            return _ORDER.index(exported.role), exported.name if tag else ""

        return replace(schema, fields=tuple(sorted(schema.fields, key=place)))

    def around(self, schema: Schema, exported: Field) -> tuple[bytes, bytes]:
        if exported.role is Role.TIME:
            return b" ", b"\n"
        before = f"{exported.name}=".encode()
        if exported.role is Role.TAG:
            lead = schema.measurement.encode() if exported == schema.fields[0] else b""
            return lead + b"," + before, b""
        lead = b" " if is_first_value(schema, exported) else b","
        if exported.kind.is_text:
            return lead + before + b'"', b'"'
        return lead + before, b"i" if exported.kind in _INTEGERS else b""


INFLUX = _Influx()
