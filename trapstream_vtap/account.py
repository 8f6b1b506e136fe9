# SPDX-License-Identifier: Apache-2.0
"""Accounts: counts that are declared once, and become the records of `vtap_agent` and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trapstream_vtap.schema import DEVICE, TIME, Batch, Column, Field, Kind, Layout, Role, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap.metrics.family import Family

    Account = tuple["Rows", Mapping[str, Mapping[str, int]]]
    """Rows, and their counts by name."""

MEASUREMENT = "vtap_agent"


@dataclass(frozen=True)
class Count:
    """One count of an account.

    Args:
        name: The field of `vtap_agent`.
        unit: What is counted.
        doc: What it means, behind the unit.
        family: The metric family that shows it; None: it is the sum of what others show.
        label: Where several counts share a family: the value of its last label for this one.
        part_of: The count that this and the others with it add up to; empty: none.
        scale: How many of the unit are one of the family's.
        said: How the last line says it; empty: it does not.
        fails: Whether a run in which it is not 0 has failed (exit code 3).
    """

    name: str
    unit: str
    doc: str
    family: Family | None = None
    label: str = ""
    part_of: str = ""
    scale: int = 1
    said: str = ""
    fails: bool = False


@dataclass(frozen=True, eq=False)
class Rows:
    """An account: a row of counts for each interface, probe or sink.

    Args:
        tag: What tells the rows apart.
        counts: In each of them.
        doc: For the reference page.
        remarks: Likewise, below the table.
    """

    tag: Field
    counts: tuple[Count, ...]
    doc: str
    remarks: str = ""

    @cached_property
    def schema(self) -> Schema:
        """Their records."""
        columns = [Column(count.name, "u64") for count in self.counts]
        return self._schema(columns, {})

    def _schema(self, columns: list[Column], names: Mapping[int, str]) -> Schema:
        tag = Column(self.tag.name, "u32")
        return Schema(
            measurement=MEASUREMENT,
            doc=self.doc,
            layout=Layout(
                "agent_record", (tag, Column("reserved", "u32"), Column("time", "u64"), *columns)
            ),
            fields=(
                DEVICE,
                self.tag,
                *(
                    Field(count.name, Role.VALUE, Kind.COUNT, (count.name,), count.unit, count.doc)
                    for count in self.counts
                ),
                TIME,
            ),
            names={self.tag.name: names},
            booked=False,
            remarks=self.remarks,
        )

    def named(self, names: tuple[str, ...]) -> Schema:
        """The records of rows of these NAMES, which they say by their position."""
        return self._schema(list(self.schema.layout.columns[3:]), dict(enumerate(names)))


def batch(schema: Schema, now: int, rows: Mapping[str, Mapping[str, int]]) -> Batch:
    """ROWS as records at the time NOW (ns since the epoch).

    Args:
        schema: By `Rows.named`, in the order of the rows.
        now: When.
        rows: Counts by name, in the order in which the schema names the rows.
    """
    layout = schema.layout
    tag = layout.columns[0].name
    data = bytearray()
    for number, counts in enumerate(rows.values()):
        values = {tag: number, "time": now, **counts}
        data += layout.pack({name: values[name] for name in values if name in layout.offsets})
    return Batch(schema, data)
