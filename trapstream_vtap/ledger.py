# SPDX-License-Identifier: Apache-2.0
"""The ledger: what came out of the kernel, and what became of it at each sink.

What is kept, of records and of the packets that they account for, at every sink at any time:
handed over + recovered = delivered + queued + spooled + Σ lost by reason.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.schema import Field, Kind, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

LOSSES = {
    "memory": "lost: `--max-memory` was full of what waits, and they were the oldest",
    "undelivered": "lost: the run ended, and the collector did not take them in time",
    "too_large": "lost: too large for a payload by themselves",
    "refused": "lost: the collector will not take them, whenever they come",
    "failed": "lost: an error of the exporter itself, of which a message tells, and they were sent",
    "spool_full": "lost: `--spool-size` was reached, and they were the oldest on disk",
    "spool_corrupt": "lost: the disk did not give back what was spooled",
}
"""Why a sink gives records up, and what that means."""


def _family(name: str, doc: str, *labels: str, kind: str = "counter") -> Family:
    return Family(f"vtap_sink_{name}", kind, ("sink", *labels), doc)


_LOST = _family("lost_records", "Records that were given up.", "reason")

SINK_COUNTS = (
    Count(
        "records_handed",
        "records",
        "handed to this sink, events among them",
        _family("handed_records", "Records handed to this sink."),
    ),
    Count(
        "records_recovered",
        "records",
        "of an earlier run, found in the spool at the start",
        _family("recovered_records", "Records of an earlier run, found in the spool."),
    ),
    Count(
        "records_delivered",
        "records",
        "that the collector's side has taken",
        _family("delivered_records", "Records that the collector's side has taken."),
        part_of="records_handed",
    ),
    Count(
        "records_queued",
        "records",
        "that wait in memory (not a counter)",
        _family("queued_records", "Records that wait in memory.", kind="gauge"),
        part_of="records_handed",
    ),
    Count(
        "records_spooled",
        "records",
        "that wait on disk (not a counter)",
        _family("spooled_records", "Records that wait on disk.", kind="gauge"),
        part_of="records_handed",
    ),
    Count(
        "records_lost",
        "records",
        "that were given up, for whatever reason",
        part_of="records_handed",
    ),
    Count(
        "records_retried",
        "records",
        "in payloads that had to be sent again",
        _family("retried_records", "Records in payloads that had to be sent again."),
    ),
    Count(
        "packets_handed",
        "packets",
        "in the summaries handed to this sink",
        _family("handed_packets", "Packets in the records handed."),
    ),
    Count(
        "packets_recovered",
        "packets",
        "in the records recovered",
        _family("recovered_packets", "Packets in those recovered."),
    ),
    Count(
        "packets_delivered",
        "packets",
        "in the records delivered",
        _family("delivered_packets", "Packets in those delivered."),
        part_of="packets_handed",
    ),
    Count(
        "packets_queued",
        "packets",
        "in the records queued (not a counter)",
        _family("queued_packets", "Packets in the records queued.", kind="gauge"),
        part_of="packets_handed",
    ),
    Count(
        "packets_spooled",
        "packets",
        "in the records spooled (not a counter)",
        _family("spooled_packets", "Packets in the records spooled.", kind="gauge"),
        part_of="packets_handed",
    ),
    Count(
        "packets_lost",
        "packets",
        "in the records lost",
        _family("lost_packets", "Packets in those given up."),
        part_of="packets_handed",
    ),
    Count(
        "bytes_delivered",
        "bytes",
        "of payload that the collector's side has taken",
        _family("delivered_bytes", "Bytes of payload that the collector's side has taken."),
    ),
    *(
        Count(f"lost_{reason}", "records", meaning, _LOST, label=reason, part_of="records_lost")
        for reason, meaning in LOSSES.items()
    ),
    Count(
        "bytes_queued",
        "bytes",
        "of payload that wait in memory (not a counter)",
        _family("queued_bytes", "Bytes of payload that wait in memory.", kind="gauge"),
    ),
    Count(
        "bytes_spooled",
        "bytes",
        "that the spool takes on disk (not a counter)",
        _family("spooled_bytes", "Bytes that the spool takes on disk.", kind="gauge"),
    ),
    Count(
        "bytes_retried",
        "bytes",
        "of payload that had to be sent again",
        _family("retried_bytes", "Bytes of payload that had to be sent again."),
    ),
    Count(
        "oldest_age_ms",
        "ms",
        "since the oldest record that waits was handed over (not a counter)",
        _family(
            "oldest_age_seconds",
            "Time since the oldest record that waits was handed over.",
            kind="gauge",
        ),
        scale=1000,
    ),
    Count(
        "up",
        "",
        "1, or 0 while the collector cannot be reached (not a counter)",
        _family("up", "1, or 0 while the collector cannot be reached.", kind="gauge"),
    ),
)

SINK_ROWS = Rows(
    Field("sink", Role.TAG, Kind.LABEL, ("sink",), "", "where to, as `--sink` says it"),
    SINK_COUNTS,
    "One record per sink and interval, also of `vtap_agent`: what became of the records. "
    "Counters run since the start.",
)


@dataclass(slots=True)
class Amount:
    """A number of records, with the packets and bytes that they account for."""

    records: int = 0
    packets: int = 0
    bytes: int = 0


class Handed:
    """What came out of the kernel, by interface index; one thread uses it."""

    def __init__(self) -> None:
        self._amounts: dict[int, Amount] = {}

    def book(self, tallies: Mapping[int, tuple[int, int, int]]) -> None:
        """Add what a payload holds: records, packets, bytes by interface."""
        for interface, (records, packets, octets) in tallies.items():
            amount = self._amounts.setdefault(interface, Amount())
            amount.records += records
            amount.packets += packets
            amount.bytes += octets

    def of(self, interface: int) -> Amount:
        """The amount of INTERFACE."""
        return self._amounts.get(interface, Amount())


@dataclass(frozen=True, slots=True)
class Booked:
    """What a payload holds; nothing, where it is not counted (the exporter's own account)."""

    records: int = 0
    packets: int = 0

    def __add__(self, other: Booked) -> Booked:
        """Both together."""
        return Booked(self.records + other.records, self.packets + other.packets)

    def __sub__(self, other: Booked) -> Booked:
        """This without OTHER."""
        return Booked(self.records - other.records, self.packets - other.packets)


NOTHING = Booked()


class Account:
    """What became of the records handed to one sink; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handed = NOTHING
        self._recovered = NOTHING
        self._spooled = NOTHING
        self._delivered = NOTHING
        self._bytes = 0
        self._lost = dict.fromkeys(LOSSES, NOTHING)
        self._retried = self._retried_bytes = 0

    def handed(self, booked: Booked) -> None:
        """Records came out of the kernel."""
        with self._lock:
            self._handed += booked

    def recovered(self, booked: Booked) -> None:
        """Records of an earlier run were found on disk."""
        with self._lock:
            self._recovered += booked

    def spooled(self, booked: Booked) -> None:
        """Records are on disk from now on."""
        with self._lock:
            self._spooled += booked

    def unspooled(self, booked: Booked) -> None:
        """Records are on disk no more; what became of them is booked apart."""
        with self._lock:
            self._spooled -= booked

    def delivered(self, booked: Booked, octets: int) -> None:
        """The collector's side has taken OCTETS bytes with these records."""
        with self._lock:
            self._delivered += booked
            self._bytes += octets

    def lost(self, reason: str, booked: Booked) -> None:
        """Records were given up for one of `LOSSES`."""
        with self._lock:
            self._lost[reason] += booked

    def retried(self, booked: Booked, octets: int) -> None:
        """A payload of OCTETS bytes could not be sent, and will be sent again."""
        with self._lock:
            self._retried += booked.records
            self._retried_bytes += octets

    def values(self) -> dict[str, int]:
        """The columns of `vtap_agent` that say what became of records, by name."""
        with self._lock:
            lost = sum(self._lost.values(), NOTHING)
            all_in = self._handed + self._recovered
            amounts = {
                "handed": self._handed,
                "recovered": self._recovered,
                "delivered": self._delivered,
                "queued": all_in - self._delivered - self._spooled - lost,
                "spooled": self._spooled,
                "lost": lost,
            }
            return {
                **{f"records_{name}": booked.records for name, booked in amounts.items()},
                **{f"packets_{name}": booked.packets for name, booked in amounts.items()},
                "records_retried": self._retried,
                "bytes_delivered": self._bytes,
                "bytes_retried": self._retried_bytes,
                **{f"lost_{reason}": booked.records for reason, booked in self._lost.items()},
            }

    def losses(self) -> dict[str, Booked]:
        """What was lost, by reason, where anything was."""
        with self._lock:
            return {reason: booked for reason, booked in self._lost.items() if booked.records}
