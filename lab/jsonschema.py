# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of every record, for those who read them by a program.

See: https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lab.everything import EVERYTHING, accounts, schemas
from trapstream_vtap.account import MEASUREMENT
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.schema import Field, Schema

_ALWAYS = frozenset(
    (
        *(Kind.CONSTANT, Kind.LABEL, Kind.ADDRESS, Kind.NETWORK, Kind.COUNT, Kind.SIGNED),
        *(Kind.TIME, Kind.TIME_TEXT),
    )
)
"""Kinds that a record has in any case."""
_INTEGERS = frozenset((Kind.COUNT, Kind.COUNT_IF, Kind.NUMBER))
_FORMS: dict[Kind, dict[str, Any]] = {
    Kind.TIME: {
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$"},
        ]
    },
    Kind.TIME_TEXT: {"type": "string", "pattern": r"^\d+\.\d{9}$"},
    Kind.ADDRESS: {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    Kind.ADDRESS_IF: {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    Kind.NETWORK: {"type": "string", "pattern": "^[0-9a-f.:]+/[0-9]{1,3}$"},
    Kind.PORT: {"type": "string", "pattern": r"^\d{1,5}$"},
    Kind.VLAN: {"type": "string", "pattern": r"^\d{1,4}(\.\d{1,4})?$"},
    Kind.ID: {"type": "string", "pattern": r"^\d{1,10}$"},
    Kind.MAC: {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"},
    Kind.HEX: {"type": "string", "pattern": "^0x[0-9a-f]+$"},
    Kind.SIGNED: {"type": "integer"},
}


def text() -> str:
    """The schema of a record, whichever it is; a payload is an array of them."""
    rates = flow_schema(KEY_FIELDS, bits=True).fields
    flow = flow_schema(
        KEY_FIELDS,
        sequence=True,
        deviation=True,
        smoothed=True,
        jitter=JitterInterval.SHORTER,
        guest=EVERYTHING.guest,
    )
    shown = (flow if s.measurement == flow.measurement else s for s in schemas())
    kinds = (
        *(
            _record(s, extra=[f for f in rates if f.name.endswith("bits_per_second")])
            if s is flow
            else _record(s)
            for s in shown
        ),
        *(_record(rows.schema) for rows in (*accounts(), SINK_ROWS)),
    )
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made by `make docs` from the descriptions of the records; do not edit.",
        "title": "A record of vtap-stream -f json",
        "oneOf": kinds,
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _record(schema: Schema, extra: list[Field] | None = None) -> dict[str, Any]:
    fields = [*schema.fields, *(extra or ())]
    nested = any(field.path for field in fields)
    whole: dict[str, Any] = {"type": "object", "title": schema.measurement}
    whole |= {"description": schema.doc, "required": [], "properties": {}}
    _put(whole, ("name",), {"const": schema.measurement}, required=True)
    for field in fields:
        if nested and field.role is Role.TIME:
            continue
        path = ("timestamp",) if field.role is Role.TIME else field.path or (field.name,)
        _put(whole, path, _value(field), required=_is_required(schema, field))
    for part in _objects(whole):
        part["additionalProperties"] = False
    return whole


def _is_required(schema: Schema, field: Field) -> bool:
    """Whether a record has it, whatever its options, and wherever the packet has been."""
    optional = schema.measurement in ("vtap_flow", "vtap_sequence_error") and (
        field.name in KEY_FIELDS
    )
    events = field.name.startswith("events_") and schema.measurement == MEASUREMENT
    return field.kind in _ALWAYS and not optional and not (events and "interface" in _names(schema))


def _names(schema: Schema) -> set[str]:
    return {field.name for field in schema.fields}


def _value(field: Field) -> dict[str, Any]:
    form = _FORMS.get(field.kind)
    if form is None and field.kind in _INTEGERS:
        form = {"type": "integer", "minimum": 0}
    elif form is None and field.kind.is_text:
        form = {"type": "string"}
    elif form is None:
        form = {"type": "number", "minimum": 0}
    words = field.doc + (f"; {field.unit}" if field.unit else "")
    return {**form, "description": words} if words else dict(form)


def _put(whole: dict[str, Any], path: tuple[str, ...], value: Any, *, required: bool) -> None:
    at = whole
    for name in path[:-1]:
        part = {"type": "object", "required": [], "properties": {}}
        at = at["properties"].setdefault(name, part)
    at["properties"][path[-1]] = value
    if required:
        at["required"].append(path[-1])


def _objects(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield whole
    for part in whole["properties"].values():
        if "properties" in part:
            yield from _objects(part)
