# SPDX-License-Identifier: Apache-2.0
"""What becomes of packets that the kernel reports as dropped or trapped."""

from __future__ import annotations

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.schema import Field, Kind, Role

_DROPS = "--probe drops, traps"


def _family(name: str, doc: str, *labels: str) -> Family:
    return Family(f"vtap_probe_{name}", "counter", ("probe", *labels), doc, _DROPS)


_FATES = _family("packets", "What became of them.", "fate")

COUNTS = (
    Count(
        "seen_packets",
        "packets",
        "that the kernel reported; the sum of the next seven",
        _family("seen_packets", "Packets that the kernel reported."),
    ),
    Count(
        "events_packets",
        "packets",
        "handed over one by one",
        _FATES,
        label="events",
        part_of="seen_packets",
        said="one by one",
    ),
    Count(
        "aggregated_packets",
        "packets",
        "counted into records of several",
        _FATES,
        label="aggregated",
        part_of="seen_packets",
        said="aggregated",
    ),
    Count(
        "suppressed_packets",
        "packets",
        "counted by their cause alone, in records of their own",
        _FATES,
        label="suppressed",
        part_of="seen_packets",
        said="counted by cause alone",
    ),
    Count(
        "left_out_packets",
        "packets",
        "of a reason that is not asked for",
        _FATES,
        label="left_out",
        part_of="seen_packets",
        said="of reasons not asked for",
    ),
    Count(
        "elsewhere_packets",
        "packets",
        "at interfaces that are not asked for",
        _FATES,
        label="elsewhere",
        part_of="seen_packets",
        said="at other interfaces",
    ),
    Count(
        "no_packet_packets",
        "packets",
        "that never go over a network: Unix sockets, netlink",
        _FATES,
        label="no_packet",
        part_of="seen_packets",
        said="that no network packets are",
    ),
    Count(
        "missed_packets",
        "packets",
        "lost: reported while the kernel program was busy on that processor, or of too many causes",
        _FATES,
        label="missed",
        part_of="seen_packets",
        said="missed",
    ),
    Count(
        "records_handed",
        "records",
        "of `DroppedPackets` that came out of the kernel",
        _family("handed_records", "Records that came out of the kernel."),
    ),
    Count(
        "packets_handed",
        "packets",
        "in those records: one by one, aggregated and suppressed",
        _family("handed_packets", "Packets in those records."),
    ),
)

ROWS = Rows(
    Field("probe", Role.TAG, Kind.LABEL, ("probe",), "", "`drops` or `traps`"),
    COUNTS,
    "With `--probe drops` and `--probe traps`, one record for each and interval: what became "
    "of the packets that the kernel reported. Counters run since the start.",
)
