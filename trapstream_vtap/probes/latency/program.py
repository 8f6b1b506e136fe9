# SPDX-License-Identifier: Apache-2.0
"""What the latency program is made from: structures of the kernel, its hooks, choices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import btf, kernel, spread
from trapstream_vtap.bpf.code import KERNEL_FUNCTION
from trapstream_vtap.bpf.memory import hash_bytes
from trapstream_vtap.bpf.source import Source, program_text
from trapstream_vtap.errors import RunError
from trapstream_vtap.probes.interface import ToLoad
from trapstream_vtap.probes.latency.hooks import Kernel
from trapstream_vtap.probes.latency.layouts import (
    CELL,
    CONTROL,
    HISTOGRAM,
    HOLE,
    HOLES,
    LONG,
    LONGEST,
    PLACE,
    PROTOCOLS,
    SOCKET,
    STATE,
)
from trapstream_vtap.probes.latency.settings import BY

if TYPE_CHECKING:
    from trapstream_vtap.probes.latency.settings import LatencySettings

_MEMBERS = {
    "SKB_TSTAMP": ("sk_buff", "tstamp"),
    "SKB_PROTOCOL": ("sk_buff", "protocol"),
    "SKB_DATA": ("sk_buff", "data"),
    "SKB_DEVICE": ("sk_buff", "dev"),
    "SKB_SOCKET": ("sk_buff", "sk"),
    "SKB_IIF": ("sk_buff", "skb_iif"),
    "DEVICE_INDEX": ("net_device", "ifindex"),
    "DEVICE_NET": ("net_device", "nd_net.net"),
    "NET_INODE": ("net", "ns.inum"),
    "SOCK_NET": ("sock", "__sk_common.skc_net.net"),
    "SOCK_PORT": ("sock", "__sk_common.skc_num"),
    "SOCK_PORTS": ("sock", "__sk_common.skc_portpair"),
    "SOCK_PROTOCOL": ("sock", "sk_protocol"),
    "SOCK_QUEUE_TAIL": ("sock", "sk_receive_queue.prev"),
    "SOCK_QUEUE_LENGTH": ("sock", "sk_receive_queue.qlen"),
    "TCP_OUT_OF_ORDER": ("tcp_sock", "rcv_ooopack"),
    "TCP_NEXT": ("tcp_sock", "rcv_nxt"),
    "TCP_WAITING": ("tcp_sock", "out_of_order_queue.rb_node"),
    "TCP_WAITING_LAST": ("tcp_sock", "ooo_last_skb"),
}
_CGROUP_MEMBERS = {
    "SOCK_CGROUP": ("sock", "sk_cgrp_data.cgroup"),
    "CGROUP_NODE": ("cgroup", "kn"),
    "KERNFS_ID": ("kernfs_node", "id"),
}
_CAST = "bpf_rdonly_cast"
_TYPES = {
    "TYPE_SOCK": "sock",
    "TYPE_IPHDR": "iphdr",
    "TYPE_UDPHDR": "udphdr",
    "TYPE_TCP_SOCK": "tcp_sock",
}
_HOLES = {"QUEUED", "READ_TCP"}
"""Hooks that see segments of TCP which have waited for others."""

_FEWEST_PLACES = 4


def places(settings: LatencySettings) -> int:
    """How many interfaces there is room for: mostly the same when one comes or goes."""
    wanted = len(settings.interfaces) + (settings.latency_by == "netns")  # and those of others
    return 1 << (max(_FEWEST_PLACES, wanted) - 1).bit_length()


def numbers(settings: LatencySettings) -> int:
    """How many values of `--latency-by` are told apart, and one for all others."""
    return settings.latency_table_size + 1 if settings.latency_by else 1


def cells(settings: LatencySettings) -> int:
    """How many histograms there are, in each of two slots."""
    each = places(settings) * len(PROTOCOLS) * numbers(settings)
    return len(settings.latency_stages) * each


def to_load(settings: LatencySettings) -> ToLoad:
    """The programs that this kernel can have of those asked for.

    Raises:
        RunError: It can have none of them.
    """
    types = btf.read()
    here = Kernel(types)
    found = {stage: here.find(stage) for stage in settings.latency_stages}
    hooks = [hook for each in found.values() for hook in each.hooks]
    missing = [f"{stage} ({each.missing})" for stage, each in found.items() if each.missing]
    if not hooks:
        raise RunError(f"Latency cannot be measured here: {'; '.join(missing)}.")
    notes = [f"latency is not measured at {'; '.join(missing)}."] if missing else []
    text = "".join(layout.definition for layout in (CONTROL, STATE, SOCKET, HOLE, PLACE, CELL))
    text += "".join(f"#define {n} {v}ULL\n" for n, v in _constants(settings, types).items())
    text += f"#define HOLES {HOLES if _HOLES.intersection(h.text for h in hooks) else 0}\n"
    text += "".join(f"#define LOAD_{name} 1\n" for name in dict.fromkeys(h.text for h in hooks))
    source = Source(
        text + program_text("latency/latency.c"),
        tuple(hook.program for hook in hooks),
        (
            "controls",
            "states",
            "cells",
            "places",
            *(["numbers"] * bool(settings.latency_by)),
        ),
    )
    return ToLoad(
        source, [hook.place for hook in hooks], _memory(settings), _sized_by(settings), notes
    )


def _constants(settings: LatencySettings, types: btf.Btf) -> dict[str, int]:
    bits = types.bits("sk_buff", "tstamp_type")
    mask = 3
    if bits is None:  # before 6.11 it is one bit
        bits, mask = types.bits("sk_buff", "mono_delivery_time"), 1
    if bits is None:
        raise RunError(
            "This kernel does not tell times of arrival and of departure apart: 6.1 or newer does."
        )
    members = _MEMBERS | (_CGROUP_MEMBERS if settings.latency_by == "cgroup" else {})
    by = BY.index(settings.latency_by) + 1 if settings.latency_by else 0
    return {
        **{name: types.offset(*member) for name, member in members.items()},
        **_casts(types),
        "SKB_TCP_END": types.offset("sk_buff", "cb") + types.offset("tcp_skb_cb", "end_seq"),
        "SKB_TSTAMP_TYPE": bits // 8,
        "TSTAMP_TYPE_MASK": mask << bits % 8,
        **{f"STAGE_{name.upper()}": n for n, name in enumerate(settings.latency_stages)},
        "STAGES": len(settings.latency_stages),
        "PLACES": places(settings),
        "PROTOCOLS": len(PROTOCOLS),
        "CELLS": cells(settings),
        "LONGEST": LONGEST,
        "LONG": LONG,
        **HISTOGRAM.constants,
        **spread.constants(settings.interfaces),
        **{f"BY_{name.upper()}": n for n, name in enumerate(BY, 1)},
        "BY": by,
        "BY_ANY_NETNS": int(settings.latency_by == "netns"),
        "NUMBERS": numbers(settings),
        "NETNS": Path("/proc/self/ns/net").stat().st_ino,
    }


def _casts(types: btf.Btf) -> dict[str, int]:
    """What it takes to load from an address as from one of the kernel's types (6.2 or newer)."""
    cast = types.traced(_CAST)
    found = {name: types.number(structure) for name, structure in _TYPES.items()}
    if not cast or not all(found.values()):
        return {}
    return {"RDONLY_CAST": KERNEL_FUNCTION + cast, **found}


def _memory(settings: LatencySettings) -> int:
    per_cpu = 2 * cells(settings) * CELL.size
    hashes = hash_bytes(8, 8, numbers(settings)) + hash_bytes(SOCKET.size, HOLE.size, HOLES)
    return per_cpu * kernel.possible_cpus() + hashes


def _sized_by(settings: LatencySettings) -> str:
    if settings.latency_by:
        return f"--latency-table-size {settings.latency_table_size}"
    return f"--latency-stages {','.join(settings.latency_stages)}"
