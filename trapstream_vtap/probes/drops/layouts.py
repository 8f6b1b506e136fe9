# SPDX-License-Identifier: Apache-2.0
"""The structures of the program for drops and traps: keys, records, counts."""

from __future__ import annotations

from trapstream_vtap.schema import Column, Layout

RECORD_KINDS = ("event", "aggregate", "suppressed")
"""What a record of a dropped packet can be.

One packet; equal ones of a flow in an interval; or all others of a cause in an interval, of which
only the number is known.
"""

ENCAPSULATIONS = ("", "ipip", "gre")
"""What was found around the inner IP header: nothing, IP (4 or 6) in IP, GRE."""

_DROP_COLUMNS = (
    Column("src_ip", "u8[16]", "source address of the innermost IP header; IPv4 in the first four"),
    Column("dst_ip", "u8[16]", "destination address"),
    Column("outer_src_ip", "u8[16]", "source address of the outermost IP header, where two are"),
    Column("outer_dst_ip", "u8[16]", "its destination address"),
    Column("location", "u64", "where in the kernel (address); traps: 0"),
    Column("interface", "u32", "index of the interface that the packet is at, 0: not known"),
    Column("netns", "u32", "inode of the network namespace that the index is of, 0: not known"),
    Column("reason", "u32", "number of the drop reason; traps: 0"),
    Column("src_port", "u16", "host byte order"),
    Column("dst_port", "u16", "host byte order"),
    Column("src_mac", "u8[6]", "source address of the Ethernet header"),
    Column("dst_mac", "u8[6]", "destination address"),
    Column("ethertype", "u16", "behind all VLAN tags, host byte order; 0: not known"),
    Column("vlan_outer", "u16", "the outermost tag: PCP, DEI and id, host byte order"),
    Column("vlan_inner", "u16", "the second tag"),
    Column("vlan_tags", "u8", "how many there are: 0, 1, 2"),
    Column("family", "u8", "of the innermost IP header: 4, 6, or 0 for none"),
    Column("outer_family", "u8", "of the outermost one, where there are two; else 0"),
    Column("protocol", "u8", "IP protocol number of the transport header"),
    Column("encapsulation", "u8", "position in ENCAPSULATIONS"),
    Column("ports", "u8", "1 where the packet has ports"),
    Column("icmp", "u8", "1 where it is ICMP or ICMPv6"),
    Column("icmp_type", "u8"),
    Column("icmp_code", "u8"),
    Column("ethernet", "u8", "1 where there is an Ethernet header"),
    Column("type", "u8", "of a trap: 0 drop, 1 exception, 2 control; drops: 0"),
    Column("reserved", "u8[3]"),
)

_TRAP_NAMES = (
    Column("trap", "u8[48]", "name of the trap as devlink has it, zeros behind; drops: all zero"),
    Column("group", "u8[32]", "name of its group, likewise"),
)

DROP_KEY = Layout("drop_key", _DROP_COLUMNS)
"""What dropped packets have in common that are counted as one record."""

TRAP_KEY = Layout("drop_key", (*_DROP_COLUMNS, *_TRAP_NAMES))
"""Likewise of trapped ones."""

DROP_EVENT = Layout(
    "drop_event",
    (
        *TRAP_KEY.columns,
        Column("name", "u8[16]", "of the interface, in its namespace; zeros behind it"),
        Column("time", "u64", "of the first packet, ns since the epoch"),
        Column("duration", "u64", "from the first to the last packet, ns"),
        Column("packets", "u64", "how many: 1 in an event"),
        Column("bytes", "u64", "of all of them, with Ethernet header and tags where there are any"),
        Column("length", "u32", "of the first packet, likewise"),
        Column(
            "ip_length", "u32", "of its innermost IP packet, as the header says it; with header"
        ),
        Column("tos", "u8", "of that header: type of service, or traffic class"),
        Column("ttl", "u8", "time to live, or hop limit"),
        Column("tcp_flags", "u8", "byte 13 of the TCP header, 0 elsewhere"),
        Column("kind", "u8", "position in RECORD_KINDS"),
        Column("reserved2", "u32"),
    ),
)
"""A dropped or trapped packet, or several, as the kernel program hands them over.

In a record of the third kind all but cause, type, time, packets and bytes is zero.
"""

DROP_COUNTS = (
    "seen",  # all that the kernel reports
    "left_out",  # of a reason that is not asked for
    "elsewhere",  # at another interface than those asked for
    "no_packet",  # nothing that goes over a network: Unix sockets, netlink
    "events",  # handed over one by one
    "aggregated",  # counted into a record of several
    "suppressed",  # counted by cause alone
    "suppressed_bytes",
)
"""What becomes of the packets of a cause; in order, all but the first and the last add up."""

DROP_CAUSE = Layout("cause", tuple(Column(name, "u64") for name in DROP_COUNTS))
"""Counts of a cause and CPU."""

DROP_CAUSE_KEY = Layout("cause_key", (Column("reason", "u32"), Column("type", "u32")))
"""A cause: a drop reason."""

TRAP_CAUSE_KEY = Layout("cause_key", (*DROP_CAUSE_KEY.columns, *_TRAP_NAMES))
"""A cause: a trap."""

DROP_CONTROL = Layout(
    "drop_control",
    (
        Column("clock_offset", "u64", "CLOCK_REALTIME - CLOCK_MONOTONIC, ns"),
        Column("table", "u64", "which of the two tables gathers: 0 or 1"),
        Column("inserts", "u64", "records in it"),
    ),
)
"""What user space and the program for drops tell each other."""
