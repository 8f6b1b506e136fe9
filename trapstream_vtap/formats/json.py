# SPDX-License-Identifier: Apache-2.0
"""JSON: a payload is an array of flat objects, on a line of its own or in a datagram.

Or, for files and messages, there are no arrays, and each object is on a line of its own (JSON
Lines, see https://jsonlines.org).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from trapstream_vtap.schema import Role

if TYPE_CHECKING:
    from trapstream_vtap.schema import Field, Schema


@dataclass(frozen=True)
class _Json:
    """JSON with what stands before, between and behind the objects of a payload."""

    frame: tuple[bytes, bytes, bytes]
    name = "json"

    def text(self, value: str) -> bytes:
        return orjson.dumps(value)[1:-1]

    def around(self, schema: Schema, exported: Field) -> tuple[bytes, bytes]:
        if exported.role is Role.TIME:
            return b',"timestamp":', b"}"
        lead = b""
        if exported == schema.fields[0]:
            lead = b'{"name":' + orjson.dumps(schema.measurement)
        before = lead + b',"' + exported.name.encode() + b'":'
        return (before + b'"', b'"') if exported.role is Role.TAG else (before, b"")


JSON = _Json((b"[", b",", b"]\n"))
JSON_DATAGRAM = _Json((b"[", b",", b"]"))
JSON_LINES = _Json((b"", b"\n", b"\n"))
