# SPDX-License-Identifier: Apache-2.0
"""Round-trip times as Prometheus' histograms, added up from what is handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.clock import NS
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import histogram
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes.rtt.layouts import HISTOGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.metrics.collector import Samples
    from trapstream_vtap.probes.rtt.histograms import Series
    from trapstream_vtap.probes.rtt.running import RttRunning
    from trapstream_vtap.probes.rtt.settings import RttSettings
    from trapstream_vtap.schema import Batch

_LE = [f"{bound / NS:.9g}" for bound in HISTOGRAM.bounds]
_FAMILY = Family(
    "vtap_rtt_seconds",
    "histogram",
    ("interface", "side", "protocol"),
    "Round-trip times.",
    "--probe rtt",
)


class RttCollector:
    """Adds up what whatever runs, and has run, has counted."""

    families = (_FAMILY,)

    def __init__(self) -> None:
        self._running: RttRunning | None = None
        self._sums: dict[Series, list[int]] = {}

    def use(self, running: RttRunning, settings: RttSettings) -> None:  # noqa: ARG002
        """What the one before has counted is counted on."""
        self._take()
        self._running = running

    def name_device(self, device: str) -> None:
        """No label says so."""

    def add(self, batch: Batch) -> None:
        """Histograms have what the records have."""

    def end_interval(self, now: int) -> None:  # noqa: ARG002
        """All its samples are here."""
        self._take()

    def _take(self) -> None:
        if self._running is None:
            return
        for series, added in self._running.histograms.take().items():
            before = self._sums.get(series, [0] * len(added))
            self._sums[series] = [a + b for a, b in zip(before, added, strict=True)]

    def samples(self) -> Iterator[Samples]:
        """The buckets, summed up from the least, of every series."""
        found = (
            (dict(zip(_FAMILY.labels, map(safe_text, series), strict=True)), sums)
            for series, sums in list(self._sums.items())
        )
        return iter([histogram(_FAMILY, _LE, found)])
