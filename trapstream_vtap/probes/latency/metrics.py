# SPDX-License-Identifier: Apache-2.0
"""Receive latency as Prometheus' histograms, added up from what is handed over."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from trapstream_vtap.clock import NS
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import histogram
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes.latency.layouts import HISTOGRAM
from trapstream_vtap.probes.latency.records import OTHER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trapstream_vtap.metrics.collector import Samples
    from trapstream_vtap.probes.latency.settings import LatencySettings
    from trapstream_vtap.schema import Batch

    _Series = tuple[str, str, str, str]
    """Interface, stage, protocol, value of `--latency-by`."""

_LABELS = ("interface", "stage", "protocol")
_MOST = 1000  # series, each with all of its buckets; interfaces of containers come and go
_LE = [f"{bound / NS:.9g}" for bound in HISTOGRAM.bounds]


def _family(by: str | None) -> Family:
    return Family(
        "vtap_receive_latency_seconds",
        "histogram",
        (*_LABELS, *((by,) if by else ())),
        "Time from a packet's receive timestamp to a stage of the receive path.",
        "--probe latency",
    )


class LatencyCollector:
    """Adds up the buckets of each series.

    Args:
        by: What tells series apart beside interface, stage and protocol.
    """

    def __init__(self, by: str | None) -> None:
        self._by = by
        self.families = (_family(by),)
        self._sums: dict[_Series, list[int]] = {}

    def use(self, running: Any, settings: LatencySettings) -> None:  # noqa: ARG002
        """Whatever runs, it is counted on."""
        self._by = settings.latency_by
        self.families = (_family(self._by),)

    def name_device(self, device: str) -> None:
        """No label says so."""

    def end_interval(self, now: int) -> None:
        """Nothing is of an interval."""

    def add(self, batch: Batch) -> None:
        """Each record has the buckets that it was made from."""
        names = batch.schema.names
        values: Mapping[int, str] = names.get(self._by or "", {})
        for record in batch.schema.layout.unpack(batch.data):
            series = (
                names["interface"][record["interface"]],
                names["stage"][record["stage"]],
                names["protocol"][record["protocol"]],
                values.get(record["by"], ""),
            )
            if series not in self._sums and len(self._sums) >= _MOST:
                series = (OTHER, *series[1:3], OTHER if self._by else "")
            sums = self._sums.setdefault(series, [0] * (HISTOGRAM.buckets + 1))
            sums[0] += record["sum"]
            buckets = array("Q", bytes(record["buckets"]))
            for place, count in enumerate(buckets, 1):
                sums[place] += count

    def samples(self) -> Iterator[Samples]:
        """The buckets, summed up from the least, of every series."""
        labels = self.families[0].labels
        found = (
            (dict(zip(labels, map(safe_text, series), strict=False)), sums)
            for series, sums in list(self._sums.items())
        )
        return iter([histogram(self.families[0], _LE, found)])
