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
from dataclasses import dataclass
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
    RATE = "rate"  # count, duration in ns: count per second, 6 decimal places
    BIT_RATE = "bit_rate"  # count of bytes, duration in ns: bits per second, 6 decimal places
    MEAN_MS = "mean_ms"  # n, sum in ns: mean in ms, 9 decimal places; absent where n is 0
    STDDEV_MS = "stddev_ms"  # n, sum, squares, coarse squares: population deviation in ms, 9 places
    EXTREME_MS = "extreme_ms"  # n, ns: ms with 6 decimal places; absent where n is 0
    TIME = "time"  # ns since the epoch


@dataclass(frozen=True, slots=True)
class Column:
    """One member of a C structure: its name, its C type (`u8` … `u64`, `u8[N]`), its meaning."""

    name: str
    ctype: str
    doc: str = ""

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
        return _CTYPES[self.base][1] * (self.count or 1)

    @property
    def alignment(self) -> int:
        """Natural alignment in bytes."""
        return min(8, _CTYPES[self.base][1])

    @property
    def declaration(self) -> str:
        """The C declaration of this member."""
        return f"{self.base} {self.name}" + (f"[{self.count}]" if self.count else "")

    @property
    def code(self) -> str:
        """The format of this member for the `struct` module."""
        return f"{self.size}s" if self.count else _CTYPES[self.base][0]


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

FLOW_SLOT = Layout(
    "slot",
    tuple(
        Column(name, "u64")
        for name in (
            "arrivals",  # as the kernel hands them over; a merged packet is one
            "merged",  # packets on the wire beyond the arrivals
            "bytes",
            "payload",
            "stops",  # arrivals that have no inter-arrival time
            "iat_sum",
            "iat_squares",
            "iat_squares_coarse",
            "iat_max",
            "iat_min_inverted",  # ~minimum, so that zero is none
            "overdue",  # 1: a packet of a later interval had to be let in, the ring was full
        )
    ),
)
"""What a flow gathers in one interval. All zero: nothing."""

_CTYPES["struct slot"] = ("", FLOW_SLOT.size)

FLOW_STATE = Layout(
    "flow",
    (
        Column("end", "u64", "grid line that ends the interval; lowest bit: which slot gathers"),
        Column("last", "u64", "arrival of the latest packet, 0 before the first"),
        Column("start", "u64", "beginning of the current interval"),
        Column("slot", "struct slot[2]", "one gathers while the other is handed over"),
    ),
)
"""A flow in the table; all times CLOCK_MONOTONIC, ns."""

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
            "no_flow_packets",
            "no_flow_bytes",
            "ring_full",
        )
    ),
)
"""What the kernel program counts per interface and CPU."""

CONTROL = Layout(
    "control",
    (
        Column("clock_offset", "u64", "CLOCK_REALTIME - CLOCK_MONOTONIC, ns, even"),
        Column("inserts", "u64", "new flows since the last sweep"),
    ),
)
"""What user space and the kernel program tell each other."""


def flow_key(key: Sequence[str]) -> Layout:
    """The key in the kernel's table: `FLOW_KEY`, wider only where KEY asks for the tunnel's id."""
    return _with_tunnel(FLOW_KEY) if "tunnel_id" in key else FLOW_KEY


def flow_record(key: Sequence[str]) -> Layout:
    """The summary that begins with `flow_key`."""
    return _with_tunnel(FLOW_RECORD) if "tunnel_id" in key else FLOW_RECORD


def _with_tunnel(layout: Layout) -> Layout:
    end = len(FLOW_KEY.columns)
    return Layout(layout.name, (*layout.columns[:end], *_TUNNEL, *layout.columns[end:]))


_TIME = Field("time", Role.TIME, Kind.TIME, ("time",), "ns", "end of the interval, UTC")
_DEVICE = Field("device", Role.TAG, Kind.CONSTANT, (), "", "what `--device-ip` says")
_INTERFACE = Field(
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

_IAT = "inter-arrival time in the interval; absent where there was none"


def flow_schema(key: Sequence[str] = KEY_FIELDS[:5], *, bits: bool = False) -> Schema:
    """The records of `vtap_flow`.

    Args:
        key: What tells flows apart, out of `KEY_FIELDS`; exactly these become tags.
        bits: Rates in bits instead of bytes per second.
    """
    tags = [_DEVICE, _INTERFACE, *(_FLOW_TAGS[name] for name in KEY_FIELDS if name in key)]
    tags.append(
        Field("direction", Role.TAG, Kind.LABEL, ("direction",), "", "`ingress` or `egress`")
    )
    rate, unit = (Kind.BIT_RATE, "bits") if bits else (Kind.RATE, "bytes")
    return Schema(
        measurement="vtap_flow",
        doc="One record per flow and interval in which the flow had a packet.",
        layout=flow_record(key),
        fields=(
            *sorted(tags, key=lambda tag: tag.name),
            Field("packets", Role.VALUE, Kind.COUNT, ("packets",), "packets", "on the wire"),
            Field(
                "bytes",
                Role.VALUE,
                Kind.COUNT,
                ("bytes",),
                "bytes",
                "on the wire, with Ethernet header and VLAN tags, without FCS",
            ),
            Field(
                "payload_bytes",
                Role.VALUE,
                Kind.COUNT,
                ("payload_bytes",),
                "bytes",
                "behind the transport header, without padding",
            ),
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
            _TIME,
        ),
    )


_AGENT_COUNTS = {
    "seen_packets": ("packets", "that reached the kernel program"),
    "seen_bytes": ("bytes", "of the packets seen"),
    "counted_packets": ("packets", "that were counted into a flow"),
    "counted_bytes": ("bytes", "of the packets counted"),
    "not_ip_packets": ("packets", "that are neither IPv4 nor IPv6"),
    "not_ip_bytes": ("bytes", "of the packets that are not IP"),
    "malformed_packets": ("packets", "whose headers are cut off or contradict themselves"),
    "malformed_bytes": ("bytes", "of the malformed packets"),
    "no_flow_packets": ("packets", "for which the flow table gave no entry"),
    "no_flow_bytes": ("bytes", "of the packets without an entry"),
    "evicted_packets": (
        "packets",
        "lost with an evicted flow; a lower bound until the last record, which is exact",
    ),
    "evicted_bytes": ("bytes", "of the packets evicted"),
    "summaries_sent": ("records", "of `vtap_flow` that the collector's side has taken"),
    "summaries_pending": ("records", "of `vtap_flow` that wait to be sent (not a counter)"),
    "summaries_lost": ("records", "of `vtap_flow` that were given up, for whatever reason"),
    "packets_sent": ("packets", "in the summaries sent"),
    "packets_pending": ("packets", "in the summaries pending (not a counter)"),
    "packets_lost": ("packets", "in the summaries lost"),
    "payloads_failed": (
        "payloads",
        "with records of this interface that could not be sent at once",
    ),
    "ring_full": ("times", "that a summary had to wait because the ring buffer was full"),
}

AGENT = Schema(
    measurement="vtap_agent",
    doc=(
        "One record per interface and interval: the exporter's own account. Counters run since the "
        "start, so that a lost record loses nothing."
    ),
    layout=Layout(
        "agent_record",
        (
            Column("interface", "u32"),
            Column("reserved", "u32"),
            Column("time", "u64"),
            *(Column(name, "u64") for name in _AGENT_COUNTS),
        ),
    ),
    fields=(
        _DEVICE,
        _INTERFACE,
        *(
            Field(name, Role.VALUE, Kind.COUNT, (name,), unit, doc)
            for name, (unit, doc) in _AGENT_COUNTS.items()
        ),
        _TIME,
    ),
)
