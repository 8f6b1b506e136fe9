# SPDX-License-Identifier: Apache-2.0
"""The page that Prometheus scrapes: a listener beside the sinks, fed with the same batches.

prometheus-client negotiates the format and writes everything but the samples that a collector has
written already.

See: https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from trapstream_vtap.accept import media_type_weight, weights
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import Samples
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.page import Page
from trapstream_vtap.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.registry import Collector as Library

    from trapstream_vtap.account import Account, Rows
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.schema import Batch
    from trapstream_vtap.settings.core import Core


INFO = Family("vtap_agent", "info", ("device", "version"), "Which exporter this is.")
_CLASSIC, _OPENMETRICS = "text/plain", "application/openmetrics-text"


class _Only:
    """A collector, in the library's terms, of what is given."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


class Metrics:
    """What has been measured and counted so far; one thread feeds it, any may scrape.

    Args:
        device: What the label says.
        collectors: Of each probe that runs, by its name.
        sinks: What became of the records at each sink, asked in any thread.
    """

    def __init__(
        self, device: str, collectors: Mapping[str, Collector], sinks: Callable[[], Account]
    ) -> None:
        self._device = device
        self._collectors = collectors
        self._sinks = sinks
        self._lock = threading.Lock()
        self._accounts: list[Account] = []
        self._process: Library = ProcessCollector(registry=None)

    def use(self, probe: str, running: object, settings: Core) -> None:
        """What is RUNNING measures for PROBE from now on, as its settings say."""
        with self._lock:
            self._collectors[probe].use(running, settings)

    def name_device(self, device: str) -> None:
        """From now on the label says DEVICE."""
        with self._lock:
            self._device = device
            for collector in self._collectors.values():
                collector.name_device(device)

    def take(self, batch: Batch) -> None:
        """What has been handed over."""
        if collector := self._collectors.get(batch.probe):
            with self._lock:
                collector.add(batch)

    def end_interval(self, now: int, accounts: list[Account]) -> None:
        """An interval has ended at NOW (ns since the epoch), with these ACCOUNTS of the probes."""
        with self._lock:
            for collector in self._collectors.values():
                collector.end_interval(now)
        self.count(accounts)

    def count(self, accounts: list[Account]) -> None:
        """The accounts of the probes are these by now."""
        self._accounts = accounts

    def page(self, accept: str) -> Page:
        """All metrics, in the format that the scraper would ACCEPT best; classic if in doubt."""
        encoder, kind = choose_encoder(_wanted(accept))
        end = encoder(_Only())  # of a format that marks it
        parts = []
        for metric, lines in _merged(self._samples()):
            head = encoder(_Only(metric))
            parts += [head[: len(head) - len(end)], lines]
        parts += [encoder(_Only(*self._process.collect()))]
        return Page(200, kind, b"".join(parts))

    def _samples(self) -> Iterator[Samples]:
        with self._lock:
            device, accounts = self._device, self._accounts
            found = [collector.samples() for collector in self._collectors.values()]
        yield Samples(INFO, [({"device": safe_text(device), "version": __version__}, 1)])
        for samples in found:
            yield from samples
        for rows, counts in (*accounts, self._sinks()):
            yield from _account(rows, counts)


def families_of(rows: Rows) -> tuple[Family, ...]:
    """The families that show ROWS."""
    return tuple(dict.fromkeys(count.family for count in rows.counts if count.family))


def _account(rows: Rows, counts: Mapping[str, Mapping[str, int]]) -> Iterator[Samples]:
    """COUNTS, by the name of the row."""
    for family in families_of(rows):
        values: list[tuple[Mapping[str, str], float]] = []
        for name, row in counts.items():
            where = {family.labels[0]: safe_text(name)}
            for count in rows.counts:
                if count.family == family and count.name in row:
                    labels = {**where, family.labels[1]: count.label} if count.label else where
                    value = row[count.name]
                    values.append((labels, value / count.scale if count.scale > 1 else value))
        if values:
            yield Samples(family, values)


def _merged(samples: Iterable[Samples]) -> Iterator[tuple[Metric, bytes]]:
    """Each family once, whoever has samples of it, and the lines that belong behind it."""
    found: dict[str, tuple[Metric, list[bytes]]] = {}
    for family, values, suffixed, lines in samples:
        metric = Metric(family.name, family.doc, family.kind, family.unit)
        metric, written = found.setdefault(family.name, (metric, []))
        for labels, value in values:
            metric.add_sample(family.sample, dict(labels), value)
        for suffix, labels, value in suffixed:
            metric.add_sample(f"{family.name}{suffix}", dict(labels), value)
        written.append(lines)
    for metric, written in found.values():
        yield metric, b"".join(written)


def _wanted(accept: str) -> str:
    """The one of the two formats that an Accept header weighs more, as the library wants it."""
    classic, modern = (media_type_weight(accept, name) for name in (_CLASSIC, _OPENMETRICS))
    named = _OPENMETRICS in weights(accept)
    if modern > classic or (modern == classic and modern and named):
        return f"{_OPENMETRICS}; version=1.0.0"
    return f"{_CLASSIC}; version=0.0.4"
