# SPDX-License-Identifier: Apache-2.0
"""Round-trip times in the records of flows, measured in the flow program."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.kernel import possible_cpus
from trapstream_vtap.bpf.memory import hash_bytes
from trapstream_vtap.guest import Guest
from trapstream_vtap.probes.rtt.layouts import (
    ASK_KEY,
    CONTROL,
    COUNTS,
    HISTOGRAM,
    HISTOGRAM_COUNTS,
    KINDS,
    PAIR,
    PAIR_KEY,
    PLACE,
    SIDES,
    STREAM,
)
from trapstream_vtap.schema import Column, Field, Kind, Role

if TYPE_CHECKING:
    from trapstream_vtap.probes.rtt.settings import RttSettings

_CLOCK_TAI_SINCE = (6, 1)
"""The kernel since which a program may ask for CLOCK_TAI."""

_SUMS = ("jitter", "neighbours", "handshake", "handshakes", "invalidated")
_SLOT = ("events", *KINDS[:-1], "sum", "max", "min_inverted", *_SUMS)
_RECORD = ("count", "timed", "sum", "max", "min", *_SUMS)
_MS = "ms"
_OF = "of what was sent this way and answered; absent where there was none"


def _extreme(name: str, doc: str) -> Field:
    columns = ("rtt_timed", f"rtt_{name}")
    return Field(f"rtt_{name}_ms", Role.VALUE, Kind.EXTREME_MS, columns, _MS, doc)


def _mean(name: str, count: str, total: str, doc: str) -> Field:
    columns = (f"rtt_{count}", f"rtt_{total}")
    return Field(f"rtt_{name}_ms", Role.VALUE, Kind.MEAN_MS, columns, _MS, doc)


def _count(name: str, unit: str, doc: str) -> Field:
    columns = (f"rtt_{name}", f"rtt_{name}")
    return Field(f"rtt_{name}", Role.VALUE, Kind.COUNT_IF, columns, unit, doc)


_FIELDS = (
    _count("count", "samples", f"round-trip times {_OF}"),
    _extreme("min", "the shortest; absent likewise"),
    _mean("mean", "timed", "sum", "mean; absent likewise"),
    _extreme("max", "the longest; absent likewise"),
    _mean("jitter", "neighbours", "jitter", "mean difference of neighbours; absent likewise"),
    _mean("handshake", "handshakes", "handshake", "of the SYN or SYN-ACK; absent likewise"),
    _count("invalidated", "probes", "that were dropped, as in `vtap_rtt`; absent likewise"),
)


def tracking(settings: RttSettings) -> dict[str, int]:
    """Constants of bpf/rtt/pairs.h."""
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return {
        "VTAP_RTT": 1,
        "HAVE_TAI": int(release >= _CLOCK_TAI_SINCE),
        "RTT_TIMESTAMPS": int(settings.rtt_tcp == "timestamp"),
        "RTT_TABLE_SIZE": settings.rtt_table_size,
        "RTT_KINDS": len(KINDS),
    }


def guest_of(settings: RttSettings) -> Guest:
    """What the flow program is to measure."""
    constants = tracking(settings)
    maps = ["rtt_controls", "rtt_counted", "pairs", "asks"]
    layouts = [CONTROL, COUNTS, PAIR_KEY, STREAM, PAIR, ASK_KEY]
    if settings.metrics:
        each = len(SIDES) * len(KINDS)
        constants |= HISTOGRAM.constants
        constants["RTT_HISTOGRAMS"] = max(1, len(settings.interfaces)) * each
        maps += ["rtt_places", "rtt_histograms"]
        layouts += [PLACE, HISTOGRAM_COUNTS]
    tables = ((PAIR_KEY, PAIR.size), (ASK_KEY, 8))
    return Guest(
        probe="rtt",
        header="rtt/guest.h",
        layouts=tuple(layouts),
        constants=constants,
        maps=tuple(maps),
        memory=sum(hash_bytes(key.size, size, settings.rtt_table_size) for key, size in tables)
        + constants.get("RTT_HISTOGRAMS", 0) * HISTOGRAM_COUNTS.size * possible_cpus(),
        slot=tuple(Column(f"rtt_{name}", "u64") for name in _SLOT),
        gathered="rtt_events",
        record=tuple(Column(f"rtt_{name}", "u64") for name in _RECORD),
        fields=_FIELDS,
        remark="The fields that begin with `rtt_` are there with `--probe flows,rtt --direction "
        "both`, unless `--rtt-key` is given ([rtt.md](rtt.md)).",
    )
