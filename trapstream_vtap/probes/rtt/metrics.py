# SPDX-License-Identifier: Apache-2.0
"""Round-trip times as Prometheus' histograms, added up from what is handed over."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from trapstream_vtap.clock import NS
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import Samples
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes.rtt.layouts import HISTOGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trapstream_vtap.probes.rtt.settings import RttSettings
    from trapstream_vtap.schema import Batch

_LE = (*(f"{bound / NS:.9g}" for bound in HISTOGRAM.bounds), "+Inf")
_FAMILY = Family(
    "vtap_rtt_seconds",
    "histogram",
    ("interface", "side", "protocol"),
    "Round-trip times.",
    "--probe rtt",
)


class RttCollector:
    """Adds up the buckets of each series, whatever else tells records apart."""

    families = (_FAMILY,)

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], list[int]] = {}

    def use(self, running: Any, settings: RttSettings) -> None:
        """Whatever runs, it is counted on."""

    def name_device(self, device: str) -> None:
        """No label says so."""

    def end_interval(self, now: int) -> None:
        """Nothing is of an interval."""

    def add(self, batch: Batch) -> None:
        """Each record has the buckets that it was made from."""
        names = batch.schema.names
        for record in batch.schema.layout.unpack(batch.data):
            series = (
                names["interface"][record["interface"]],
                names["side"][record["side"]],
                names["protocol"][record["kind"]],
            )
            sums = self._sums.setdefault(series, [0] * (HISTOGRAM.buckets + 1))
            sums[0] += record["sum"]
            for place, count in enumerate(array("I", bytes(record["buckets"])), 1):
                if count:
                    sums[place] += count

    def samples(self) -> Iterator[Samples]:
        """The buckets, summed up from the least, of every series."""
        suffixed: list[tuple[str, Mapping[str, str], float]] = []
        for series, sums in list(self._sums.items()):
            labels = dict(zip(_FAMILY.labels, map(safe_text, series), strict=True))
            total = 0
            for bound, count in zip(_LE, sums[1:], strict=True):
                total += count
                suffixed.append(("_bucket", labels | {"le": bound}, total))
            suffixed += [("_sum", labels, sums[0] / NS), ("_count", labels, total)]
        return iter([Samples(_FAMILY, suffixed=suffixed)])
