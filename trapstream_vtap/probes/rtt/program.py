# SPDX-License-Identifier: Apache-2.0
"""What the round-trip time program is made from: structures, the user's choices as constants."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import spread
from trapstream_vtap.bpf.attach import Direction, Place
from trapstream_vtap.bpf.memory import hash_bytes
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.probes.interface import ToLoad
from trapstream_vtap.probes.rtt.guest import tracking
from trapstream_vtap.probes.rtt.layouts import (
    ASK_KEY,
    CELL,
    CONTROL,
    COUNTS,
    HISTOGRAM,
    KEY,
    LONGEST,
    PAIR,
    PAIR_KEY,
    PLACE,
    STREAM,
)
from trapstream_vtap.probes.rtt.settings import NETS, network

if TYPE_CHECKING:
    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.probes.rtt.settings import RttSettings


def _name(direction: Direction, interface: Interface) -> str:
    return f"rtt_{direction.name.lower()}" + ("" if interface.ethernet else "_l3")


def to_load(settings: RttSettings) -> ToLoad:
    """bpf/rtt/rtt.c, at both directions of every interface."""
    places = [
        Place(interface, (direction,), "tc", _name(direction, interface))
        for interface in settings.interfaces
        for direction in Direction
    ]
    return ToLoad(
        source(settings),
        places,
        memory(settings),
        f"--rtt-table-size {settings.rtt_table_size}",
    )


def source(settings: RttSettings) -> Source:
    """What to compile; only numbers go into the text."""
    layouts = (CONTROL, COUNTS, PLACE, PAIR_KEY, STREAM, PAIR, ASK_KEY, KEY, CELL)
    text = "".join(layout.definition for layout in layouts)
    text += "".join(f"#define {n} {v}ULL\n" for n, v in _constants(settings).items())
    names = sorted({_name(d, i) for d in Direction for i in settings.interfaces})
    text += "".join(f"#define {name.upper()} 1\n" for name in names)
    return Source(
        text + program_text("rtt/rtt.c"),
        tuple(Program(name, "SCHED_CLS") for name in names),
        ("rtt_controls", "rtt_counted", "rtt_places", "pairs", "asks", "cells0", "cells1"),
    )


def memory(settings: RttSettings) -> int:
    """How much of the kernel's memory the maps take, about; bytes."""
    tables = ((PAIR_KEY, PAIR.size), (ASK_KEY, 8), (KEY, CELL.size), (KEY, CELL.size))
    return sum(hash_bytes(key.size, size, settings.rtt_table_size) for key, size in tables)


def _constants(settings: RttSettings) -> dict[str, int]:
    return {
        "HOOK_XDP": 0,
        "HOOK_SOCKET": 0,
        "DIRECT_ACCESS": 1,
        "DECAPSULATE": 0,
        "KEY_TUNNEL_ID": 0,
        **tracking(settings),
        **{f"KEY_{name.upper()}": int(name in settings.by) for name in _PLAIN},
        "KEY_ADDRESSES": int(any(map(any, bits_of(settings.by).values()))),
        **masks(settings.by),
        "CELLS": settings.rtt_table_size,
        "LONGEST": LONGEST,
        **HISTOGRAM.constants,
        **spread.constants(settings.interfaces),
    }


_PLAIN = ("src_port", "dst_port", "vlan")


def bits_of(key: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Of both ends how many bits of IPv4's and of IPv6's addresses KEY tells apart."""
    found = {"src": (0, 0), "dst": (0, 0)}
    for word in key:
        name = word.partition("/")[0]
        if name in NETS:
            found[name[:3]] = network(word)[1:]
        elif name in ("src_ip", "dst_ip"):
            found[name[:3]] = (32, 128)
    return found


def masks(key: tuple[str, ...]) -> dict[str, int]:
    """What is kept of addresses, in words as they lie in memory."""
    found = {}
    for end, (ipv4, ipv6) in bits_of(key).items():
        four = ipaddress.IPv4Network((0, ipv4)).netmask.packed
        six = ipaddress.IPv6Network((0, ipv6)).netmask.packed
        name = end.upper()
        found[f"{name}_IPV4"] = int.from_bytes(four, "little")
        found[f"{name}_IPV6_0"] = int.from_bytes(six[:8], "little")
        found[f"{name}_IPV6_1"] = int.from_bytes(six[8:], "little")
    return found
