# SPDX-License-Identifier: Apache-2.0
"""The probes for drops and traps: bpf/drop.c at its tracepoint, what it hands over, its counts."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap import causes
from trapstream_vtap._native import Ring
from trapstream_vtap.bpf import btf, kernel
from trapstream_vtap.bpf.memory import hash_bytes
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.interfaces import interfaces
from trapstream_vtap.layouts import (
    DROP_CAUSE,
    DROP_CAUSE_KEY,
    DROP_CONTROL,
    DROP_EVENT,
    DROP_KEY,
    RECORD_KINDS,
    TRAP_CAUSE_KEY,
    TRAP_KEY,
)
from trapstream_vtap.probes.flow import PAGE, clock_offset, ring_pages
from trapstream_vtap.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.config import Settings
    from trapstream_vtap.schema import Layout

TRACEPOINTS = {"drops": "kfree_skb", "traps": "devlink_trap_report"}
"""Where each probe's program runs."""

ALL = "all"
"""Every drop reason, in `--drop-reasons`."""

_PROGRAM = "vtap_drop"
_MAPS = ("events", "wakeups", "aggregates0", "aggregates1", "causes", "controls", "strays")
_MOST_CAUSES = 1024
_MOST_AT_ONCE = 4096
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


def source(settings: Settings, probe: str) -> Source:
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
        text + program_text("drop.c"),
        (Program(_PROGRAM, "RAW_TRACEPOINT"),),
        _MAPS,
    )


def memory(settings: Settings, probe: str) -> int:
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

    As `interfaces.choose` has it; but WORDS that only leave out leave all else, wherever it is.
    """
    known = {other: one.name for one in interfaces().values() for other in one.others}
    chosen = [known.get(word, word) for word in words if not word.startswith("!")]
    left_out = [word[1:] for word in words if word.startswith("!")]
    here = f"e->netns == {Path('/proc/self/ns/net').stat().st_ino}U"
    fits = f"{here} && ({_any(chosen)})" if chosen else "true"
    unwanted = f" && !({here} && ({_any(left_out)}))" if left_out else ""
    functions = "".join(_define_fits(word) for word in {*chosen, *left_out})
    return (
        f"{functions}static __always_inline bool selected(struct drop_event *e)\n{{\n"
        f"\treturn {fits}{unwanted};\n}}\n"
    )


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
    known = btf.drop_reasons(types)
    check_reasons(names, known)
    listed = names or [name for name in known if causes.drop_reason(name).ordinary]
    tests = [f"reason == {known[name]}U" for name in listed if name in known]
    any_of = " || ".join(tests) or "false"
    sign = "" if names else "!"
    condition = "true" if ALL in names else f"{sign}({any_of})"
    return f"static __always_inline bool wanted(u32 reason)\n{{\n\treturn {condition};\n}}\n"


def reason_names() -> dict[int, str]:
    """The running kernel's drop reasons: names by number."""
    return {number: name for name, number in btf.drop_reasons(btf.read()).items()}


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


@dataclass(frozen=True)
class Counts:
    """What became of the packets that the kernel reported.

    Args:
        by_cause: By the cause's key, and within by `DROP_COUNTS`.
        missed: Reports that came while the program was running on the same CPU.
        strays: Reports of so many causes that there was no room to count them apart.
    """

    by_cause: dict[bytes, Counter[str]]
    missed: int = 0
    strays: int = 0

    def total(self) -> Counter[str]:
        """All causes together, and what has none; by `DROP_COUNTS`, and what was missed."""
        total = sum(self.by_cause.values(), Counter[str]())
        total["missed"] = self.missed + self.strays
        total["seen"] += total["missed"]
        return total


class DropProbe:
    """What is dropped or trapped, from `attach` to `detach`.

    Args:
        settings: Of what, and how.
        kind: A key of `TRACEPOINTS`.
        objects: What has been loaded from `source`.
    """

    def __init__(self, settings: Settings, kind: str, objects: Objects) -> None:
        self.kind = kind
        self._settings = settings
        self._objects = objects
        self._maps = objects.maps
        self._cpus = kernel.possible_cpus()
        self._events = Ring(self._maps["events"], DROP_EVENT.size)
        self._wakeups = Ring(self._maps["wakeups"], 8)
        self._table = 0
        self._suppressed: dict[bytes, tuple[int, int]] = {}  # told of so far: packets, bytes
        self._key, self._cause_key = keys(kind)
        self._clock_offset = clock_offset()
        self._write_control()

    @property
    def interval(self) -> int:
        """For how long equal ones are counted together, ns."""
        return self._settings.unique or self._settings.interval

    def events_fileno(self) -> int:
        """Becomes readable when there are events."""
        return self._events.fileno()

    def pressure_fileno(self) -> int:
        """Becomes readable when the table of aggregates is nearly full."""
        return self._wakeups.fileno()

    def calm(self) -> None:
        """The table's call has been heard."""
        while self._wakeups.read(1):  # only what finds it empty calls again
            pass

    def read(self, most: int) -> bytearray:
        """Up to MOST events, one packet each."""
        return self._events.read(most)

    def aggregates(self) -> Iterator[bytearray]:
        """What has been counted together since the last call: records of several packets.

        Two tables take turns. When every run of the program that may have chosen the old one is
        over, nobody writes to it any more.
        """
        old, self._table = self._table, 1 - self._table
        self._clock_offset = clock_offset()
        self._write_control()
        kernel.wait_for_programs()
        yield from kernel.take_elements(
            self._maps[f"aggregates{old}"],
            self._key.size,
            DROP_EVENT.size,
            min(self._settings.drop_table_size, _MOST_AT_ONCE),
        )

    def suppressed(self) -> bytearray:
        """A record for each cause of which packets have only been counted since the last call."""
        batch = bytearray()
        now = time.monotonic_ns() + self._clock_offset
        for key, counts in self.counts().by_cause.items():
            before = self._suppressed.get(key, (0, 0))
            packets, octets = counts["suppressed"], counts["suppressed_bytes"]
            if packets != before[0]:
                (cause,) = self._cause_key.unpack(key)
                batch += DROP_EVENT.pack(
                    {
                        **cause,
                        "time": now,
                        "packets": packets - before[0],
                        "bytes": octets - before[1],
                        "kind": RECORD_KINDS.index("suppressed"),
                    }
                )
                self._suppressed[key] = packets, octets
        return batch

    def counts(self) -> Counts:
        """What the program has counted since the start."""
        size = DROP_CAUSE.size * self._cpus
        found = {}
        for key, value in kernel.elements(self._maps["causes"], self._cause_key.size, size):
            counts = Counter[str]()
            for row in DROP_CAUSE.unpack(value):
                counts.update(row)
            found[key] = counts
        strays = kernel.read_element(self._maps["strays"], 0, 8 * self._cpus)
        return Counts(
            found,
            kernel.missed_runs(self._objects.programs[_PROGRAM]),
            sum(memoryview(strays).cast("Q")),
        )

    def close(self) -> None:
        """Give program and maps back."""
        del self._events, self._wakeups
        self._objects.close()

    def _write_control(self) -> None:
        values = {"clock_offset": self._clock_offset, "table": self._table}
        kernel.write_element(self._maps["controls"], 0, DROP_CONTROL.pack(values))
