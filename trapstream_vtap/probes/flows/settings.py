# SPDX-License-Identifier: Apache-2.0
"""What the person may say of flows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.clock import NS
from trapstream_vtap.errors import UsageError
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.probes.flows.rules import parse_rules
from trapstream_vtap.probes.flows.wanted import grouped
from trapstream_vtap.settings.core import Core, Interval
from trapstream_vtap.settings.kinds import (
    BOOLEAN,
    Choice,
    Flag,
    Hex,
    Names,
    OneOf,
    Seconds,
    Whole,
    switch,
    wrong,
)
from trapstream_vtap.settings.option import Key, Reload, derived, option
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.probes.flows.rules import Rule

DEFAULT_KEY = KEY_FIELDS[:5]
STOP_GAP_NS = 2 * NS
LONGEST_STOP_GAP = 3600
MOST_PAYLOAD = 65535
MOST_OFFSET = MOST_PAYLOAD - 2
"""A number takes two bytes at the least."""
SEQUENCE_BITS = (16, 32, 64)
DIRECTIONS = {
    "ingress": (Direction.INGRESS,),
    "egress": (Direction.EGRESS,),
    "both": (Direction.INGRESS, Direction.EGRESS),
}
HOOKS = ("tc", "xdp", "socket")
"""Where the kernel program sees packets."""
TUNNELS = ("vxlan", "geneve", "gre", "erspan", "gtpu", "ipip")
"""What may be looked into."""
DISPLAY = ("Throughput", "Goodput", "Jitter", "SEQ_ERRORS")
NO_PATTERN = 0xFFFFFFFF
_MOST_OFFSET_IN_OLD_FILES = 5000
_MOST_RULES = 2048  # what a kernel program has room for, if each says little
_NS_OF_MS = 1_000_000


def _rules(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
        raise wrong(key, value, "give a list of rules, each a string of five words")
    if len(value) > _MOST_RULES:
        raise UsageError(f"{key} has {amount(len(value), 'rule')}; there may be {_MOST_RULES}.")
    try:
        rules = parse_rules(value)
    except UsageError as error:
        raise UsageError(f"{key}, {error}") from error
    try:
        grouped(rules)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error
    return {"rules": rules}


def _display(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(key, value, f"give an object with any of {', '.join(DISPLAY)}")
    for name in value:
        if name not in DISPLAY:
            raise UsageError(f"{key}: there is no {name!r}; there are {', '.join(DISPLAY)}.")
    shown = {name: switch(f"{key}.{name}", on) for name, on in value.items()}
    found: dict[str, Any] = {"hidden": frozenset(name for name, on in shown.items() if not on)}
    if shown.get("SEQ_ERRORS"):
        found["sequence"] = True
    return found


def _number(field: str, lowest: int, highest: int) -> Callable[[str, Any], dict[str, Any]]:
    def convert(key: str, value: Any) -> dict[str, Any]:
        if type(value) is not int or not lowest <= value <= highest:
            raise wrong(key, value, f"give a whole number from {lowest} to {highest}")
        return {field: value}

    return convert


def _offset(key: str, value: Any) -> dict[str, Any]:
    found = _number("offset", -1, _MOST_OFFSET_IN_OLD_FILES)(key, value)
    return {"offset": None} if found["offset"] < 0 else found


def _pattern(key: str, value: Any) -> dict[str, Any]:
    """32 bits, in hexadecimal digits."""
    if not isinstance(value, str) or not re.fullmatch("0[xX][0-9a-fA-F]{1,8}", value):
        raise wrong(key, value, 'give 32 bits as "0x" and up to 8 hexadecimal digits')
    pattern = int(value, 16)
    return {"pattern": None if pattern == NO_PATTERN else pattern}


_MOST_THRESHOLD = (1 << 32) - 1
RULES = Key(
    "RULES",
    _rules,
    {"type": "array", "items": {"type": "string"}, "maxItems": _MOST_RULES},
    "which packets count, each rule five words: source destination source_port destination_port "
    "protocol",
)
_DISPLAY = Key(
    "DISPLAY",
    _display,
    {
        "type": "object",
        "properties": {name: dict(BOOLEAN) for name in DISPLAY},
        "additionalProperties": False,
    },
    "`false` leaves these fields out",
)
_PATTERN = Key(
    "PATTERN",
    _pattern,
    {"type": "string", "pattern": "^0[xX][0-9a-fA-F]{1,8}$"},
    'as `sequence_pattern`; "0xFFFFFFFF": not wanted',
)
_OFFSET = Key(
    "OFFSET",
    _offset,
    {"type": "integer", "minimum": -1, "maximum": _MOST_OFFSET_IN_OLD_FILES},
    "as `sequence_offset`; -1: not wanted",
)
_THRESHOLD = Key(
    "SEQUENCE_THRESHOLD",
    _number("sequence_threshold", 1, _MOST_THRESHOLD),
    {"type": "integer", "minimum": 1, "maximum": _MOST_THRESHOLD},
    "as `sequence_threshold`",
)


@dataclass(frozen=True, kw_only=True)
class FlowSettings(Core):
    """Everything that measuring flows depends on; times in ns."""

    directions: tuple[Direction, ...] = option(
        "--direction",
        kind=Choice(DIRECTIONS),
        default="ingress",
        help="Which packets, seen from this machine.",
    )
    key: tuple[str, ...] = option(
        "--key",
        kind=Names("FIELD,…", KEY_FIELDS, "key field"),
        default=DEFAULT_KEY,
        reload=Reload.TAKEN,
        help="What tells flows apart, beside interface and direction: any of src_ip, dst_ip, "
        "src_port, dst_port, protocol, vlan, tunnel_id.",
    )
    hook: str = option(
        "--hook",
        kind=Choice(HOOKS),
        default="tc",
        help="Where packets are seen: traffic control, XDP (ingress only, before packets are "
        "merged), or a packet socket's filter.",
    )
    decapsulate: tuple[str, ...] = option(
        "--decapsulate",
        kind=Names("TUNNEL,…", TUNNELS, "tunnel"),
        default=(),
        reload=Reload.TAKEN,
        help="Measure the flows inside these tunnels: any of vxlan, geneve, gre, erspan, gtpu, "
        "ipip.  [default: none]",
    )
    promiscuous: bool = option(
        "--promiscuous",
        kind=Flag(),
        default=False,
        said="promiscuous mode",
        help="While it runs, have the interfaces take frames for other machines too: mirrored "
        "traffic.",
    )
    bits: bool = option(
        "--bits",
        kind=Flag(),
        default=False,
        reload=Reload.TAKEN,
        help="Rates in bits/s instead of bytes/s.",
    )
    flow_table_size: int = option(
        "--flow-table-size",
        kind=Whole(64, 1 << 24),
        metavar="N",
        default=65536,
        reload=Reload.TAKEN,
        help="Most flows that the kernel keeps at a time. It takes 300 to 600 bytes of its memory "
        "for each, from the start (refused where that is more than 80 % of what is free).",
    )
    jitter_interval: int | None = option(
        "-j",
        "--jitter-interval",
        kind=Interval(),
        metavar="SECONDS",
        reload=Reload.TAKEN,
        help="Length of an interval of jitter, 0.1 to 3600; a whole multiple of --interval, or the "
        "other way round.  [default: that of --interval]",
    )
    stop_gap: int = option(
        "--stop-gap",
        kind=Seconds(0.001, LONGEST_STOP_GAP),
        metavar="SECONDS",
        default=2.0,
        reload=Reload.TAKEN,
        help="A longer gap between packets is a stop of the flow, and no inter-arrival time.",
    )
    expected_gap: int | None = option(
        "--expected-gap",
        kind=Seconds(0, LONGEST_STOP_GAP * 1000, to=_NS_OF_MS),
        metavar="MS",
        reload=Reload.TAKEN,
        help="The sender's spacing; adds iat_deviation_ms.  [default: not known]",
    )
    smoothed_jitter: bool = option(
        "--smoothed-jitter",
        kind=Flag(),
        default=False,
        reload=Reload.TAKEN,
        help="Add jitter_rfc3550_ms, smoothed as RFC 3550 does.",
    )
    sequence: bool = option(
        "--sequence",
        kind=Flag(),
        default=False,
        reload=Reload.TAKEN,
        help="Check sequence numbers: TCP's own, and with --sequence-offset those that UDP and "
        "ICMP carry.",
    )
    tcp_sequence: str = option(
        "--tcp-sequence",
        kind=Choice(("stream", "packet")),
        default="stream",
        reload=Reload.TAKEN,
        needs=("sequence", "offset"),
        help="How TCP's numbers are read: as those of bytes, or as if each packet counted one "
        "(generated test traffic).",
    )
    offset: int | None = option(
        "--sequence-offset",
        kind=Whole(0, MOST_OFFSET),
        metavar="BYTES",
        reload=Reload.TAKEN,
        keys=(_OFFSET,),
        help="Where UDP and ICMP carry a number: so many bytes behind the payload's start, or "
        "behind the pattern's. Turns --sequence on.  [default: they carry none]",
    )
    sequence_bits: int = option(
        "--sequence-bits",
        kind=OneOf(*SEQUENCE_BITS),
        metavar="16|32|64",
        default=32,
        reload=Reload.TAKEN,
        needs=("offset",),
        help="How wide that number is.",
    )
    sequence_order: str = option(
        "--sequence-order",
        kind=Choice(("big", "little")),
        default="big",
        reload=Reload.TAKEN,
        needs=("offset",),
        help="Which of its bytes comes first: the most significant one (network byte order), or "
        "the least.",
    )
    pattern: int | None = option(
        "--sequence-pattern",
        kind=Hex(),
        metavar="HEX",
        reload=Reload.TAKEN,
        keys=(_PATTERN,),
        needs=("offset",),
        help="32 bits to look for in the payload's first 5,000 bytes; needs --sequence-offset.  "
        "[default: none]",
    )
    sequence_threshold: int = option(
        "--sequence-threshold",
        kind=Whole(1, (1 << 31) - 1),
        metavar="N",
        default=100,
        reload=Reload.TAKEN,
        keys=(_THRESHOLD,),
        needs=("sequence", "offset"),
        help="The largest distance, and the largest hole in a TCP stream in bytes, that is a small "
        "error.",
    )
    metrics_flows: int = option(
        "--metrics-flows",
        kind=Whole(0, 10_000),
        metavar="N",
        default=100,
        needs=("metrics",),
        help="Most flows that /metrics shows by themselves, the top ones by bytes.",
    )
    rules: tuple[Rule, ...] = derived((), Reload.TAKEN, RULES)
    hidden: frozenset[str] = derived(frozenset(), Reload.TAKEN, _DISPLAY)

    @property
    def jitter(self) -> JitterInterval:
        """The jitter interval beside the measuring interval."""
        if self.jitter_interval in (None, self.interval):
            return JitterInterval.SAME
        longer = self.jitter_interval > self.interval
        return JitterInterval.LONGER if longer else JitterInterval.SHORTER

    @property
    def intervals(self) -> tuple[int, int]:
        """The shorter and the longer one of measuring interval and jitter interval."""
        jitter = self.jitter_interval or self.interval
        return min(self.interval, jitter), max(self.interval, jitter)

    @property
    def sequences(self) -> bool:
        """Whether sequence numbers are checked."""
        return self.sequence or self.offset is not None

    def checked(self) -> Self:
        """These settings, which go together, with what follows from some of them.

        Raises:
            UsageError: They do not.
        """
        if self.expected_gap is not None and self.expected_gap > self.stop_gap:
            raise UsageError(
                "--expected-gap is longer than --stop-gap: the flow would always stand."
            )
        _check_intervals(self.interval, self.intervals)
        if self.offset is not None and self.offset + self.sequence_bits // 8 > MOST_PAYLOAD:
            raise UsageError(
                f"--sequence-offset {self.offset} and {self.sequence_bits} bits behind it: no "
                f"payload is longer than {MOST_PAYLOAD} bytes."
            )
        if self.hook == "xdp" and self.directions != DIRECTIONS["ingress"]:
            raise UsageError(
                "--hook xdp sees only what comes in: use --direction ingress, or --hook tc."
            )
        if "tunnel_id" in self.key and not self.decapsulate:
            raise UsageError(
                "--key tunnel_id without --decapsulate: say which tunnels to look into, any of "
                f"{','.join(TUNNELS)}."
            )
        shown = self.jitter_interval if "Jitter" not in self.hidden else None
        return replace(self, jitter_interval=shown or self.interval)


def _check_intervals(interval: int, both: tuple[int, int]) -> None:
    """See that the grid of one has the lines of the other; ns."""
    shorter, longer = both
    if longer % shorter:
        jitter = longer if interval == shorter else shorter
        raise UsageError(
            f"--jitter-interval is {jitter / NS:g} s and --interval {interval / NS:g} s: "
            "one of the two must be a whole multiple of the other."
        )
