# SPDX-License-Identifier: Apache-2.0
"""JSON: a payload is an array of objects, on a line of its own or in a datagram.

Or, for files and messages, there are no arrays, and each object is on a line of its own (JSON
Lines, see https://jsonlines.org). Objects are flat, or as the fields' paths say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from trapstream_vtap.schema import Field, Schema


@dataclass(frozen=True)
class _Json:
    """JSON with what stands before, between and behind the objects of a payload."""

    frame: tuple[bytes, bytes, bytes]
    rfc3339: bool = False
    """Whether times are dates and times, and not numbers."""
    name = "json"

    def text(self, value: str) -> bytes:
        return orjson.dumps(value)[1:-1]

    def string(self, value: str) -> bytes:
        return self.text(value)

    def arranged(self, schema: Schema) -> Schema:
        if not any(exported.path for exported in schema.fields):
            return replace(schema, fields=tuple(map(self._timed, schema.fields)))
        fields = tuple(exported for exported in schema.fields if exported.role is not Role.TIME)
        return replace(schema, fields=fields)

    def _timed(self, exported: Field) -> Field:
        dated = self.rfc3339 and exported.kind is Kind.TIME
        return replace(exported, kind=Kind.TIME_RFC3339) if dated else exported

    def around(self, schema: Schema, exported: Field) -> tuple[bytes, bytes]:
        paths = [(), *map(_path, schema.fields), ()]
        at = schema.fields.index(exported) + 1
        last, path, following = paths[at - 1 : at + 2]
        before, behind = _opened(last, path), b""
        if not last:
            before = b'{"name":' + orjson.dumps(schema.measurement) + before
        if len(path) == _IN_PART and path[:-1] != following[:-1]:
            behind += b"}"
        if not following:
            behind += b"}"
        return (before + b'"', b'"' + behind) if exported.kind.is_text else (before, behind)


_IN_PART = 3
"""Length of the path of what stands in a part, which a record may have or not.

Such an object closes itself; one that holds parts is closed by what follows.
"""


def _path(exported: Field) -> tuple[str, ...]:
    """Where EXPORTED stands in the object of a record."""
    if exported.role is Role.TIME:
        return ("timestamp",)
    return exported.path or (exported.name,)


def _opened(last: tuple[str, ...], path: tuple[str, ...]) -> bytes:
    """What stands between a value at LAST and one at PATH: ends of objects, and their names."""
    common = 0
    while common < min(len(last), len(path)) - 1 and last[common] == path[common]:
        common += 1
    ends = b"}" if len(last) > 1 and not common else b""
    names = b"".join(orjson.dumps(name) + b":{" for name in path[common:-1])
    return ends + b"," + names + orjson.dumps(path[-1]) + b":"


JSON = _Json((b"[", b",", b"]\n"))
JSON_DATAGRAM = _Json((b"[", b",", b"]"))
JSON_LINES = _Json((b"", b"\n", b"\n"))
