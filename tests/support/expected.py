# SPDX-License-Identifier: Apache-2.0
"""What a record must say, computed apart from the product with exact fractions; and records to try.

`flow_records` and `names` are Hypothesis strategies; `Flow` is a record together with what any
format must say of it.
"""

from __future__ import annotations

import ipaddress
import math
import os
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from hypothesis import strategies as st

from trapstream_vtap.probes.flows.account import rows
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, flow_layouts
from trapstream_vtap.probes.flows.settings import STOP_GAP_NS
from trapstream_vtap.probes.flows.squares import square_limits
from trapstream_vtap.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INT64_MAX = 2**63 - 1
AGENT = rows(events=False).schema
AGENT_COUNTS = sum(field.kind is Kind.COUNT for field in AGENT.fields)
LATEST = INT64_MAX - 1  # InfluxDB keeps the two outermost values of its time for itself
MOST_PER_SECOND = 2**64 - 1  # whole bits: more than 2 EB/s, which nothing carries
INTERFACES = (1, 2, 7, 0xFFFFFFFF)
LIMIT, SHIFT = square_limits(10**9, STOP_GAP_NS)

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
_VLAN_PRESENT = 0x1000
_HOSTILE = (
    "\\",
    "a\\",
    '"',
    '"x"',
    ",",
    "=",
    " ",
    " a",
    "a ",
    "a\nb",
    "\r",
    "\t",
    "\0",
    "%",
    "%5C",
)
_HOSTILE += (
    "#",
    "i",
    "\x7f",
    "\x85",
    "\ufeff",
    "\u2028",
    "é",
    "\U0001f980",
    "\udcff",
    "a\udc80b",
    "'",
)


@dataclass(frozen=True)
class Flow:
    """A record of `vtap_flow`: its columns, and what the exported record must say.

    Args:
        columns: Of the C structure.
        tags: By name, but `device` and `interface`.
        counts: Fields that are integers.
        decimals: The other fields, as they are written, with one kind of rate.
        bits: The other kind of rate.
    """

    columns: dict[str, int | bytes]
    tags: dict[str, str]
    counts: dict[str, int]
    decimals: dict[str, str]
    bits: dict[str, str]

    def packed(self, key: Sequence[str]) -> bytes:
        """The C structure with that key."""
        layout = flow_layouts(key).record
        return layout.pack(
            {name: self.columns[name] for name in layout.offsets if name in self.columns}
        )

    @property
    def time(self) -> int:
        """In ns since the epoch."""
        return _number(self.columns, "time")

    def tags_of(self, key: Sequence[str]) -> dict[str, str]:
        """The tags that there must be with that key, but `device` and `interface`."""
        return {name: text for name, text in self.tags.items() if name in (*key, "direction")}

    def decimals_with(self, *, bits: bool) -> dict[str, str]:
        """The fields that are not integers, with the kind of rates asked for."""
        rates = {name for name in self.decimals if name.endswith("_per_second")}
        others = {name: text for name, text in self.decimals.items() if name not in rates}
        return others | (self.bits if bits else {name: self.decimals[name] for name in rates})


def decimal(value: Fraction, places: int) -> str:
    """VALUE rounded half up to PLACES, without trailing zeros but with a digit behind the point."""
    digits = math.floor(value * 10**places + Fraction(1, 2))
    text = f"{Decimal(digits).scaleb(-places):.{places}f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


def root(value: Fraction, places: int) -> str:
    """The square root of VALUE, rounded and written as by `decimal`."""
    halves = math.isqrt(math.floor(4 * value * 100**places))
    return decimal(Fraction((halves + 1) // 2, 10**places), places)


def agree(expected: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether decimals are the same, as they are written.

    The last place of `jitter_ms`, a picosecond, may be off by one: a root is taken in double
    precision.
    """
    if expected.keys() != found.keys():
        return False
    return all(
        found[name] == text
        or (name == "jitter_ms" and abs(Decimal(found[name]) - Decimal(text)) == Decimal("1E-9"))
        for name, text in expected.items()
    )


def rate(count: int, duration: int) -> str:
    """COUNT in DURATION (ns), per second."""
    return decimal(Fraction(count * 10**9, duration), 6)


def is_plain(character: str) -> bool:
    """Whether CHARACTER is printed, and means nothing to any parser (`Zs` but a space does not)."""
    return character == " " or (
        unicodedata.category(character)[0] not in "CZ" and character not in "\\%"
    )


def says_name(tag: str, name: str) -> bool:
    """Whether TAG leads back to NAME, is safe, and has nothing encoded that need not be."""
    safe = all(is_plain(character) or character == "%" for character in tag)
    plain = all(is_plain(character) for character in name)
    return safe and unquote_to_bytes(tag) == os.fsencode(name) and plain == (tag == name)


def names() -> st.SearchStrategy[str]:
    """Names as the system hands them over: any bytes but none at all, hostile ones often."""
    parts = st.one_of(
        st.sampled_from(_HOSTILE),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
        st.binary(min_size=1, max_size=6).map(os.fsdecode),
    )
    # joined as bytes: what two parts make together, the system would have decoded
    return st.lists(parts, min_size=1, max_size=4).map(
        lambda chosen: os.fsdecode(b"".join(os.fsencode(part) for part in chosen))
    )


def keys() -> st.SearchStrategy[tuple[str, ...]]:
    """What may be asked to tell flows apart."""
    return st.sets(st.sampled_from(KEY_FIELDS)).map(
        lambda chosen: tuple(name for name in KEY_FIELDS if name in chosen)
    )


_counts = st.one_of(
    st.integers(0, 10**6),
    st.integers(0, INT64_MAX),
    st.integers(INT64_MAX - 9, INT64_MAX),
    st.sampled_from((0, 1, 5, 10**9, 2**32, 2**53 + 1, INT64_MAX)),
)
_durations = st.one_of(
    st.just(10**9),
    st.integers(1, 3600 * 10**9),
    st.sampled_from((1, 3, 10**6, 3 * 10**8, 10**9 + 1, 2**63)),
)
_gaps = st.one_of(
    st.integers(0, STOP_GAP_NS),
    st.integers(0, 100_000),
    st.sampled_from((0, 1, LIMIT - 1, LIMIT, LIMIT + 1, STOP_GAP_NS)),
)
_vlan_ids = st.one_of(st.sampled_from((0, 1, 4095)), st.integers(0, 4095))


@st.composite
def _addresses(draw: st.DrawFn) -> dict[str, Any]:
    family = draw(st.sampled_from((4, 6)))
    if family == 4:
        return {"family": 4, **{end: draw(st.ip_addresses(v=4)) for end in ("src_ip", "dst_ip")}}
    some = st.one_of(
        st.ip_addresses(v=6),
        st.binary(min_size=8, max_size=8).map(lambda words: ipaddress.IPv6Address(_spread(words))),
        st.integers(0, 2**33).map(ipaddress.IPv6Address),
        st.integers(0xFFFF << 32, (0xFFFF << 32) + 2**32).map(ipaddress.IPv6Address),
    )
    return {"family": 6, "src_ip": draw(some), "dst_ip": draw(some)}


def _spread(words: bytes) -> bytes:
    """Eight words of which many are zero."""
    return b"".join(bytes([0, word if word & 1 else 0]) for word in words)


def _iat(gaps: list[int]) -> tuple[dict[str, int], dict[str, str]]:
    """The columns that sum up inter-arrival times, and the fields that they make."""
    if not gaps:
        return {}, {}
    fine = sum(gap**2 for gap in gaps if gap < LIMIT)
    coarse = sum((gap >> SHIFT) ** 2 for gap in gaps if gap >= LIMIT)
    mean = Fraction(sum(gaps), len(gaps))
    squares = fine + coarse * 4**SHIFT
    variance = max(Fraction(0), Fraction(squares, len(gaps)) - mean**2)
    columns = {
        "iat_count": len(gaps),
        "iat_sum": sum(gaps),
        "iat_squares": fine,
        "iat_squares_coarse": coarse,
        "iat_min": min(gaps),
        "iat_max": max(gaps),
    }
    return columns, {
        "iat_mean_ms": decimal(mean / 10**6, 9),
        "jitter_ms": root(variance / 10**12, 9),
        "iat_min_ms": decimal(Fraction(min(gaps), 10**6), 6),
        "iat_max_ms": decimal(Fraction(max(gaps), 10**6), 6),
    }


@st.composite
def flow_records(draw: st.DrawFn) -> Flow:
    """Records of every kind, with the value of every column within what the kernel hands over."""
    addresses = draw(_addresses())
    ports = draw(st.one_of(st.none(), st.tuples(st.integers(0, 65535), st.integers(0, 65535))))
    vlans = draw(st.lists(_vlan_ids, max_size=2))
    protocol = draw(st.one_of(st.sampled_from(list(_PROTOCOLS)), st.integers(0, 255)))
    direction = draw(st.integers(0, 1))
    counts = {name: draw(_counts) for name in ("packets", "bytes", "payload_bytes")}
    most = 8 * max(counts["bytes"], counts["payload_bytes"]) * 10**9
    duration = max(draw(_durations), most // MOST_PER_SECOND + 1)
    gaps, iat = _iat(draw(st.lists(_gaps, max_size=12)))
    columns: dict[str, int | bytes] = {
        "src_ip": addresses["src_ip"].packed,
        "dst_ip": addresses["dst_ip"].packed,
        "family": addresses["family"],
        "ports": int(ports is not None),
        "protocol": protocol,
        "direction": direction,
        "interface": draw(st.sampled_from(INTERFACES)),
        "vlan": sum((_VLAN_PRESENT | vlan) << 16 * i for i, vlan in enumerate(vlans)),
        "time": draw(st.one_of(st.integers(0, LATEST), st.just(LATEST))),
        "duration": duration,
        **counts,
        **gaps,
    }
    tags = {
        "src_ip": str(addresses["src_ip"]),
        "dst_ip": str(addresses["dst_ip"]),
        "protocol": _PROTOCOLS.get(protocol, str(protocol)),
        "direction": ("ingress", "egress")[direction],
    }
    if ports:
        columns |= {"src_port": ports[0], "dst_port": ports[1]}
        tags |= {"src_port": str(ports[0]), "dst_port": str(ports[1])}
    tunnel = draw(st.none() | st.integers(0, 2**32 - 1))
    if tunnel is not None:
        columns |= {"tunnel_id": tunnel, "tunnel": 1}
        tags["tunnel_id"] = str(tunnel)
    if vlans:
        tags["vlan"] = ".".join(str(vlan) for vlan in vlans)
    rates = {"throughput": counts["bytes"], "goodput": counts["payload_bytes"]}
    return Flow(
        columns,
        tags,
        counts,
        {f"{name}_bytes_per_second": rate(n, duration) for name, n in rates.items()} | iat,
        {f"{name}_bits_per_second": rate(8 * n, duration) for name, n in rates.items()},
    )


def _number(columns: Mapping[str, int | bytes], name: str) -> int:
    value = columns[name]
    assert isinstance(value, int)
    return value
