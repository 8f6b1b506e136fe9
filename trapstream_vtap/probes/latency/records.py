# SPDX-License-Identifier: Apache-2.0
"""The records of receive latency."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.histogram import ERROR
from trapstream_vtap.probes.latency.layouts import HISTOGRAM, PROTOCOLS
from trapstream_vtap.probes.latency.settings import BY, STAGES
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
    from collections.abc import Mapping

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
OTHER = "other"
"""What a record says of all values of `--latency-by` that have no room of their own."""

LONGEST_NAME = 200
"""Characters of a control group's path, of which the end is kept."""

RECORD = Layout(
    "latency_record",
    (
        Column("interface", "u32"),
        Column("stage", "u32"),
        Column("protocol", "u32"),
        Column("by", "u32"),
        *(Column(name, "u64") for name in ("time", "packets", "bytes", "sum", "min", "max")),
        *(Column(name, "u64") for name in PERCENTILES),
        Column("buckets", f"u64[{HISTOGRAM.buckets}]"),
    ),
)

_DOCS = {
    "cgroup": "with `--latency-by cgroup`: path of the socket's control group, below its root",
    "netns": "with `--latency-by netns`: inode of the network namespace; of another one than this "
    "the interface is `other`",
    "dst_port": "with `--latency-by dst_port`: port on this machine",
}
_MS = "ms"


def schema_of(by: str | None, interfaces: Mapping[int, str], values: Mapping[int, str]) -> Schema:
    """The records of a run.

    Args:
        by: What else tells them apart.
        interfaces: Names by index.
        values: What the numbers of BY stand for.
    """
    tags = () if by is None else (Field(by, Role.TAG, Kind.LABEL, ("by",), "", _DOCS[by]),)
    names = {
        "interface": interfaces,
        "stage": dict(enumerate(STAGES)),
        "protocol": dict(enumerate(PROTOCOLS)),
    }
    return replace(
        _PLAIN, fields=(*_TAGS, *tags, *_VALUES), names=names | ({by: values} if by else {})
    )


def _extreme(name: str, doc: str) -> Field:
    return Field(f"{name}_ms", Role.VALUE, Kind.EXTREME_MS, ("packets", name), _MS, doc)


_TAGS = (
    DEVICE,
    INTERFACE,
    Field("stage", Role.TAG, Kind.LABEL, ("stage",), "", f"{', '.join(f'`{s}`' for s in STAGES)}"),
    Field("protocol", Role.TAG, Kind.LABEL, ("protocol",), "", "`tcp` or `udp`"),
)
_VALUES = (
    Field("count", Role.VALUE, Kind.COUNT, ("packets",), "packets", "that were measured there"),
    _extreme("min", "the shortest time since the packet's receive timestamp"),
    Field("mean_ms", Role.VALUE, Kind.MEAN_MS, ("packets", "sum"), _MS, "mean of them"),
    _extreme("max", "the longest"),
    *(_extreme(name, f"{100 * share:g} % took no longer") for name, share in PERCENTILES.items()),
    TIME,
)
_PLAIN = Schema(
    "vtap_latency",
    "With `--probe latency`, one record per interface, stage and protocol, and interval in which "
    "there was a packet: how long after its receive timestamp it came by.",
    RECORD,
    (*_TAGS, *_VALUES),
    remarks="Percentiles are made from the histogram, and off by "
    f"{100 * ERROR:.1f} % of themselves at most; all else is exact.",
)


def everything() -> Schema:
    """With every tag that there may be, for the reference page."""
    tags = tuple(Field(by, Role.TAG, Kind.LABEL, ("by",), "", _DOCS[by]) for by in BY)
    return replace(_PLAIN, fields=(*_TAGS, *tags, *_VALUES))
