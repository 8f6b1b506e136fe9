# SPDX-License-Identifier: Apache-2.0
"""What becomes of what waits for an answer: the account of round-trip times."""

from __future__ import annotations

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.schema import Field, Kind, Role

_WHEN = "--probe rtt"


def _family(name: str, doc: str, *labels: str, kind: str = "counter") -> Family:
    return Family(f"vtap_rtt_{name}", kind, ("protocol", *labels), doc, _WHEN)


_FATES = _family("probe_fates", "What became of probes.", "fate")
_OPEN = _family("open_probes", "Probes that wait for their answer.", "state", kind="gauge")
_DOCS = {
    "samples": ("that were answered: round-trip times", _FATES, ""),
    "invalidated": (
        "that were dropped: sent again (Karn's rule), reset, asked twice, or out of turn",
        _FATES,
        "invalidated",
    ),
    "stretched": (
        "that were dropped, as the acknowledgement was for more than the probe",
        _FATES,
        "covered by later acknowledgements",
    ),
    "evicted": (
        "lost with what the table had no room for any more; a lower bound until the last record",
        _FATES,
        "evicted",
    ),
    "unanswered": (
        "whose answer had not come by when the run, or the program that waited for it, ended",
        _FATES,
        "without an answer",
    ),
    "one_way": (
        "likewise, or that wait, where nothing has been seen of the other direction (no counter)",
        _OPEN,
        "seen in one direction only",
    ),
    "waiting": ("that wait for their answer (not a counter)", _OPEN, ""),
}

ROWS = Rows(
    Field("protocol", Role.TAG, Kind.LABEL, ("protocol",), "", "what leads to an answer"),
    (
        Count(
            "seen_packets",
            "packets",
            "of that protocol that came by; merged ones are one",
            _family("seen_packets", "Packets that came by."),
        ),
        Count(
            "no_room",
            "packets",
            "that could not be followed: the table gave no entry",
            _family("unfollowed_packets", "Packets for which the table gave no entry."),
            said="found no room in the table",
        ),
        Count(
            "probes_set",
            "probes",
            "packets whose answer was waited for; the sum of the next seven",
            _family("probes_set", "Packets whose answer was waited for."),
        ),
        *(
            Count(name, "probes", doc, family, name, "probes_set", said=said)
            for name, (doc, family, said) in _DOCS.items()
        ),
        Count(
            "samples_handed",
            "samples",
            "that are in records",
            _family("handed_samples", "Samples in records."),
            part_of="samples",
        ),
        Count(
            "samples_lost",
            "samples",
            "that are in no record: there were too many in the interval; or, in those of flows, "
            "there was no such flow, or it was evicted",
            _family("lost_samples", "Samples that found no room among the records."),
            part_of="samples",
            said="are in no record",
        ),
        Count(
            "samples_held",
            "samples",
            "that have not been handed over yet (not a counter)",
            _family("held_samples", "Samples not handed over yet.", kind="gauge"),
            part_of="samples",
        ),
        Count(
            "records_handed",
            "records",
            "of `vtap_rtt`",
            _family("handed_records", "Records of vtap_rtt."),
        ),
    ),
    "With `--probe rtt`, one record for each protocol and interval: what became of the packets "
    "whose answer was waited for. Counters run since the start.",
)
