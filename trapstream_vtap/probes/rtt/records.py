# SPDX-License-Identifier: Apache-2.0
"""The records of round-trip times."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.histogram import ERROR
from trapstream_vtap.probes.rtt.layouts import HISTOGRAM, KEY, KINDS, SIDES
from trapstream_vtap.probes.rtt.settings import FIELDS, NETS
from trapstream_vtap.schema import (
    DEVICE,
    INTERFACE,
    TIME,
    Column,
    Field,
    Kind,
    Layout,
    Role,
    Schema,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
VALUES = (
    *("count", "sum", "max", "min", "jitter", "neighbours", "handshake", "handshakes"),
    *("lost", *PERCENTILES),
)
RECORD = Layout(
    "rtt_record",
    (
        *KEY.columns,
        Column("time", "u64"),
        *(Column(name, "u64") for name in VALUES),
        Column("src_bits", "u8"),
        Column("dst_bits", "u8"),
        Column("reserved", "u8[6]"),
        Column("buckets", f"u32[{HISTOGRAM.buckets}]"),
    ),
)
_MS = "ms"
_KEYED = {
    "src_ip": Field(
        "src_ip", Role.TAG, Kind.ADDRESS, ("src", "family"), "", "who sent what was answered"
    ),
    "dst_ip": Field("dst_ip", Role.TAG, Kind.ADDRESS, ("dst", "family"), "", "who answered"),
    "src_net": Field(
        "src_net",
        Role.TAG,
        Kind.NETWORK,
        ("src", "family", "src_bits"),
        "",
        "likewise, its network",
    ),
    "dst_net": Field(
        "dst_net",
        Role.TAG,
        Kind.NETWORK,
        ("dst", "family", "dst_bits"),
        "",
        "likewise, its network",
    ),
    "src_port": Field(
        "src_port", Role.TAG, Kind.PORT, ("src_port", "has_ports"), "", "port of who asked"
    ),
    "dst_port": Field(
        "dst_port", Role.TAG, Kind.PORT, ("dst_port", "has_ports"), "", "port of who answered"
    ),
    "vlan": Field("vlan", Role.TAG, Kind.VLAN, ("vlan",), "", "VLAN id, as in `vtap_flow`"),
}
_PROTOCOL = Field(
    "protocol", Role.TAG, Kind.LABEL, ("kind",), "", ", ".join(f"`{kind}`" for kind in KINDS[:-1])
)
_SIDE = Field(
    "side",
    Role.TAG,
    Kind.LABEL,
    ("side",),
    "",
    "`remote`: from here to who answered and back; `local`: towards this machine and back, with "
    "its delayed acknowledgements and the time that its applications take",
)
_ABSENT = "absent where there was none"


def _extreme(name: str, doc: str) -> Field:
    return Field(f"rtt_{name}_ms", Role.VALUE, Kind.EXTREME_MS, ("count", name), _MS, doc)


_VALUES = (
    Field("rtt_count", Role.VALUE, Kind.COUNT, ("count",), "samples", "round-trip times taken"),
    _extreme("min", f"the shortest; {_ABSENT}"),
    Field("rtt_mean_ms", Role.VALUE, Kind.MEAN_MS, ("count", "sum"), _MS, "mean; absent likewise"),
    _extreme("max", "the longest; absent likewise"),
    Field(
        "rtt_jitter_ms",
        Role.VALUE,
        Kind.MEAN_MS,
        ("neighbours", "jitter"),
        _MS,
        "mean difference between two that follow one another in a connection; absent likewise, and "
        "of `dns`",
    ),
    *(
        _extreme(name, f"{100 * share:g} % took no longer; absent likewise")
        for name, share in PERCENTILES.items()
    ),
    Field(
        "rtt_handshake_ms",
        Role.VALUE,
        Kind.MEAN_MS,
        ("handshakes", "handshake"),
        _MS,
        "mean of those from SYN to SYN-ACK, and (in the record of the other side) from SYN-ACK to "
        f"ACK, which are among all others, too; {_ABSENT}",
    ),
    Field(
        "rtt_invalidated",
        Role.VALUE,
        Kind.COUNT,
        ("lost",),
        "probes",
        "that were dropped: sent again, reset, or covered by an acknowledgement of more",
    ),
    TIME,
)
_NAMES = {"protocol": dict(enumerate(KINDS)), "side": dict(enumerate(SIDES))}


def schema_of(key: Iterable[str], interfaces: Mapping[int, str]) -> Schema:
    """The records of a run.

    Args:
        key: What tells them apart.
        interfaces: Names by index.
    """
    keyed = (_KEYED[word.partition("/")[0]] for word in key)
    tags = sorted((DEVICE, INTERFACE, *keyed, _PROTOCOL, _SIDE), key=lambda tag: tag.name)
    return Schema(
        "vtap_rtt",
        "With `--probe rtt`, one record per interface, side, protocol, `--rtt-key` and interval "
        "in which there was an answer: how long it took.",
        RECORD,
        (*tags, *_VALUES),
        names=_NAMES | {"interface": interfaces},
        remarks="Of the tags `src_ip`, `dst_ip`, `src_net`, `dst_net`, `src_port`, `dst_port` and "
        "`vlan` exactly those stand in a record that `--rtt-key` names. Percentiles are made from "
        f"a histogram, and off by {100 * ERROR:.1f} % of themselves at most; all else is exact.",
    )


def everything() -> Schema:
    """With every tag that there may be, for the reference page."""
    return replace(schema_of((*FIELDS, *NETS), {}))
