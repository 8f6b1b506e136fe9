# SPDX-License-Identifier: Apache-2.0
"""What becomes of packets that come by where latency is measured."""

from __future__ import annotations

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.schema import Field, Kind, Role

_WHEN = "--probe latency"


def _family(name: str, doc: str, *labels: str) -> Family:
    return Family(f"vtap_latency_{name}", "counter", ("stage", *labels), doc, _WHEN)


_FATES = _family("stage_packets", "What became of packets that came by.", "fate")

_DOCS = {
    "measured": ("that were measured", ""),
    "unstamped": (
        "that had no receive timestamp, as in the first moments of a run",
        "without a timestamp",
    ),
    "delivery": (
        "that had the time at which they are to go out in its place: of TCP on the same machine",
        "with a delivery time",
    ),
    "blocked": (
        "of TCP that may have waited for segments ahead of them: the network's time would be in it",
        "behind a hole",
    ),
    "negative": (
        "whose timestamp does not fit the clock, as when that has been set meanwhile",
        "of negative latency",
    ),
    "other": (
        "that are not asked for: of other protocols, at other interfaces, in other namespaces",
        "not asked for",
    ),
    "missed": (
        "lost: they came by while the processor was running the program already",
        "missed",
    ),
}

ROWS = Rows(
    Field("stage", Role.TAG, Kind.LABEL, ("stage",), "", "where in the receive path"),
    (
        Count(
            "seen_packets",
            "packets",
            "that came by; the sum of the next seven",
            _family("stage_seen_packets", "Packets that came by."),
        ),
        *(
            Count(f"{name}_packets", "packets", doc, _FATES, name, "seen_packets", said=said)
            for name, (doc, said) in _DOCS.items()
        ),
        Count(
            "records_handed",
            "records",
            "of `vtap_latency`",
            _family("handed_records", "Records of vtap_latency."),
        ),
        Count(
            "packets_handed",
            "packets",
            "that were measured, and are in those records",
            _family("handed_packets", "Packets in those records."),
        ),
    ),
    "With `--probe latency`, one record for each stage and interval: what became of the packets "
    "that came by. Counters run since the start.",
)
