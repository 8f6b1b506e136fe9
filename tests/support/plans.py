# SPDX-License-Identifier: Apache-2.0
"""Plans of the renderer for records whose names a test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trapstream_vtap import formats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap._native import Plan
    from trapstream_vtap.formats import Format
    from trapstream_vtap.schema import Schema


@dataclass(frozen=True)
class Labels:
    """What the tag `device` says, and the names of interfaces by index."""

    device: str
    interfaces: Mapping[int, str] = field(default_factory=dict)


def compile_plan(form: Format, schema: Schema, labels: Labels, *, coarse_shift: int = 0) -> Plan:
    """The plan for records of SCHEMA with the names of LABELS."""
    names = {**schema.names, "interface": labels.interfaces}
    named = replace(schema, names=names, coarse_shift=coarse_shift)
    return formats.compile_plan(form, named, labels.device)
