# SPDX-License-Identifier: Apache-2.0
"""What adds a probe's records up for those who scrape, and how it says what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trapstream_vtap.clock import NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trapstream_vtap.metrics.family import Family
    from trapstream_vtap.schema import Batch


class Samples(NamedTuple):
    """Samples of a family.

    Args:
        family: Which.
        values: Labels and value of each.
        suffixed: Of a histogram: suffix of the name, labels, value.
        lines: Samples that are written already.
    """

    family: Family
    values: Sequence[tuple[Mapping[str, str], float]] = ()
    suffixed: Sequence[tuple[str, Mapping[str, str], float]] = ()
    lines: bytes = b""


def histogram(
    family: Family,
    bounds: Sequence[str],
    series: Iterable[tuple[Mapping[str, str], Sequence[int]]],
) -> Samples:
    """Samples of a histogram.

    Args:
        family: Which.
        bounds: Upper bounds of the buckets, as they are written; the last bucket has none.
        series: Labels of each; the sum of its times (ns), and how many are in each bucket.
    """
    found: list[tuple[str, Mapping[str, str], float]] = []
    for labels, (total, *counts) in series:
        so_far = 0
        for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
            so_far += count
            found.append(("_bucket", {**labels, "le": bound}, so_far))
        found += [("_count", labels, so_far), ("_sum", labels, total / NS)]
    return Samples(family, suffixed=found)


class Collector(Protocol):
    """One for each probe. The page holds a lock around every call but `samples`' iteration."""

    @property
    def families(self) -> Sequence[Family]:
        """All that it may have, for the reference page."""

    def use(self, running: Any, settings: Any) -> None:
        """RUNNING, of its own probe, measures from now on; one before it can still be read."""

    def name_device(self, device: str) -> None:
        """From now on the label `device` says so."""

    def add(self, batch: Batch) -> None:
        """What its probe has handed over."""

    def end_interval(self, now: int) -> None:
        """An interval has ended at NOW (ns since the epoch), and all of it is here."""

    def samples(self) -> Iterator[Samples]:
        """All that it has by now, in the order of `families`; called in any thread.

        What is added later is in no sample: of what may change it has a copy when it returns.
        """
