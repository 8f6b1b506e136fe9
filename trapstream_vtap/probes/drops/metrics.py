# SPDX-License-Identifier: Apache-2.0
"""Dropped and trapped packets by cause and interface, added up from what is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import Samples
from trapstream_vtap.metrics.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.probes.drops.settings import DropSettings
    from trapstream_vtap.schema import Batch

_LABELS = ("probe", "interface", "reason", "type", "severity")
_DROPS = "--probe drops, traps"
PACKETS = Family(
    "vtap_dropped_packets",
    "counter",
    _LABELS,
    "Packets that the kernel dropped, or a driver or device trapped.",
    _DROPS,
)
BYTES = Family("vtap_dropped_bytes", "counter", _LABELS, "Bytes of these packets.", _DROPS)
_MOST = 1000  # series; interfaces of containers come and go
_OTHER = "other"
_Series = tuple[str, str, str, str]
"""Interface, reason, type, severity."""


class DropCollector:
    """Packets and bytes of each interface and cause."""

    families = (PACKETS, BYTES)

    def __init__(self) -> None:
        self._counts: dict[_Series, list[int]] = {}
        self._probe = ""

    def use(self, running: Any, settings: DropSettings) -> None:
        """Whatever runs, it is counted on."""

    def name_device(self, device: str) -> None:
        """No label says so."""

    def end_interval(self, now: int) -> None:
        """Nothing is of an interval."""

    def add(self, batch: Batch) -> None:
        """Records of one packet or several."""
        self._probe = batch.probe
        names = batch.schema.names
        for record in batch.schema.layout.unpack(batch.data):
            cause = record["cause"]
            said = (names["trapName"][cause], names["dropType"][cause], names["severity"][cause])
            series = (names["ingressPort"][record["port"]], *said)
            if series not in self._counts and len(self._counts) >= _MOST:
                series = (_OTHER, *said)
            counts = self._counts.setdefault(series, [0, 0])
            counts[0] += record["packets"]
            counts[1] += record["bytes"]

    def samples(self) -> Iterator[Samples]:
        """Packets and bytes of each series."""
        found = [(self._labels(series), (*counts,)) for series, counts in self._counts.items()]
        return (
            Samples(family, [(labels, counts[place]) for labels, counts in found])
            for place, family in enumerate(self.families)
        )

    def _labels(self, series: _Series) -> dict[str, str]:
        words = (self._probe, *map(safe_text, series))
        return dict(zip(_LABELS, words, strict=True))
