# SPDX-License-Identifier: Apache-2.0
"""The record kinds: what the kernel program hands over, and what is exported from it.

A `Schema` describes a record once. The C structures that the kernel program is compiled with, the
decoder, the plan of every format and the reference page of fields are made from it, so that no
layout is ever copied by hand.
"""

from __future__ import annotations

import enum
import itertools
import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KEY_FIELDS = ("src_ip", "dst_ip", "src_port", "dst_port", "protocol", "vlan", "tunnel_id")
"""What may tell flows apart, beside interface and direction."""

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
    TIME = "time"  # ns since the epoch


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


@dataclass(frozen=True)
class Schema:
    """One kind of record: the measurement's name, the C structure, and the exported fields."""

    measurement: str
    doc: str
    layout: Layout
    fields: tuple[Field, ...]


FLOW_KEY = Layout(
    "flow_key",
    (
        Column("src_ip", "u8[16]", "source address; IPv4 in the first four bytes"),
        Column("dst_ip", "u8[16]", "destination address"),
        Column("dst_port", "u16", "destination port, host byte order"),
        Column("src_port", "u16", "source port, host byte order"),
        Column("interface", "u32", "interface index"),
        Column("protocol", "u8", "IP protocol number of the transport header"),
        Column("family", "u8", "4 or 6"),
        Column("ports", "u8", "1 where the packet has ports"),
        Column("direction", "u8", "0 ingress, 1 egress"),
        Column("vlan", "u32", "VLAN ids: outermost in the low half; bit 12 of each half: present"),
    ),
)
"""What tells flows apart in the kernel; columns that the user did not ask for are zero."""

_TUNNEL = (
    Column("tunnel_id", "u32", "of the tunnel that the packet came out of"),
    Column("tunnel", "u32", "1 where there is a tunnel id"),
)

FLOW_RECORD = Layout(
    "flow_record",
    (
        *FLOW_KEY.columns,
        Column("time", "u64", "end of the interval, ns since the epoch"),
        Column("duration", "u64", "length of the interval that the record covers, ns"),
        Column("packets", "u64", "packets on the wire"),
        Column("bytes", "u64", "bytes on the wire"),
        Column("payload_bytes", "u64", "bytes behind the transport header"),
        Column("iat_count", "u64", "inter-arrival times"),
        Column("iat_sum", "u64", "sum of the inter-arrival times, ns"),
        Column("iat_squares", "u64", "sum of their squares, ns², of those below the coarse limit"),
        Column("iat_squares_coarse", "u64", "the same of the others, (2^shift ns)²"),
        Column("iat_min", "u64", "shortest, ns"),
        Column("iat_max", "u64", "longest, ns"),
    ),
)
"""A flow's summary of one interval, as the kernel program hands it over."""

_SLOT_COUNTS = (
    "arrivals",  # as the kernel hands them over; a merged packet is one
    "merged",  # packets on the wire beyond the arrivals
    "bytes",
    "payload",
)
_SLOT_JITTER = (
    "iat_sum",
    "iat_squares",
    "iat_squares_coarse",
    "iat_max",
    "iat_min_inverted",  # ~minimum, so that zero is none
)


def _u64s(names: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(name, "u64") for name in names)


FLOW_SLOT = Layout(
    "slot",
    _u64s((*_SLOT_COUNTS, "stops", *_SLOT_JITTER)),  # stops: arrivals without inter-arrival time
)
"""What a flow gathers in one interval. All zero: nothing."""

FLOW_STATE = Layout(
    "flow",
    (
        Column("end", "u64", "grid line that ends the interval; lowest bits: which slots gather"),
        Column("last", "u64", "arrival of the latest packet, 0 before the first"),
        Column("start", "u64", "beginning of the current interval"),
        Column("overdue", "u64", "1: the ring was full, packets of later intervals were let in"),
        Column("slot", "struct slot[2]", "one gathers while the other is handed over", FLOW_SLOT),
    ),
)
"""A flow in the table; all times CLOCK_MONOTONIC, ns."""

SEQUENCE_EVENT = Layout(
    "sequence_event",
    (
        *FLOW_KEY.columns,
        Column("time", "u64", "of the packet, ns since the epoch"),
        Column("expected", "u64", "the number that would have been in order"),
        Column("received", "u64", "the number that came"),
        Column("distance", "u64", "signed"),
        Column("kind", "u32", "position in EVENT_KINDS"),
        Column("reserved", "u32"),
    ),
)
"""A sequence error, as the kernel program hands it over."""


class JitterInterval(enum.Enum):
    """How long the jitter interval is beside the measuring interval."""

    SAME = "same"
    LONGER = "longer"
    SHORTER = "shorter"


TRACKED_HOLES = 8
"""Of a TCP stream: so many holes are known by their place, others by their size alone."""


@dataclass(frozen=True)
class FlowLayouts:
    """The structures of the flow program with all that is asked of it.

    Args:
        key: `FLOW_KEY`, wider where it has the tunnel's id.
        record: `FLOW_RECORD`, which begins with the key, and what is measured beyond it.
        event: `SEQUENCE_EVENT`, which begins with the key.
        slot: `FLOW_SLOT`, and what is measured beyond it.
        flow: `FLOW_STATE`, likewise.
        jitter: A slot of jitter, where that has an interval of its own.
    """

    key: Layout
    record: Layout
    event: Layout
    slot: Layout
    flow: Layout
    jitter: Layout | None


def flow_layouts(
    key: Sequence[str] = KEY_FIELDS[:5],
    *,
    sequence: bool = False,
    deviation: bool = False,
    smoothed: bool = False,
    own_interval: bool = False,
) -> FlowLayouts:
    """The structures of the flow program.

    Args:
        key: What tells flows apart, out of `KEY_FIELDS`.
        sequence: Sequence numbers are checked.
        deviation: The sender's spacing is known.
        smoothed: Jitter is smoothed as in RFC 3550.
        own_interval: Jitter has an interval of its own.
    """
    record, slot, jitter, state = [], [], [], []
    if sequence:
        record += [Column(name, "u64", doc) for name, (_, doc) in _SEQUENCE_FIELDS.items()]
        slot += [
            Column("seq_none", "u64", "packets that carry no number"),
            *(Column(f"seq_{name}", "u64") for name in ("reverse", "small", "big", "duplicate")),
        ]
        state += [
            Column("seq_last", "u64", "bit 32: there is one; TCP: the next expected number"),
            Column("seq_window", "u64", "highest number << 32; bit n: highest - n has been seen"),
            Column("seq_missing", "u64", "signed: numbers or bytes never seen"),
            Column("seq_received", "u64", "packets with a number in the intervals closed"),
            Column("event_time", "u64", "of the latest event"),
            Column("seq_untracked", "u64", "signed: bytes of holes whose places are not known"),
            Column("seq_holes", f"u64[{TRACKED_HOLES}]", "first byte << 32, first byte behind"),
        ]
    if deviation:
        record += [
            Column("iat_excess", "u64", "sum of what inter-arrival times exceed the gap by, ns"),
            Column("expected_gap", "u64", "ns"),
        ]
        jitter.append(Column("iat_excess", "u64"))
    if smoothed:
        record.append(Column("iat_smoothed", "u64", "smoothed jitter, 2^-16 ns"))
        state += [
            Column("iat_smoothed", "u64", "smoothed jitter, 2^-16 ns"),
            Column("iat_mean", "u64", "running mean, 2^-16 ns; 0: none yet"),
        ]
    counts, gaps = Layout("slot", (*FLOW_SLOT.columns, *slot, *jitter)), None
    slots = [Column("slot", "struct slot[2]", "", counts)]
    if own_interval:
        record.append(Column("jitter_duration", "u64", "of the jitter interval that ends, ns"))
        state.append(Column("long_start", "u64", "beginning of the longer interval"))
        counts = Layout("slot", (*_u64s(_SLOT_COUNTS), *slot))
        gaps = Layout("jitter_slot", (*_u64s(("iat_count", *_SLOT_JITTER)), *jitter))
        slots = [
            Column("slot", "struct slot[2]", "", counts),
            Column("jitter", "struct jitter_slot[2]", "", gaps),
        ]
    wide = "tunnel_id" in key
    return FlowLayouts(
        _keyed(FLOW_KEY, (), wide=wide),
        _keyed(FLOW_RECORD, record, wide=wide),
        _keyed(SEQUENCE_EVENT, (), wide=wide),
        counts,
        Layout("flow", (*FLOW_STATE.columns[:-1], *state, *slots)),
        gaps,
    )


def _keyed(layout: Layout, more: Sequence[Column], *, wide: bool) -> Layout:
    """LAYOUT, which begins with a key, with MORE columns; WIDE: the key has the tunnel's id."""
    end = len(FLOW_KEY.columns)
    tunnel = _TUNNEL if wide else ()
    return Layout(layout.name, (*layout.columns[:end], *tunnel, *layout.columns[end:], *more))


EVENT_KINDS = ("reverse", "small", "big", "duplicate", "out_of_order", "hole", "retransmission")
"""What an error can be: four of numbers that packets carry, three of a TCP stream."""

LINK = Layout(
    "link",
    tuple(
        Column(name, "u64")
        for name in (
            "seen_packets",
            "seen_bytes",
            "counted_packets",
            "counted_bytes",
            "not_ip_packets",
            "not_ip_bytes",
            "malformed_packets",
            "malformed_bytes",
            "filtered_packets",
            "filtered_bytes",
            "no_flow_packets",
            "no_flow_bytes",
            "ring_full",
            "events_handed",
            "events_suppressed",
        )
    ),
)
"""What the kernel program counts per interface and CPU."""

CONTROL = Layout(
    "control",
    (
        Column("clock_offset", "u64", "CLOCK_REALTIME - CLOCK_MONOTONIC, ns, times 4"),
        Column("inserts", "u64", "new flows since all last handed over"),
        Column("began", "u64", "when this program took over from another one, or 0"),
    ),
)
"""What user space and the kernel program tell each other."""

TIME = Field("time", Role.TIME, Kind.TIME, ("time",), "ns", "end of the interval, UTC")
DEVICE = Field("device", Role.TAG, Kind.CONSTANT, (), "", "what `--device-ip` says")
INTERFACE = Field(
    "interface", Role.TAG, Kind.LABEL, ("interface",), "", "network interface, by name"
)

_FLOW_TAGS = {
    "src_ip": Field("src_ip", Role.TAG, Kind.ADDRESS, ("src_ip", "family"), "", "source address"),
    "dst_ip": Field(
        "dst_ip", Role.TAG, Kind.ADDRESS, ("dst_ip", "family"), "", "destination address"
    ),
    "src_port": Field(
        "src_port",
        Role.TAG,
        Kind.PORT,
        ("src_port", "ports"),
        "",
        "source port; absent where the protocol has none, and in later fragments",
    ),
    "dst_port": Field(
        "dst_port",
        Role.TAG,
        Kind.PORT,
        ("dst_port", "ports"),
        "",
        "destination port; absent where the protocol has none, and in later fragments",
    ),
    "protocol": Field(
        "protocol",
        Role.TAG,
        Kind.LABEL,
        ("protocol",),
        "",
        "`tcp`, `udp`, `icmp`, `icmpv6`, or the protocol's number",
    ),
    "vlan": Field(
        "vlan",
        Role.TAG,
        Kind.VLAN,
        ("vlan",),
        "",
        "VLAN id, `outer.inner` where there are two; absent where there is none",
    ),
    "tunnel_id": Field(
        "tunnel_id",
        Role.TAG,
        Kind.ID,
        ("tunnel_id", "tunnel"),
        "",
        "id of the tunnel that the packet came out of (`--decapsulate`): VNI, GRE key, ERSPAN "
        "session or TEID; absent where there is none",
    ),
}

_NUMBERED = "absent in flows without numbers"
_SEQUENCE_FIELDS = {
    "seq_last": ("number", "latest number; of a TCP stream the next expected one"),
    "seq_received": ("packets", "with a number, since the flow began"),
    "seq_reverse": ("packets", "number smaller than the one before; TCP: fills a hole"),
    "seq_small": ("packets", "distance above 1, up to the threshold; TCP: hole up to it"),
    "seq_big": ("packets", "distance or hole beyond the threshold"),
    "seq_duplicate": ("packets", "number equal to the one before; TCP: data seen before"),
    "seq_errors": ("packets", "sum of the four"),
    "seq_missing": ("numbers", "never seen so far, since the flow began; TCP: bytes"),
}

_IAT = "inter-arrival time in the interval; absent where there was none"

_DEVIATION = (
    Field(
        "iat_deviation_ms",
        Role.VALUE,
        Kind.DEVIATION_MS,
        ("iat_count", "iat_sum", "iat_excess", "expected_gap"),
        "ms",
        "mean distance of the inter-arrival times from `--expected-gap`; absent likewise",
    ),
)
_SMOOTHED = (
    Field(
        "jitter_rfc3550_ms",
        Role.VALUE,
        Kind.SMOOTHED_MS,
        ("iat_count", "iat_smoothed"),
        "ms",
        "smoothed jitter at the end of the interval; absent likewise",
    ),
)
_JITTER_INTERVAL = Field(
    "jitter_interval_s",
    Role.VALUE,
    Kind.SECONDS,
    ("jitter_duration",),
    "s",
    "length of the jitter interval that ends here; absent where none does",
)
_SEQUENCE = tuple(
    Field(name, Role.VALUE, Kind.COUNT_IF, ("seq_received", name), unit, f"{doc}; {_NUMBERED}")
    for name, (unit, doc) in _SEQUENCE_FIELDS.items()
)


def _tags(key: Sequence[str]) -> list[Field]:
    """What tells the flows apart, in order of names."""
    tags = [DEVICE, INTERFACE, *(_FLOW_TAGS[name] for name in KEY_FIELDS if name in key)]
    tags.append(
        Field("direction", Role.TAG, Kind.LABEL, ("direction",), "", "`ingress` or `egress`")
    )
    return sorted(tags, key=lambda tag: tag.name)


def flow_schema(
    key: Sequence[str] = KEY_FIELDS[:5],
    *,
    bits: bool = False,
    sequence: bool = False,
    deviation: bool = False,
    smoothed: bool = False,
    jitter: JitterInterval = JitterInterval.SAME,
) -> Schema:
    """The records of `vtap_flow`.

    Args:
        key: What tells flows apart, out of `KEY_FIELDS`; exactly these become tags.
        bits: Rates in bits instead of bytes per second.
        sequence: With sequence numbers.
        deviation: With the distance from an expected gap.
        smoothed: With the jitter of RFC 3550.
        jitter: The jitter interval; where it is the shorter one, not every record has counts.
    """
    rate, unit = (Kind.BIT_RATE, "bits") if bits else (Kind.RATE, "bytes")
    own = jitter is not JitterInterval.SAME
    first = jitter is JitterInterval.SHORTER  # then it is the one field that all records have

    def count(name: str, unit: str, doc: str) -> Field:
        kind, columns = (Kind.COUNT_IF, ("duration", name)) if first else (Kind.COUNT, (name,))
        return Field(name, Role.VALUE, kind, columns, unit, doc)

    return Schema(
        measurement="vtap_flow",
        doc="One record per flow and interval in which the flow had a packet.",
        layout=flow_layouts(
            key, sequence=sequence, deviation=deviation, smoothed=smoothed, own_interval=own
        ).record,
        fields=(
            *_tags(key),
            *((_JITTER_INTERVAL,) if first else ()),
            count("packets", "packets", "on the wire"),
            count("bytes", "bytes", "on the wire, with Ethernet header and VLAN tags, without FCS"),
            count("payload_bytes", "bytes", "behind the transport header, without padding"),
            Field(
                f"throughput_{unit}_per_second",
                Role.VALUE,
                rate,
                ("bytes", "duration"),
                f"{unit}/s",
                "`bytes` over the interval's length",
            ),
            Field(
                f"goodput_{unit}_per_second",
                Role.VALUE,
                rate,
                ("payload_bytes", "duration"),
                f"{unit}/s",
                "`payload_bytes` over the interval's length",
            ),
            Field(
                "iat_mean_ms",
                Role.VALUE,
                Kind.MEAN_MS,
                ("iat_count", "iat_sum"),
                "ms",
                f"mean {_IAT}",
            ),
            Field(
                "jitter_ms",
                Role.VALUE,
                Kind.STDDEV_MS,
                ("iat_count", "iat_sum", "iat_squares", "iat_squares_coarse"),
                "ms",
                "population standard deviation of the inter-arrival times; absent likewise",
            ),
            Field(
                "iat_min_ms",
                Role.VALUE,
                Kind.EXTREME_MS,
                ("iat_count", "iat_min"),
                "ms",
                f"shortest {_IAT}",
            ),
            Field(
                "iat_max_ms",
                Role.VALUE,
                Kind.EXTREME_MS,
                ("iat_count", "iat_max"),
                "ms",
                f"longest {_IAT}",
            ),
            *(_DEVIATION if deviation else ()),
            *(_SMOOTHED if smoothed else ()),
            *((_JITTER_INTERVAL,) if own and not first else ()),
            *(_SEQUENCE if sequence else ()),
            TIME,
        ),
    )


DISPLAYED = {
    "Throughput": ("throughput_",),
    "Goodput": ("goodput_",),
    "Jitter": ("iat_", "jitter_"),
    "SEQ_ERRORS": ("seq_",),
}
"""What the names of the fields begin with that a configuration file can switch off."""


def without(schema: Schema, hidden: frozenset[str]) -> Schema:
    """SCHEMA without the fields that belong to HIDDEN, keys of `DISPLAYED` and others."""
    gone = tuple(start for name in hidden for start in DISPLAYED.get(name, ()))
    kept = tuple(f for f in schema.fields if not (gone and f.name.startswith(gone)))
    return replace(schema, fields=kept)


def event_schema(key: Sequence[str] = KEY_FIELDS[:5]) -> Schema:
    """The records of `vtap_sequence_error`; KEY as for `flow_schema`."""
    kind = Field("kind", Role.TAG, Kind.LABEL, ("kind",), "", "what is wrong")
    return Schema(
        measurement="vtap_sequence_error",
        doc=(
            "One record per sequence error, at most `--max-events` a second; only where sequence "
            "numbers are checked."
        ),
        layout=flow_layouts(key).event,
        fields=(
            *sorted((*_tags(key), kind), key=lambda tag: tag.name),
            Field(
                "expected",
                Role.VALUE,
                Kind.COUNT,
                ("expected",),
                "number",
                "that would have been in order",
            ),
            Field("received", Role.VALUE, Kind.COUNT, ("received",), "number", "that came"),
            Field(
                "distance",
                Role.VALUE,
                Kind.SIGNED,
                ("distance",),
                "numbers",
                "from the number before; TCP: bytes from the expected one",
            ),
            Field("time", Role.TIME, Kind.TIME, ("time",), "ns", "of the packet, UTC"),
        ),
    )
