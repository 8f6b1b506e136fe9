# SPDX-License-Identifier: Apache-2.0
"""Trapped and dropped packets to try, and the JSON object that each must become.

The object is put together here from the same draws, by what trapstream's users know of it, apart
from the product's schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.namespace import Namespace


import ipaddress
import os
from decimal import Decimal
from typing import TYPE_CHECKING

from expected import names
from hypothesis import strategies as st

from trapstream_vtap import formats
from trapstream_vtap.probes.drops import causes, naming
from trapstream_vtap.probes.drops.layouts import DROP_EVENT
from trapstream_vtap.probes.drops.naming import Naming

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trapstream_vtap.formats import Format

REASONS = {
    2: "NOT_SPECIFIED",
    3: "NO_SOCKET",
    6: "SOCKET_RCVBUFF",
    77: "SKB_GSO_SEG",
    90: "NEW_ONE",
}
"""Numbers as a kernel could have them; the last one no file knows."""
PLACES = {0xFFFFFFFF81000000 + n: f"function_{n}+{n:#x}" for n in range(1, 5)}
TRAPS = ("ttl_value_is_too_small", "blackhole_route", "igmp_query", "fid_miss", "vendor trap=1,2")
GROUPS = ("l3_drops", "l2_drops", "vendor group")

_ETHERTYPES = {0x806: "ARP", 0x88CC: "LLDP", 0x8847: "MPLS", 0x1234: "Ethernet", 0: "Ethernet"}
_PROTOCOLS = {
    1: ("1 (icmp)", "ICMP"),
    6: ("6 (tcp)", "TCP"),
    17: ("17 (udp)", "UDP"),
    58: ("58 (icmpv6)", "ICMPv6"),
    136: ("136 (udplite)", "UDP-Lite"),
    132: ("132 (sctp)", "SCTP"),
    47: ("47 (gre)", None),
    253: ("253 (unknown)", None),
}
_KINDS = ("event", "aggregate", "suppressed")
_byte = st.integers(0, 255)
_port = st.integers(0, 65535)
_time = st.integers(0, 2**63 - 2**20)
_mac = st.binary(min_size=6, max_size=6)


@dataclass(frozen=True)
class Dropped:
    """A record, and what it must become.

    Args:
        columns: Of the C structure.
        shown: The JSON object but for `deviceIP` and `ingressPort`.
        interface: The interface's name, if the kernel has told it.
    """

    columns: dict[str, int | bytes]
    shown: dict[str, Any]
    interface: str | None

    def packed(self) -> bytes:
        """The C structure."""
        return DROP_EVENT.pack(self.columns)


def interface_names() -> st.SearchStrategy[str]:
    """Names of interfaces, hostile ones often: up to 15 bytes, none of which is zero."""
    fits = names().map(lambda name: os.fsdecode(os.fsencode(name).replace(b"\0", b"")[:15]))
    return fits.filter(bool)


def _address(draw: st.DrawFn, family: int) -> tuple[bytes, str]:
    packed = draw(st.binary(min_size=16, max_size=16))
    if family == 4:
        return packed[:4], str(ipaddress.IPv4Address(packed[:4]))
    return packed, str(ipaddress.IPv6Address(packed))


def _mac_text(mac: bytes) -> str:
    return mac.hex(":")


def _ethernet(draw: st.DrawFn, ethertype: int) -> tuple[dict[str, Any], dict[str, Any]]:
    source, destination = draw(_mac), draw(_mac)
    tags = draw(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4095)), max_size=2))
    columns: dict[str, Any] = {
        "ethernet": 1,
        "ethertype": ethertype,
        "src_mac": source,
        "dst_mac": destination,
        "vlan_tags": len(tags),
    }
    shown = {
        "etherTypeName": hex(ethertype),
        "etherType": ethertype,
        "srcMac": _mac_text(source),
        "dstMac": _mac_text(destination),
    }
    for column, (priority, vlan) in zip(("vlan_outer", "vlan_inner"), tags, strict=False):
        columns[column] = priority << 13 | draw(st.integers(0, 1)) << 12 | vlan
    if tags:
        shown["pcp"], shown["vlanId"] = tags[-1]
    if len(tags) == 2:
        shown["outerPcp"], shown["outerVlanId"] = tags[0]
    return columns, shown


def _cause(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    if draw(st.booleans()):
        name, group = draw(st.sampled_from(TRAPS)), draw(st.sampled_from(GROUPS))
        kind = draw(st.integers(0, 2))
        known = causes.trap(name)
        columns = {"trap": name.encode(), "group": group.encode(), "type": kind}
        shown = {"trapGroup": group, "dropType": ("drop", "exception", "control")[kind]}
    else:
        number = draw(st.sampled_from([*REASONS]))
        known = causes.drop_reason(REASONS[number])
        columns, shown = {"reason": number}, {"trapGroup": known.group, "dropType": "drop"}
        place = draw(st.sampled_from([0, *PLACES]))
        if place:
            columns["location"], shown["location"] = place, PLACES[place]
    return columns, shown | {
        "dropReason": known.reason,
        "description": known.advice,
        "severity": known.severity,
        "trapName": known.name,
    }


def _ip(draw: st.DrawFn, ethertype: int) -> tuple[dict[str, Any], dict[str, Any]]:
    family = 4 if ethertype == 0x800 else 6
    (source, source_text), (target, target_text) = _address(draw, family), _address(draw, family)
    protocol = draw(st.sampled_from([*_PROTOCOLS]))
    length, tos, ttl = draw(_port), draw(_byte), draw(_byte)
    columns: dict[str, Any] = {
        "family": family,
        "src_ip": source,
        "dst_ip": target,
        "protocol": protocol,
        "ip_length": length,
        "tos": tos,
        "ttl": ttl,
    }
    name, kind = _PROTOCOLS[protocol]
    packet: dict[str, Any] = {
        "packetType": kind or f"IPv{family}",
        "IP": {
            "srcIp": source_text,
            "dstIp": target_text,
            "protocol": protocol,
            "protocolName": name,
            "length": length,
            "tos": tos,
            "ttl": ttl,
        },
    }
    if protocol in (6, 17, 132, 136) and draw(st.booleans()):
        ports = draw(_port), draw(_port)
        columns |= {"ports": 1, "src_port": ports[0], "dst_port": ports[1]}
        packet["TRANSPORT"] = {"srcPort": ports[0], "dstPort": ports[1]}
        flags = draw(_byte) if protocol == 6 else 0
        if flags:
            columns["tcp_flags"] = packet["TRANSPORT"]["tcpFlags"] = flags
    if protocol in (1, 58) and draw(st.booleans()):
        columns |= {"icmp": 1, "icmp_type": draw(_byte), "icmp_code": draw(_byte)}
        packet["ICMP"] = {"type": columns["icmp_type"], "code": columns["icmp_code"]}
    if draw(st.booleans()):
        outer = draw(st.sampled_from([4, 6]))
        (source, source_text), (target, target_text) = _address(draw, outer), _address(draw, outer)
        around = draw(st.sampled_from(["ipip", "gre"]))
        columns |= {"outer_family": outer, "outer_src_ip": source, "outer_dst_ip": target}
        columns["encapsulation"] = ("", "ipip", "gre").index(around)
        packet["OUTER_IP"] = {"encapsulation": around, "srcIp": source_text, "dstIp": target_text}
    return columns, packet


@st.composite
def dropped(
    draw: st.DrawFn, *, whole: bool = False, times: st.SearchStrategy[int] = _time
) -> Dropped:
    """Records of every kind; WHOLE ones have all that a packet of the original had."""
    columns, shown = _cause(draw)
    kind = 0 if whole else draw(st.integers(0, 2))
    time = draw(times)
    count = draw(st.integers(1, 2**40)) if kind else 1
    octets = draw(st.integers(0, 2**62))
    columns |= {"kind": kind, "time": time, "packets": count, "bytes": octets}
    shown |= {"recordKind": _KINDS[kind], "count": count, "bytes": octets}
    shown |= {"name": "DroppedPackets", "message": "fwdDrop"}
    shown["timestamp"] = f"{time // 10**9}.{time % 10**9:09d}"
    packet: dict[str, Any] = {"packetType": "unknown"}
    interface = None
    if kind < 2:
        ip = whole or draw(st.booleans())
        ethertype = draw(st.sampled_from([0x800, 0x86DD] if ip else [*_ETHERTYPES]))
        if ip:
            more, packet = _ip(draw, ethertype)
            columns |= more
        if whole or draw(st.booleans()):
            more, packet["ETHERNET"] = _ethernet(draw, ethertype)
            columns |= more
            if not ip:
                packet["packetType"] = _ETHERTYPES[ethertype]
        interface = draw(interface_names() if whole else st.none() | interface_names())
        columns["interface"] = draw(st.sampled_from([0, 1, 2, 70000]))
        if interface:
            columns["name"] = os.fsencode(interface)
        if draw(st.booleans()):
            columns["netns"] = shown["netns"] = draw(st.integers(1, 2**32 - 1))
    if kind == 1 and draw(st.booleans()):
        columns["duration"] = draw(st.integers(1, 10**15))
        shown["duration"] = Decimal(columns["duration"]).scaleb(-9)
    shown["packet"] = packet
    return Dropped(columns, shown, interface)


def places() -> Callable[..., dict[int, str]]:
    """What `Naming` asks for names."""
    return lambda addresses: {address: PLACES[address] for address in addresses}


class DropPlan:
    """Renders what the kernel program hands over, as delivery does."""

    def __init__(
        self,
        form: Format,
        device: str,
        reasons: Mapping[int, str],
        tags: str = "default",
    ) -> None:
        self._form, self._device = form, device
        self._tags = tags
        self.naming = Naming(reasons, places(), tags)

    @property
    def longest(self) -> int:
        """As delivery computes it."""
        return formats.longest(self._form, naming.longest(self._tags), self._device)

    def render(self, events: bytes, most_records: int, most_bytes: int) -> Any:
        """As `Plan.render`."""
        batch = self.naming.named(events)
        plan = formats.compile_plan(self._form, batch.schema, self._device)
        return plan.render(batch.data, most_records, most_bytes)


def mac(namespace: Namespace, name: str) -> str:
    """The address of an interface."""
    return str(json.loads(namespace.run("ip", "-j", "link", "show", name).stdout)[0]["address"])
