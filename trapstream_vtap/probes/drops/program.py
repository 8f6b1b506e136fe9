# SPDX-License-Identifier: Apache-2.0
"""What the program for drops and traps is made from: structures of the kernel, choices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import btf, kernel
from trapstream_vtap.bpf.memory import PAGE, hash_bytes, ring_pages
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.interfaces import interfaces, matcher
from trapstream_vtap.probes.drops import causes
from trapstream_vtap.probes.drops.layouts import (
    DROP_CAUSE,
    DROP_CAUSE_KEY,
    DROP_CONTROL,
    DROP_EVENT,
    DROP_KEY,
    TRAP_CAUSE_KEY,
    TRAP_KEY,
)
from trapstream_vtap.probes.drops.reasons import drop_reasons
from trapstream_vtap.probes.drops.settings import ALL
from trapstream_vtap.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trapstream_vtap.probes.drops.settings import DropSettings
    from trapstream_vtap.schema import Layout

TRACEPOINTS = {"drops": "kfree_skb", "traps": "devlink_trap_report"}
"""Where each probe's program runs."""

PROGRAM = "vtap_drop"
_MAPS = ("events", "wakeups", "aggregates0", "aggregates1", "causes", "controls", "strays")
_MOST_CAUSES = 1024
_NAME_SIZE = 16  # of an interface, IFNAMSIZ

_MEMBERS = {
    "SKB_DEVICE": ("sk_buff", "dev"),
    "SKB_SOCKET": ("sk_buff", "sk"),
    "SKB_DST": ("sk_buff", "_skb_refdst"),
    "SKB_LEN": ("sk_buff", "len"),
    "SKB_IIF": ("sk_buff", "skb_iif"),
    "SKB_VLAN_TCI": ("sk_buff", "vlan_tci"),
    "SKB_PROTOCOL": ("sk_buff", "protocol"),
    "SKB_NETWORK_HEADER": ("sk_buff", "network_header"),
    "SKB_MAC_HEADER": ("sk_buff", "mac_header"),
    "SKB_TAIL": ("sk_buff", "tail"),
    "SKB_HEAD": ("sk_buff", "head"),
    "SKB_DATA": ("sk_buff", "data"),
    "DEVICE_NAME": ("net_device", "name"),
    "DEVICE_INDEX": ("net_device", "ifindex"),
    "DEVICE_TYPE": ("net_device", "type"),
    "DEVICE_NET": ("net_device", "nd_net.net"),
    "DEVICE_INDEX_NODE": ("net_device", "index_hlist"),
    "NET_INODE": ("net", "ns.inum"),
    "NET_LOOPBACK": ("net", "loopback_dev"),
    "NET_INDEX_HEADS": ("net", "dev_index_head"),
    "SOCK_NET": ("sock", "__sk_common.skc_net.net"),
    "SOCK_FAMILY": ("sock", "__sk_common.skc_family"),
    "DST_DEVICE": ("dst_entry", "dev"),
}
_TRAP_MEMBERS = {
    "TRAP_NAME": ("devlink_trap_metadata", "trap_name"),
    "TRAP_GROUP": ("devlink_trap_metadata", "trap_group_name"),
    "TRAP_DEVICE": ("devlink_trap_metadata", "input_dev"),
    "TRAP_TYPE": ("devlink_trap_metadata", "trap_type"),
}


def source(settings: DropSettings, probe: str) -> Source:
    """What to compile for PROBE, a key of `TRACEPOINTS`; only numbers go into the text.

    Raises:
        RunError: This kernel has not what it needs.
        UsageError: There is no such drop reason.
    """
    types = btf.read()
    traps = probe == "traps"
    arguments = _arguments(types, probe)
    constants = {
        **{name: types.offset(*member) for name, member in _MEMBERS.items()},
        **({name: types.offset(*m) for name, m in _TRAP_MEMBERS.items()} if traps else {}),
        **arguments,
        "SKB_SIZE": types.size("sk_buff"),
        "TRAPS": int(traps),
        "UNIQUE": int(settings.unique is not None),
        "MAX_EVENTS": settings.max_events,
        "EVENT_PAGES": ring_pages(settings.max_events, DROP_EVENT.size),
        "TABLE_SIZE": settings.drop_table_size,
        "WAKE_AT": settings.drop_table_size * 3 // 4,
        "MAX_CAUSES": _MOST_CAUSES,
    }
    layouts = (*keys(probe), DROP_EVENT, DROP_CAUSE, DROP_CONTROL)
    text = "".join(layout.definition for layout in layouts)
    text += "".join(f"#define {name} {value}ULL\n" for name, value in constants.items())
    text += _define_tag_taken_off(types) + _define_selected(settings.selected)
    if not traps:
        text += _define_wanted(types, settings.drop_reasons)
    return Source(
        text + program_text("drops/drop.c"),
        (Program(PROGRAM, "RAW_TRACEPOINT", shared=True),),
        _MAPS,
    )


def memory(settings: DropSettings, probe: str) -> int:
    """How much of the kernel's memory the maps of `source` take, about; bytes."""
    key, cause = keys(probe)
    return (
        2 * hash_bytes(key.size, DROP_EVENT.size, settings.drop_table_size)
        + hash_bytes(cause.size, 8, _MOST_CAUSES)
        + _MOST_CAUSES * DROP_CAUSE.size * kernel.possible_cpus()
        + ring_pages(settings.max_events, DROP_EVENT.size) * PAGE
    )


def keys(probe: str) -> tuple[Layout, Layout]:
    """What tells records of PROBE apart, and what tells causes apart."""
    return (TRAP_KEY, TRAP_CAUSE_KEY) if probe == "traps" else (DROP_KEY, DROP_CAUSE_KEY)


def _arguments(types: btf.Btf, probe: str) -> dict[str, int]:
    """Which arguments of the tracepoint are what.

    Raises:
        RunError: It does not have them.
    """
    found = types.arguments(TRACEPOINTS[probe])
    if probe == "traps":
        if not found:
            raise RunError(
                "This kernel reports no traps: it has been built without devlink "
                "(CONFIG_NET_DEVLINK)."
            )
        return {}
    if "skb_drop_reason" not in found:
        raise RunError("This kernel does not say why it drops packets: 5.17 or newer does.")
    reason = found.index("skb_drop_reason")
    socket = found.index("sock") if "sock" in found else 0  # since 6.11
    return {"ARG_REASON": reason, "ARG_SOCKET": socket}


def _define_tag_taken_off(types: btf.Btf) -> str:
    """In C: whether the VLAN tag is beside the packet; since 6.2 there is no bit of its own."""
    bits = types.bits("sk_buff", "vlan_present")
    if bits is None:
        at = types.offset("sk_buff", "vlan_all")
        test = f"(*(u32 *)((u8 *)(s)->skb + {at}) != 0)"
    else:
        test = f"(*((u8 *)(s)->skb + {bits // 8}) & {1 << bits % 8})"
    return f"#define SKB_TAG_TAKEN_OFF(s) {test}\n"


def _define_selected(words: Sequence[str]) -> str:
    """In C: whether an event is at an interface of this namespace that WORDS choose; none: all are.

    As `interfaces.choose` has it; but WORDS that only leave out leave all else, wherever it is, and
    alternative names are those of now.
    """
    chosen = _with_others(word for word in words if not word.startswith("!"))
    left_out = _with_others(word[1:] for word in words if word.startswith("!"))
    here = f"e->netns == {Path('/proc/self/ns/net').stat().st_ino}U"
    fits = f"{here} && ({_any(chosen)})" if chosen else "true"
    unwanted = f" && !({here} && ({_any(left_out)}))" if left_out else ""
    functions = "".join(_define_fits(word) for word in {*chosen, *left_out})
    return (
        f"{functions}static __always_inline bool selected(struct drop_event *e)\n{{\n"
        f"\treturn {fits}{unwanted};\n}}\n"
    )


def _with_others(words: Iterable[str]) -> list[str]:
    """WORDS, and the names of interfaces of which an alternative name fits one."""
    given = list(words)
    fits = matcher(given).fullmatch
    known = [one.name for one in interfaces().values() if any(map(fits, one.others))]
    return list(dict.fromkeys((*given, *known)))


def _any(patterns: Sequence[str]) -> str:
    return " || ".join(f"{_function(pattern)}(e->name)" for pattern in patterns)


def _function(pattern: str) -> str:
    return f"fits_{pattern.encode(errors='surrogateescape').hex()}"


def _define_fits(pattern: str) -> str:
    """In C: whether a name fits PATTERN, all of whose places are tried at once, a bit for each.

    See: https://en.wikipedia.org/wiki/Bitap_algorithm
    """
    tokens = re.sub(rb"\*+", b"*", pattern.encode(errors="surrogateescape"))
    places = {byte: sum(1 << i for i, b in enumerate(tokens) if b == byte) for byte in {*tokens}}
    stars, any_one = places.pop(ord("*"), 0), places.pop(ord("?"), 0)
    if len(tokens) - stars.bit_count() >= _NAME_SIZE:
        places, stars, any_one = {}, 0, 0  # no name here is that long
    steps = "".join(
        f"\t\tif (c == {byte})\n\t\t\tnext |= (at & {bits}ULL) << 1;\n"
        for byte, bits in places.items()
    )
    return (
        f"static __always_inline bool {_function(pattern)}(const u8 *name)\n{{\n"
        f"\tu64 at = 1 | (1 & {stars}ULL) << 1;\n\tu64 next;\n\tu32 i;\n\tu8 c;\n\n#pragma unroll\n"
        f"\tfor (i = 0; i < {_NAME_SIZE}; i++) {{\n\t\tc = name[i];\n\t\tif (!c)\n\t\t\tbreak;\n"
        f"\t\tnext = (at & {stars}ULL) | (at & {any_one}ULL) << 1;\n{steps}"
        f"\t\tat = next | (next & {stars}ULL) << 1;\n\t}}\n\treturn at >> {len(tokens)} & 1;\n}}\n"
    )


def _define_wanted(types: btf.Btf, names: Sequence[str]) -> str:
    """In C: whether a drop reason is one of NAMES; none: whether it is not an ordinary one."""
    known = drop_reasons(types)
    check_reasons(names, known)
    listed = names or [name for name in known if causes.drop_reason(name).ordinary]
    tests = [f"reason == {known[name]}U" for name in listed if name in known]
    any_of = " || ".join(tests) or "false"
    sign = "" if names else "!"
    condition = "true" if ALL in names else f"{sign}({any_of})"
    return f"static __always_inline bool wanted(u32 reason)\n{{\n\treturn {condition};\n}}\n"


def reason_names() -> dict[int, str]:
    """The running kernel's drop reasons: names by number."""
    return {number: name for name, number in drop_reasons(btf.read()).items()}


def check_reasons(names: Sequence[str], known: Mapping[str, int]) -> None:
    """See that NAMES are drop reasons of this kernel, or `all`.

    Raises:
        UsageError: One is not.
    """
    for name in names:
        if name == ALL or name in known:
            continue
        hint = nearest(name.upper(), known)
        raise UsageError(f"--drop-reasons: this kernel has no drop reason {name!r}.{hint}")
