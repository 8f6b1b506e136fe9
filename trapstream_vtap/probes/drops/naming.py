# SPDX-License-Identifier: Apache-2.0
"""Names for what the kernel gives in numbers and bytes of trapped and dropped packets.

A new name (of an interface, a cause, a place in the kernel) makes another schema, and so another
plan of every format: that happens a few dozen times in a run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.probes.drops import causes
from trapstream_vtap.probes.drops.layouts import DROP_EVENT, ENCAPSULATIONS, RECORD_KINDS
from trapstream_vtap.probes.drops.records import MESSAGE, WORDS, drop_schema
from trapstream_vtap.schema import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Mapping

    from trapstream_vtap.schema import Schema

_Value = TypeVar("_Value")

_UNKNOWN = "unknown"
_MOST_NAMES = 4096  # of one kind; then they are counted anew
_MOST_TIMES = 1 << 16
_PROTOCOLS = {
    0: "hopopt",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    43: "ipv6-route",
    44: "ipv6-frag",
    46: "rsvp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    59: "ipv6-nonxt",
    60: "ipv6-opts",
    88: "eigrp",
    89: "ospf",
    103: "pim",
    108: "ipcomp",
    112: "vrrp",
    115: "l2tp",
    132: "sctp",
    136: "udplite",
    137: "mpls-in-ip",
}
"""See: https://www.iana.org/assignments/protocol-numbers"""
_NUMBERS = {n: f"{n} ({_PROTOCOLS.get(n, _UNKNOWN)})" for n in range(256)}
_TRANSPORTS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP", 136: "UDP-Lite"}
_ETHERTYPES = {
    0x0800: "IPv4",
    0x0806: "ARP",
    0x86DD: "IPv6",
    0x8847: "MPLS",
    0x8848: "MPLS",
    0x8863: "PPPoE",
    0x8864: "PPPoE",
    0x8809: "LACP",
    0x888E: "EAPOL",
    0x88CC: "LLDP",
    0x88F7: "PTP",
}
_TYPES = (_UNKNOWN, "Ethernet", *dict.fromkeys((*_ETHERTYPES.values(), *_TRANSPORTS.values())))
"""What `packetType` can be."""
_ALWAYS = {
    "packet_packetType": dict(enumerate(_TYPES)),
    "packet_ip_protocolName": _NUMBERS,
    "packet_outer_ip_encapsulation": dict(enumerate(ENCAPSULATIONS)),
    "recordKind": dict(enumerate(RECORD_KINDS)),
}
_PLACE = {1: "x" * 48}
_WIDEST: dict[str, int | bytes] = {
    **{c.name: b"\xff" * c.size if c.count else (1 << 8 * c.size) - 1 for c in DROP_EVENT.columns},
    "trap": b"",
    "group": b"",
    "name": b"x" * 15,
    "location": 1,
    "type": 0,
    "icmp": 0,
    "vlan_tags": 2,
    "encapsulation": 1,
    "kind": 1,
    "time": 10**19 - 1,
    "duration": 10**12 - 1,
    "protocol": 6,
    "packets": 10**10 - 1,
    "bytes": 10**13 - 1,
}
"""A record with all that one can have, and long numbers."""


class _Numbered(Generic[_Value]):
    """Values by numbers, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self.values: list[_Value] = []

    def __contains__(self, key: Hashable) -> bool:
        return key in self._numbers

    def number(self, key: Hashable, value: Callable[[], _Value]) -> int:
        """Of KEY; a new one stands for what VALUE returns."""
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value())
        return self._numbers[key]


class _Times:
    """Times that are not used twice in a series: the later record is moved, by 1 ns steps."""

    def __init__(self) -> None:
        self._following: dict[tuple[Hashable, int], int] = {}

    def unique(self, series: Hashable, time: int) -> int:
        """TIME, or the next one that is free in SERIES."""
        following = self._following
        free = time
        while (series, free) in following:
            free = following[series, free]
        following[series, free] = following[series, time] = free + 1
        while len(following) > _MOST_TIMES:
            del following[next(iter(following))]
        return free


class Naming:
    """Puts behind each record what user space finds out about it, and names what it numbers.

    Args:
        reasons: Names of the running kernel's drop reasons, by number.
        places: Names of places in the kernel, by address.
        tags: A key of `TRAP_TAGS`.
    """

    def __init__(
        self,
        reasons: Mapping[int, str],
        places: Callable[[Collection[int]], Mapping[int, str]],
        tags: str = "default",
    ) -> None:
        self._reasons = reasons
        self._places = places
        self._plain = drop_schema(tags)
        self._times = _Times()
        self._begin()

    def _begin(self) -> None:
        """Without any names yet."""
        self._causes: _Numbered[causes.Cause] = _Numbered()
        self._ports: _Numbered[str] = _Numbered()
        self._locations: _Numbered[str] = _Numbered()
        self._named = (0, 0, 0)
        self._schema = self._with_names()

    def _counts(self) -> tuple[int, int, int]:
        """How many names there are."""
        return len(self._causes.values), len(self._ports.values), len(self._locations.values)

    def named(self, data: bytes | bytearray, probe: str = "") -> Batch:
        """What PROBE's program has handed over, oldest first, with what its numbers stand for."""
        if max(self._counts()) > _MOST_NAMES:
            self._begin()
        size = DROP_EVENT.size
        raw = [bytes(data[at : at + size]) for at in range(0, len(data), size)]
        events = sorted(
            zip(DROP_EVENT.unpack(b"".join(raw)), raw, strict=True), key=lambda e: e[0]["time"]
        )
        self._find_places({event["location"] for event, _ in events})
        records = b"".join(packed + self._words(event) for event, packed in events)
        if self._counts() != self._named:
            self._named = self._counts()
            self._schema = self._with_names()
        return Batch(self._schema, records, probe)

    def _with_names(self) -> Schema:
        """The records, with the names as they are by now."""
        texts = _texts(self._causes.values, self._ports.values, self._locations.values)
        return replace(self._plain, names=_ALWAYS | texts, constants={"message": MESSAGE})

    def _find_places(self, addresses: set[int]) -> None:
        new = {address for address in addresses if address and address not in self._locations}
        if new:
            for address, name in self._places(new).items():
                self._locations.number(address, name.__str__)

    def _words(self, event: Mapping[str, Any]) -> bytes:
        """What is behind EVENT in its record."""
        which = (event["trap"], event["group"], event["type"], event["reason"])
        cause = self._causes.number(which, lambda: cause_of(self._reasons, *which))
        port = self._ports.number(
            _text(event["name"]) or event["interface"], lambda: port_of(event)
        )
        packet_type = _packet_type(event)
        words, said = self._causes.values[cause], self._ports.values[port]
        series = (words.reason, words.type, words.severity, safe_text(said), packet_type)
        tags = event["vlan_tags"] if event["ethernet"] else 0
        two = tags == 2  # noqa: PLR2004 - an outer and an inner one
        inner, outer = event["vlan_inner" if two else "vlan_outer"], event["vlan_outer"]
        place = self._locations.number(event["location"], str) if event["location"] else 0
        return WORDS.pack(
            {
                "stamp": self._times.unique(series, event["time"]),
                "cause": cause,
                "port": port,
                "place": place,
                "packet_type": packet_type,
                "vlan": inner & 0xFFF,
                "pcp": inner >> 13,
                "service_vlan": outer & 0xFFF,
                "service_pcp": outer >> 13,
                "tags": tags,
                "two_tags": two,
                "tcp": event["tcp_flags"] if event["ports"] else 0,
                "placed": bool(event["location"] and self._locations.values[place]),
                "namespaced": bool(event["netns"]),
            }
        )


def longest(tags: str = "default") -> Schema:
    """The records of `DroppedPackets` with the widest ones that are to be expected.

    None is longer than these, unless by an unusually long name.
    """
    names = dict(enumerate(causes.drop_reasons()))
    data = b"".join(DROP_EVENT.pack(_WIDEST | {"reason": number}) for number in names)
    batch = Naming(names, lambda _: _PLACE, tags).named(data)
    return replace(batch.schema, widest=bytes(batch.data))


def cause_of(
    reasons: Mapping[int, str], trap: bytes, group: bytes, kind: int, reason: int
) -> causes.Cause:
    """The cause of an event in words, by its columns and REASONS, names by number.

    Of traps the group and the type are as the kernel says them now.
    """
    if name := _text(trap):
        known = causes.trap(name)
        said = causes.TYPES[kind] if kind < len(causes.TYPES) else known.type
        return replace(known, type=said, group=_text(group) or known.group)
    return causes.drop_reason(reasons.get(reason, f"{_UNKNOWN}_{reason:#x}"))


def port_of(event: Mapping[str, Any]) -> str:
    """What the interface of an event is called."""
    return _text(event["name"]) or str(event["interface"] or _UNKNOWN)


def _text(padded: bytes) -> str:
    """What stands ahead of the zeros."""
    return padded.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _texts(
    known: Iterable[causes.Cause], ports: Iterable[str], places: Iterable[str]
) -> dict[str, Mapping[int, str]]:
    """What the numbers of fields stand for, by field."""
    found: dict[str, Mapping[int, str]] = {
        "ingressPort": dict(enumerate(ports)),
        "location": dict(enumerate(places)),
    }
    for field, part in (
        ("dropReason", "reason"),
        ("dropType", "type"),
        ("severity", "severity"),
        ("description", "advice"),
        ("trapName", "name"),
        ("trapGroup", "group"),
    ):
        found[field] = {number: getattr(cause, part) for number, cause in enumerate(known)}
    return found


def _packet_type(event: Mapping[str, Any]) -> int:
    """Position in `_TYPES`."""
    named = _ETHERTYPES.get(event["ethertype"], "Ethernet" if event["ethernet"] else _UNKNOWN)
    if event["family"]:
        by_family = "IPv4" if event["family"] == 4 else "IPv6"  # noqa: PLR2004 - IP versions
        named = _TRANSPORTS.get(event["protocol"], by_family)
    return _TYPES.index(named)
