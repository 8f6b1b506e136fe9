# SPDX-License-Identifier: Apache-2.0
"""The records of `DroppedPackets`: packets that were trapped or dropped, event by event.

Names and nesting are those of trapstream, so that what was written for it keeps working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.drops.layouts import DROP_EVENT
from trapstream_vtap.schema import Column, Field, Kind, Layout, Role, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator

MEASUREMENT = "DroppedPackets"
MESSAGE = "fwdDrop"
"""What field `message` says."""

WORDS = Layout(
    "drop_words",
    (
        Column("stamp", "u64", "time that no other record of the series has, ns since the epoch"),
        Column("cause", "u32", "number of the cause, as user space counts them"),
        Column("port", "u32", "likewise of the interface's name"),
        Column("place", "u32", "likewise of the location's name"),
        Column("packet_type", "u32", "likewise of the packet's type"),
        Column("vlan", "u16", "id of the innermost VLAN"),
        Column("service_vlan", "u16", "id of the outer one, where there are two"),
        Column("pcp", "u8", "priority of the innermost tag"),
        Column("service_pcp", "u8", "priority of the outer one"),
        Column("tags", "u8", "how many VLAN tags there are in the Ethernet header"),
        Column("two_tags", "u8", "1 where there are two"),
        Column("tcp", "u8", "not 0 where there are ports and TCP flags"),
        Column("placed", "u8", "1 where the location is known"),
        Column("namespaced", "u8", "1 where the network namespace is known"),
        Column("reserved3", "u8[5]"),
    ),
)
"""What user space finds out about a record before it is rendered."""

DROP_RECORD = Layout("drop_record", (*DROP_EVENT.columns, *WORDS.columns))
"""What the kernel program hands over, and behind it what user space finds out about it."""

TRAP_TAGS = {
    "default": (
        *("deviceIP", "dropReason", "dropType", "ingressPort", "message", "packet_packetType"),
        "severity",
    ),
    "full": (
        *("description", "deviceIP", "dropReason", "dropType", "ingressPort", "message"),
        *("packet_ethernet_dstMac", "packet_ethernet_srcMac", "packet_ip_srcIp"),
        *("packet_packetType", "severity"),
    ),
}
"""What are tags, by the choice of `--trap-tags`; everything else is a field."""

_Rows = tuple[tuple[str, Kind, tuple[str, ...], str, str], ...]
"""Of each field: name, kind, columns, unit, meaning."""

_HEAD: _Rows = (
    ("deviceIP", Kind.CONSTANT, (), "", "what `--device-ip` says"),
    ("dropReason", Kind.LABEL, ("cause",), "", "what happened, in a few words"),
    ("dropType", Kind.LABEL, ("cause",), "", "`drop`, `exception` or `control`"),
    ("ingressPort", Kind.LABEL, ("port",), "", "the interface that the packet is at, by name"),
    ("message", Kind.CONSTANT, (), "", f"`{MESSAGE}`"),
    ("severity", Kind.LABEL, ("cause",), "", "`Error`, `Warning` or `Notice`"),
    ("count", Kind.COUNT, ("packets",), "packets", "that the record stands for"),
    ("bytes", Kind.COUNT, ("bytes",), "bytes", "of all of them, with Ethernet header"),
    (
        *("duration", Kind.SECONDS, ("duration",), "s"),
        "from the first to the last of them; absent where that is 0",
    ),
    ("description", Kind.LABEL, ("cause",), "", "what to do about it"),
    (
        *("recordKind", Kind.LABEL, ("kind",), ""),
        "`event`, `aggregate` (of equal packets) or `suppressed` (only cause and counts are known)",
    ),
    ("trapName", Kind.LABEL, ("cause",), "", "the kernel's name of the trap or drop reason"),
    ("trapGroup", Kind.LABEL, ("cause",), "", "its group"),
    (
        *("location", Kind.NAME, ("place", "placed"), ""),
        "where the kernel dropped the packet: function and offset, or the address; absent in traps",
    ),
    (
        *("netns", Kind.NUMBER, ("netns", "namespaced"), ""),
        "inode of the interface's network namespace; absent where it is not known",
    ),
)

_PACKET_TYPE = "protocol of the innermost header that was understood"
_PARTS: dict[str, _Rows] = {
    "ETHERNET": (
        (
            *("etherTypeName", Kind.HEX, ("ethertype", "ethernet"), ""),
            "type behind all VLAN tags, in hexadecimal digits",
        ),
        ("etherType", Kind.NUMBER, ("ethertype", "ethernet"), "", "the same as a number"),
        ("vlanId", Kind.NUMBER, ("vlan", "tags"), "", "of the innermost VLAN tag; absent if none"),
        ("pcp", Kind.NUMBER, ("pcp", "tags"), "", "its priority; absent likewise"),
        (
            *("outerVlanId", Kind.NUMBER, ("service_vlan", "two_tags"), ""),
            "of the outer tag, where there are two",
        ),
        ("outerPcp", Kind.NUMBER, ("service_pcp", "two_tags"), "", "its priority"),
        ("srcMac", Kind.MAC, ("src_mac", "ethernet"), "", "source address"),
        ("dstMac", Kind.MAC, ("dst_mac", "ethernet"), "", "destination address"),
    ),
    "IP": (
        ("srcIp", Kind.ADDRESS_IF, ("src_ip", "family"), "", "source address, innermost header"),
        ("dstIp", Kind.ADDRESS_IF, ("dst_ip", "family"), "", "destination address"),
        ("protocol", Kind.NUMBER, ("protocol", "family"), "", "of the transport header"),
        ("protocolName", Kind.NAME, ("protocol", "family"), "", "number and name, `1 (icmp)`"),
        (
            *("length", Kind.NUMBER, ("ip_length", "family"), "bytes"),
            "of the IP packet with its header, as the header says it; of several the first",
        ),
        ("tos", Kind.NUMBER, ("tos", "family"), "", "type of service, or traffic class"),
        ("ttl", Kind.NUMBER, ("ttl", "family"), "", "time to live, or hop limit"),
    ),
    "TRANSPORT": (
        ("srcPort", Kind.NUMBER, ("src_port", "ports"), "", "source port"),
        ("tcpFlags", Kind.NUMBER, ("tcp_flags", "tcp"), "", "of TCP; absent where none is set"),
        ("dstPort", Kind.NUMBER, ("dst_port", "ports"), "", "destination port"),
    ),
    "ICMP": (
        ("type", Kind.NUMBER, ("icmp_type", "icmp"), "", "of ICMP or ICMPv6"),
        ("code", Kind.NUMBER, ("icmp_code", "icmp"), "", "likewise"),
    ),
    "OUTER_IP": (
        (
            *("encapsulation", Kind.NAME, ("encapsulation", "outer_family"), ""),
            "of a packet within another: `ipip` (any IP in IP) or `gre`",
        ),
        (
            *("srcIp", Kind.ADDRESS_IF, ("outer_src_ip", "outer_family"), ""),
            "source address of the outermost IP header",
        ),
        ("dstIp", Kind.ADDRESS_IF, ("outer_dst_ip", "outer_family"), "", "its destination address"),
    ),
}
"""What a packet may have, and is absent as a whole where it does not; the last field of a part is
there whenever the part is."""


def drop_schema(tags: str = "default") -> Schema:
    """The records of `DroppedPackets`; TAGS is a key of `TRAP_TAGS`."""
    chosen = TRAP_TAGS[tags]

    def fields(rows: _Rows, path: tuple[str, ...] = ()) -> Iterator[Field]:
        for name, kind, columns, unit, doc in rows:
            flat = "_".join((*(part.lower() for part in path), name))
            role = Role.TAG if flat in chosen else Role.VALUE
            yield Field(flat, role, kind, columns, unit, doc, (*path, name))

    packet_type = ("packetType", Kind.LABEL, ("packet_type",), "", _PACKET_TYPE)
    timestamp = "when it was dropped, a string; of several the first"
    return Schema(
        measurement=MEASUREMENT,
        doc="One record per trapped or dropped packet, or for several of one cause.",
        layout=DROP_RECORD,
        fields=(
            *fields(_HEAD),
            *fields((packet_type,), ("packet",)),
            *(f for part, rows in _PARTS.items() for f in fields(rows, ("packet", part))),
            *fields((("timestamp", Kind.TIME_TEXT, ("time",), "s", timestamp),)),
            Field(
                *("time", Role.TIME, Kind.TIME, ("stamp",), "ns"),
                "likewise, moved by some ns where two records of a series would have the same",
            ),
        ),
        remarks="With `--probe drops` and `--probe traps`; more in [drops.md](drops.md).",
    )
