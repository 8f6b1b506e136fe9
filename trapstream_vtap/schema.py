# SPDX-License-Identifier: Apache-2.0
"""What a record is made of: a C structure, and what is exported from it.

A `Schema` describes a record once. The C structures that the kernel program is compiled with, the
decoder, the plan of every format and the reference page of fields are made from it, so that no
layout is ever copied by hand.
"""

from __future__ import annotations

import enum
import itertools
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CTYPES = {"u8": ("B", 1), "u16": ("H", 2), "u32": ("I", 4), "u64": ("Q", 8)}


class Role(enum.Enum):
    """What an exported field is to a time-series database."""

    TAG = "tag"
    VALUE = "field"
    TIME = "time"


class Kind(enum.Enum):
    """How an exported field is computed from the columns named beside it.

    Decimal kinds are rounded half up to a fixed number of places, and trailing zeros are left out.
    """

    CONSTANT = "constant"  # no column: the same text in every record
    LABEL = "label"  # a number that stands for a name (interface, direction, protocol)
    ADDRESS = "address"  # 16 bytes, family (4 or 6): an IP address
    PORT = "port"  # port, presence: absent where presence is 0
    VLAN = "vlan"  # two tags of 16 bits, outermost first; bit 12 of each says that it is there
    ID = "id"  # a number of 32 bits, presence: absent where presence is 0
    COUNT = "count"  # an unsigned integer
    SIGNED = "signed"  # an integer that may be negative
    COUNT_IF = "count_if"  # presence, an unsigned integer: absent where presence is 0
    RATE = "rate"  # count, duration in ns: count per second, 6 places; absent where that is 0
    BIT_RATE = "bit_rate"  # count of bytes, duration in ns: bits per second; absent likewise
    MEAN_MS = "mean_ms"  # n, sum in ns: mean in ms, 9 decimal places; absent where n is 0
    STDDEV_MS = "stddev_ms"  # n, sum, squares, coarse squares: population deviation in ms, 9 places
    EXTREME_MS = "extreme_ms"  # n, ns: ms with 6 decimal places; absent where n is 0
    DEVIATION_MS = "deviation_ms"  # n, sum, excess, g: mean distance from g in ms, 9 decimal places
    SMOOTHED_MS = "smoothed_ms"  # n, 2^-16 ns: ms with 9 decimal places; absent where n is 0
    SECONDS = "seconds"  # ns: s with 9 decimal places; absent where it is 0
    RATIO = "ratio"  # presence, signed part, whole: 9 places, 0 if negative; absent where one is 0
    TIME_RFC3339 = "time_rfc3339"  # ns since the epoch: date and time, UTC, 9 decimal places
    TIME = "time"  # ns since the epoch
    TIME_TEXT = "time_text"  # ns since the epoch: a string of seconds with 9 decimal places
    NUMBER = "number"  # an unsigned integer of any width, presence: absent where that byte is 0
    HEX = "hex"  # likewise, as a string in hexadecimal digits
    NAME = "name"  # a number that stands for a name, presence: absent likewise
    MAC = "mac"  # 6 bytes, presence: an Ethernet address; absent likewise
    ADDRESS_IF = "address_if"  # as ADDRESS; absent where the family is 0
    NETWORK = "network"  # 16 bytes, family, bits: an address and its length, as 10.0.0.0/24

    @property
    def is_text(self) -> bool:
        """Whether it makes a text rather than a number."""
        return self in _TEXTS


_TEXTS = frozenset(
    (
        *(Kind.CONSTANT, Kind.LABEL, Kind.ADDRESS, Kind.PORT, Kind.VLAN, Kind.ID),
        *(Kind.TIME_TEXT, Kind.TIME_RFC3339, Kind.HEX, Kind.NAME, Kind.MAC, Kind.ADDRESS_IF),
        Kind.NETWORK,
    )
)


@dataclass(frozen=True, slots=True)
class Column:
    """One member of a C structure: its name, its C type (`u8` … `u64`, `u8[N]`), its meaning."""

    name: str
    ctype: str
    doc: str = ""
    inner: Layout | None = None  # of a structure within the structure

    @property
    def base(self) -> str:
        """The C type of one element."""
        return self.ctype.partition("[")[0]

    @property
    def count(self) -> int:
        """Elements of an array; 0 for a plain number."""
        return int(self.ctype.partition("[")[2].rstrip("]") or 0)

    @property
    def size(self) -> int:
        """Size in bytes."""
        element = self.inner.size if self.inner else _CTYPES[self.base][1]
        return element * (self.count or 1)

    @property
    def alignment(self) -> int:
        """Natural alignment in bytes."""
        return 8 if self.inner else _CTYPES[self.base][1]

    @property
    def declaration(self) -> str:
        """The C declaration of this member."""
        return f"{self.base} {self.name}" + (f"[{self.count}]" if self.count else "")

    @property
    def code(self) -> str:
        """The format of this member for the `struct` module."""
        return f"{self.size}s" if self.count or self.inner else _CTYPES[self.base][0]


@dataclass(frozen=True)
class Layout:
    """A C structure without holes: its name and members.

    Raises:
        ValueError: A member is not at its natural alignment, or the size is not a multiple of 8.
    """

    name: str
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        """Check that the C compiler and we agree."""
        for column in self.columns:
            if self.offsets[column.name] % column.alignment:
                raise ValueError(f"struct {self.name}: a hole ahead of {column.name}")
        if self.size % 8:
            raise ValueError(f"struct {self.name}: {self.size} bytes are not times 8")

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Offset in bytes of each member."""
        sizes = [column.size for column in self.columns]
        starts = itertools.accumulate(sizes, initial=0)
        return {column.name: at for column, at in zip(self.columns, starts, strict=False)}

    @cached_property
    def size(self) -> int:
        """Size in bytes."""
        return sum(column.size for column in self.columns)

    @cached_property
    def _struct(self) -> struct.Struct:
        return struct.Struct("<" + "".join(column.code for column in self.columns))

    @property
    def definition(self) -> str:
        """The definition in C."""
        members = "".join(f"\t{column.declaration};\n" for column in self.columns)
        return f"struct {self.name} {{\n{members}}};\n"

    def pack(self, values: Mapping[str, int | bytes]) -> bytes:
        """One structure from its members' values; what is left out is zero."""
        zero = {c.name: b"" if c.count else 0 for c in self.columns}
        return self._struct.pack(*(zero | dict(values)).values())

    def unpack(self, data: bytes | bytearray) -> Iterator[dict[str, int]]:
        """The structures in `data`, one behind the other (byte arrays as `bytes`)."""
        for values in self._struct.iter_unpack(data):
            yield dict(zip(self.offsets, values, strict=True))


@dataclass(frozen=True, slots=True)
class Field:
    """One exported tag, field or time, computed from `columns` in the way that `kind` names."""

    name: str
    role: Role
    kind: Kind
    columns: tuple[str, ...]
    unit: str
    doc: str
    path: tuple[str, ...] = ()
    """Where it stands in JSON, if that is not the record itself under its name."""


@dataclass(frozen=True, eq=False)
class Schema:
    """One kind of record.

    Args:
        measurement: Its name.
        doc: What it is, for the reference page.
        layout: The C structure.
        fields: What is exported of it.
        names: By field, what its numbers stand for in this run (`Kind.LABEL`, `Kind.NAME`).
        constants: What a field says in every record (`Kind.CONSTANT`), if not the device.
        coarse_shift: By how many bits inter-arrival times were cut before their coarse squares were
            summed (`Kind.STDDEV_MS`).
        booked: Whether records are part of what a sink accounts for; its own account is not.
        remarks: What else there is to say of the fields, for the reference page.
        widest: Records of the greatest length that are to be expected, where the fields do not say.
    """

    measurement: str
    doc: str
    layout: Layout
    fields: tuple[Field, ...]
    names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    coarse_shift: int = 0
    booked: bool = True
    remarks: str = ""
    widest: bytes = b""

    @property
    def weight(self) -> tuple[int, int] | None:
        """Offsets of the packets and the bytes that a record stands for; None: it has neither."""
        at = self.layout.offsets
        return (at["packets"], at["bytes"]) if "packets" in at else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one kind, one behind the other, on their way to those who take them.

    Args:
        schema: What they are.
        data: The records, `schema.layout.size` bytes each.
        probe: Whose they are, by its name; empty: the exporter's own account.
    """

    schema: Schema
    data: bytes | bytearray
    probe: str = ""


TIME = Field("time", Role.TIME, Kind.TIME, ("time",), "ns", "end of the interval, UTC")
DEVICE = Field("device", Role.TAG, Kind.CONSTANT, (), "", "what `--device-ip` says")
INTERFACE = Field(
    "interface", Role.TAG, Kind.LABEL, ("interface",), "", "network interface, by name"
)
