# SPDX-License-Identifier: Apache-2.0
"""From a Schema to the renderer's plan: literal bytes and typed slots.

Whatever needs escaping is escaped here, once, never per record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trapstream_vtap._native import Plan
from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap.schema import Field, Schema

_KINDS = list(Kind)
_NO_LIMIT = 1 << 62


def _trusted(character: str) -> bool:
    """Whether every collector reads CHARACTER as itself."""
    return character.isprintable() and character not in "\\%"


def safe_text(text: str) -> str:
    r"""TEXT as it is exported: what no collector can be trusted with, percent-encoded.

    Everything that is not printed (control and format characters, separators other than the space,
    bytes that are not UTF-8), backslashes (line protocol cannot say one at the end of a tag, and
    parsers differ about one before a separator), and the percent sign itself, so that two different
    names stay different.
    """
    return "".join(
        character
        if _trusted(character)
        else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    )


class Format(Protocol):
    """One output format: how records and columns are put into words."""

    @property
    def name(self) -> str:
        """The name in `--format`."""

    @property
    def frame(self) -> tuple[bytes, bytes, bytes]:
        """What a payload begins with, what stands between records, what it ends with."""

    def text(self, value: str) -> bytes:
        """VALUE, which is safe text, escaped as the value of a tag."""

    def string(self, value: str) -> bytes:
        """VALUE, which is safe text, escaped as a field's value."""

    def arranged(self, schema: Schema) -> Schema:
        """SCHEMA with its fields in the order in which they are written, and no others."""

    def around(self, schema: Schema, exported: Field) -> tuple[bytes, bytes]:
        """What stands before and behind the value of an exported column."""


def compile_plan(form: Format, schema: Schema, device: str) -> Plan:
    """The renderer's plan for records of SCHEMA in the format FORM; DEVICE is what its tag says."""
    slots = []
    schema = form.arranged(schema)
    offsets = schema.layout.offsets
    sizes = {column.name: column.size for column in schema.layout.columns}
    for exported in schema.fields:
        before, behind = form.around(schema, exported)
        escaped = form.text if exported.role is Role.TAG else form.string
        names: Mapping[int, str] = {}
        width = sizes[exported.columns[0]] if exported.columns else 0
        if exported.kind is Kind.CONSTANT:
            before += escaped(safe_text(schema.constants.get(exported.name, device)))
        if exported.kind in (Kind.LABEL, Kind.NAME):
            names = schema.names[exported.name]
        slots.append(
            (
                _KINDS.index(exported.kind),
                before,
                behind,
                tuple(offsets[name] for name in exported.columns),
                width,
                schema.coarse_shift,
                {number: escaped(safe_text(name)) for number, name in names.items()},
            )
        )
    interface_at = offsets.get("interface", 0)
    return Plan(slots, *form.frame, schema.layout.size, interface_at, schema.weight)


def longest(form: Format, schema: Schema, device: str) -> int:
    """No payload in the format FORM with a single record of SCHEMA is longer; bytes."""
    plan = compile_plan(form, schema, device)
    if not schema.widest:
        return plan.longest
    payloads, _ = plan.render(schema.widest, 1, _NO_LIMIT)
    return max(len(data) for data, _, _ in payloads)


def is_first_value(schema: Schema, exported: Field) -> bool:
    """Whether EXPORTED is the first field (it is one that every record has)."""
    return exported == next(f for f in schema.fields if f.role is Role.VALUE)
