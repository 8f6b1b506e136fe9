# SPDX-License-Identifier: Apache-2.0
"""What the flow program is made from: structures, the user's choices as constants, places."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import attach, kernel, spread
from trapstream_vtap.bpf.attach import GENERIC, Place
from trapstream_vtap.bpf.memory import PAGE, hash_bytes, ring_pages
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.probes.flows.layouts import (
    CONTROL,
    GAP_BOUNDS,
    GAP_COUNTS,
    GAP_PROTOCOLS,
    KEY_FIELDS,
    LINK,
    TRACKED_HOLES,
    FlowLayouts,
    JitterInterval,
    flow_layouts,
)
from trapstream_vtap.probes.flows.links import GAPS_EACH
from trapstream_vtap.probes.flows.settings import TUNNELS
from trapstream_vtap.probes.flows.squares import limits
from trapstream_vtap.probes.flows.wanted import define_wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.guest import Guest
    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.probes.flows.settings import FlowSettings

_SWEEP_BYTES = 3072  # of keys in one run: what fits into a page, with what the kernel puts around
_DIRECT_INTO_TUNNELS = (6, 18)
"""The kernel since which direct access to a packet in a packet is known to load."""
_NO_GUEST = '#include "flows/guest.h"\n'
_KINDS = {"tc": "SCHED_CLS", "xdp": "XDP", "socket": "SOCKET_FILTER"}


def program_name(settings: FlowSettings, direction: attach.Direction, interface: Interface) -> str:
    """Which program of bpf/flows/flow.c sees that direction of that interface."""
    side = "socket" if settings.hook == "socket" else direction.name.lower()
    return f"vtap_{side}" if interface.ethernet else f"vtap_{side}_l3"


def source(settings: FlowSettings, release: str = "") -> Source:
    """What to compile: the structures, the user's choices as constants, and bpf/flows/flow.c.

    Only numbers go into the text.

    Args:
        settings: What the user chose.
        release: Of the kernel that is to load it, as `uname -r` has it; by default the running one.
    """
    # Long: one list of constants.
    programs = sorted(
        {program_name(settings, d, i) for d in settings.directions for i in settings.interfaces}
    )
    limit, shift = limits(settings)
    structures = layouts(settings)
    constants = {
        **{f"KEY_{name.upper()}": int(name in settings.key) for name in KEY_FIELDS},
        **{name.upper(): 1 for name in programs},
        **{f"HOOK_{name.upper()}": int(name == settings.hook) for name in _KINDS},
        **{f"WANT_{d.name}": int(d in settings.directions) for d in attach.Direction},
        "DECAPSULATE": int(bool(settings.decapsulate)),
        **{f"DECAPSULATE_{n.upper()}": int(n in settings.decapsulate) for n in TUNNELS},
        "DIRECT_ACCESS": int(not settings.decapsulate or _direct_into_tunnels(release)),
        "FLOW_TABLE_SIZE": settings.flow_table_size,
        "INTERVAL_NS": settings.intervals[0],
        "STOP_GAP_NS": settings.stop_gap,
        "COARSE_LIMIT_NS": limit,
        "COARSE_SHIFT": shift,
        "RING_PAGES": ring_pages(settings.flow_table_size, structures.record.size),
        **spread.constants(settings.interfaces),
        "SWEEP_KEYS": sweep_keys(structures),
        **_jitter_constants(settings),
        **_sequence_constants(settings, structures),
        **_gap_constants(settings),
        "VTAP_GUEST": int(settings.guest is not None),
        **(settings.guest.constants if settings.guest else {}),
    }
    text = "".join(
        layout.definition
        for layout in (
            structures.key,
            structures.record,
            structures.slot,
            *((structures.jitter,) if structures.jitter else ()),
            structures.flow,
            structures.event,
            LINK,
            GAP_COUNTS,
            CONTROL,
            *(settings.guest.layouts if settings.guest else ()),
        )
    )
    text += "".join(f"#define {name} {value}ULL\n" for name, value in constants.items())
    text += f"#define GAP_BUCKET(gap) {_bucket(GAP_BOUNDS)}\n"
    if settings.rules:
        text += f"#define RULES {len(settings.rules)}\n" + define_wanted(settings.rules)
    return Source(
        text + _text(settings.guest),
        (
            *_programs(settings.hook, programs),
            Program("vtap_sweep", "SCHED_CLS", shared=True),
        ),
        (
            *("flows", "summaries", "wakeups", "links", "controls"),
            *(("events",) if settings.sequences else ()),
            *(("gaps",) if settings.metrics else ()),
            *(settings.guest.maps if settings.guest else ()),
        ),
    )


def _text(guest: Guest | None) -> str:
    """bpf/flows/flow.c, with the header of GUEST in the place of the one that has none."""
    text = program_text("flows/flow.c")
    return text.replace(_NO_GUEST, program_text(guest.header)) if guest else text


def _direct_into_tunnels(release: str) -> bool:
    """Whether that kernel's verifier follows offsets that far; else a helper copies the bytes.

    Where a bound is checked in one register, and the value is used from another, 6.1 knows none.
    """
    major, minor = re.findall(r"\d+", release or os.uname().release)[:2]
    return (int(major), int(minor)) >= _DIRECT_INTO_TUNNELS


def memory(settings: FlowSettings) -> int:
    """How much of the kernel's memory the maps of `source` take, about; bytes."""
    structures, cpus = layouts(settings), kernel.possible_cpus()
    links, _ = spread.spread(settings.interfaces)
    rings = [ring_pages(settings.flow_table_size, structures.record.size)]
    if settings.sequences:
        rings.append(ring_pages(settings.max_events, structures.event.size))
    gaps = len(settings.interfaces) * GAPS_EACH * GAP_COUNTS.size if settings.metrics else 0
    return (
        hash_bytes(structures.key.size, structures.flow.size, settings.flow_table_size)
        + sum(rings) * PAGE
        + (links * LINK.size + gaps) * cpus
        + (settings.guest.memory if settings.guest else 0)
    )


def places(settings: FlowSettings) -> list[Place]:
    """Where programs of `source` belong, and which."""
    # one packet socket sees both directions
    sides = (
        (settings.directions,)
        if settings.hook == "socket"
        else tuple((direction,) for direction in settings.directions)
    )
    return [
        Place(
            interface,
            side,
            settings.hook,
            program_name(settings, side[0], interface),
            settings.promiscuous,
        )
        for interface in settings.interfaces
        for side in sides
    ]


def _bucket(bounds: Sequence[int], first: int = 0) -> str:
    """In C: how many of BOUNDS `gap` is above, and FIRST; by bisection."""
    if not bounds:
        return str(first)
    middle = len(bounds) // 2
    low = _bucket(bounds[:middle], first)
    high = _bucket(bounds[middle + 1 :], first + middle + 1)
    return f"((gap) <= {bounds[middle]}ULL ? {low} : {high})"


def _programs(hook: str, names: Sequence[str]) -> Iterator[Program]:
    """What to load; XDP's twice, as drivers want it, and as the kernel behind them does."""
    for name in names:
        yield Program(name, _KINDS[hook], buffers=hook == "xdp")
        if hook == "xdp":
            yield Program(name + GENERIC, _KINDS[hook], name)


def layouts(settings: FlowSettings) -> FlowLayouts:
    """The structures of the program that SETTINGS ask for."""
    return flow_layouts(
        settings.key,
        sequence=settings.sequences,
        deviation=settings.expected_gap is not None,
        smoothed=settings.smoothed_jitter,
        own_interval=settings.jitter is not JitterInterval.SAME,
        guest=settings.guest,
    )


def sweep_keys(structures: FlowLayouts) -> int:
    """How many keys one run of the sweeping program is handed."""
    return _SWEEP_BYTES // structures.key.size


def _jitter_constants(settings: FlowSettings) -> dict[str, int]:
    found = {"COUNTS_BIT": 1, "JITTER_BIT": 1}
    if settings.jitter is JitterInterval.LONGER:
        found |= {"LONG_NS": settings.intervals[1], "JITTER_BIT": 2}
    elif settings.jitter is JitterInterval.SHORTER:
        found |= {"LONG_NS": settings.intervals[1], "COUNTS_BIT": 2}
    if settings.smoothed_jitter:
        found["VTAP_SMOOTHED"] = 1
    if settings.expected_gap is not None:
        found |= {"VTAP_DEVIATION": 1, "EXPECTED_GAP_NS": settings.expected_gap}
    return found


def _gap_constants(settings: FlowSettings) -> dict[str, int]:
    if not settings.metrics:
        return {}
    return {
        "VTAP_GAPS": max(1, len(settings.interfaces)) * GAPS_EACH,
        "GAP_KINDS": len(GAP_PROTOCOLS),
    }


def _sequence_constants(settings: FlowSettings, structures: FlowLayouts) -> dict[str, int]:
    if not settings.sequences:
        return {}
    pattern = (settings.pattern or 0).to_bytes(4, "big")
    # the search looks for one byte of the pattern, best for one that padding is not made of
    anchor = next((i for i, byte in enumerate(pattern) if byte not in (0, 0xFF)), 0)
    return {
        "VTAP_SEQUENCE": 1,
        "SEQ_TCP_STREAM": int(settings.tcp_sequence == "stream"),
        "SEQ_NUMBERS": int(settings.offset is not None),
        "SEQ_OFFSET": settings.offset or 0,
        "SEQ_BITS": settings.sequence_bits,
        "SEQ_LITTLE_ENDIAN": int(settings.sequence_order == "little"),
        "SEQ_SEARCH": int(settings.pattern is not None),
        "SEQ_PATTERN": int.from_bytes(pattern, "little"),  # as the kernel's words are
        "SEQ_ANCHOR": pattern[anchor],
        "SEQ_ANCHOR_AT": anchor,
        "SEQ_THRESHOLD": settings.sequence_threshold,
        "MAX_EVENTS": settings.max_events,
        "EVENT_PAGES": ring_pages(settings.max_events, structures.event.size),
        "TRACKED_HOLES": TRACKED_HOLES,
    }
