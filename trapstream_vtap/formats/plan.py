# SPDX-License-Identifier: Apache-2.0
"""From a Schema to the renderer's plan: literal bytes and typed slots.

Whatever needs escaping is escaped here, once, never per record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from trapstream_vtap._native import Plan
from trapstream_vtap.layouts import EVENT_KINDS
from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap.schema import Field, Schema

_KINDS = list(Kind)
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


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


@dataclass(frozen=True)
class Labels:
    """The names of this run.

    Args:
        device: What the tag `device` says.
        interfaces: Interface names by index.
        sinks: Sinks by number.
        texts: What else there is of names, by the field that shows them.
        constants: What fields say that say the same in every record; all others say the device.
    """

    device: str
    interfaces: Mapping[int, str] = field(default_factory=dict)
    sinks: Mapping[int, str] = field(default_factory=dict)
    texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> Mapping[int, str]:
        """The names that the numbers of field NAME stand for."""
        if name in self.texts:
            return self.texts[name]
        return {
            "interface": self.interfaces,
            "sink": self.sinks,
            "direction": {0: "ingress", 1: "egress"},
            "kind": dict(enumerate(EVENT_KINDS)),
            "protocol": {n: _PROTOCOLS.get(n, str(n)) for n in range(256)},
        }[name]

    def constant(self, name: str) -> str:
        """What field NAME says in every record."""
        return self.constants.get(name, self.device)


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


def compile_plan(form: Format, schema: Schema, labels: Labels, *, coarse_shift: int = 0) -> Plan:
    """The renderer's plan for records of SCHEMA in the format FORM.

    Args:
        form: The format.
        schema: The records.
        labels: Names of device and interfaces.
        coarse_shift: By how many bits inter-arrival times were cut before their coarse squares were
            summed.
    """
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
            before += escaped(safe_text(labels.constant(exported.name)))
        if exported.kind in (Kind.LABEL, Kind.NAME):
            names = labels.of(exported.name)
        slots.append(
            (
                _KINDS.index(exported.kind),
                before,
                behind,
                tuple(offsets[name] for name in exported.columns),
                width,
                coarse_shift,
                {number: escaped(safe_text(name)) for number, name in names.items()},
            )
        )
    counts = (offsets["packets"], offsets["bytes"]) if "packets" in offsets else None
    interface_at = offsets.get("interface", 0)
    return Plan(slots, *form.frame, schema.layout.size, interface_at, counts)


def is_first_value(schema: Schema, exported: Field) -> bool:
    """Whether EXPORTED is the first field (it is one that every record has)."""
    return exported == next(f for f in schema.fields if f.role is Role.VALUE)
