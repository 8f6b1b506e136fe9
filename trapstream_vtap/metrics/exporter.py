# SPDX-License-Identifier: Apache-2.0
"""The page that Prometheus scrapes: a listener beside the sinks, fed with the same batches.

prometheus-client negotiates the format and writes everything but the samples of single flows. Of
those there may be thousands, whose labels never change: they are written once, by the renderer that
writes them in records.

See: https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from trapstream_vtap import __version__
from trapstream_vtap._totals import Totals
from trapstream_vtap.accept import media_type_weight, weights
from trapstream_vtap.config import NS
from trapstream_vtap.endpoint import Page
from trapstream_vtap.formats.openmetrics import label_plan
from trapstream_vtap.formats.plan import Labels, safe_text
from trapstream_vtap.layouts import GAP_BOUNDS, flow_layouts
from trapstream_vtap.ledger import LOSSES
from trapstream_vtap.metrics import families
from trapstream_vtap.metrics.dropping import DropCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.registry import Collector

    from trapstream_vtap._native import Plan
    from trapstream_vtap._totals import Protocols, Scrape
    from trapstream_vtap.config import Settings
    from trapstream_vtap.metrics.families import Family
    from trapstream_vtap.probes.flow import FlowProbe
    from trapstream_vtap.schema import Layout

_COUNTED = (*families.MEASURED, *(f"seq_{kind}" for kind in families.SEQUENCE_KINDS))
_GAPS = ("iat_count", "iat_sum", "iat_squares", "iat_squares_coarse")
_LOSS = ("seq_missed", "seq_expected")
_MEASURED = len(families.MEASURED)
_MOST_REMEMBERED = 65_536  # flows that are ranked, 240 bytes each
_CLASSIC, _OPENMETRICS = "text/plain", "application/openmetrics-text"
_REST = '{flow="rest"}'
_DIRECTIONS = Labels("").of("direction")
_PROTOCOLS = {**Labels("").of("protocol"), 256: ""}  # flows are not told apart by it


class _Only:
    """A collector of what is given."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


class _Account(NamedTuple):
    """What the loop says at an interval's end."""

    interfaces: Mapping[str, Mapping[str, int]]
    probes: Mapping[str, Mapping[str, int]]
    gaps: Mapping[tuple[str, int, str], Sequence[int]]


class Metrics:
    """Adds up what has been measured; one thread feeds it, any may scrape.

    Args:
        settings: Of the run.
        sinks: Tells what became of the records at each sink, as in `vtap_agent`; from any thread.
    """

    def __init__(
        self, settings: Settings, sinks: Callable[[], Mapping[str, Mapping[str, int]]]
    ) -> None:
        self._sinks = sinks
        self._device = settings.device or socket.gethostname()
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        remembered = min(settings.flow_table_size, _MOST_REMEMBERED) + settings.metrics_flows
        self._totals = Totals(settings.metrics_flows, remembered)
        self._account = _Account({}, {}, {})
        self._gaps_before: dict[tuple[str, int, str], list[int]] = {}
        self._drops: DropCounts | None = None
        self._key: tuple[str, ...] | None = None
        self._labels: dict[bytes, str] = {}
        self._sequences = False
        self._process: Collector = ProcessCollector(registry=None)

    def use(
        self, probe: FlowProbe, settings: Settings, interfaces: Mapping[str, Mapping[str, int]]
    ) -> None:
        """From now on, another probe measures; one before it still can be read.

        Args:
            probe: Made from the settings.
            settings: Of the probe.
            interfaces: What was counted so far, as for `end_interval`.
        """
        if self._key is not None:
            self._gaps_before = self._gaps()
        self._probe = probe
        self._interfaces = {i.index: i.name for i in settings.interfaces}
        if probe.schema:
            self._use_flows(probe, probe.schema.layout, settings)
        self._account = _Account(interfaces, self._account.probes, self._gaps())

    def _use_flows(self, probe: FlowProbe, layout: Layout, settings: Settings) -> None:
        key, at = flow_layouts(settings.key).key, layout.offsets
        for name in settings.names:
            self._names[self._numbers.setdefault(name, len(self._numbers))] = name
        indices = {i.index: self._numbers[i.name] for i in settings.interfaces}
        counted = _COUNTED if settings.sequences else _COUNTED[:_MEASURED]
        with self._lock:
            self._totals.use(
                indices,
                same=settings.key == self._key,
                record_size=layout.size,
                key_size=key.size,
                interface_at=at["interface"],
                direction_at=at["direction"],
                protocol_at=at["protocol"],
                by_protocol="protocol" in settings.key,
                time_at=at["time"],
                counts_at=[at[name] for name in counted],
                first_rare=_MEASURED,
                gaps_at=[at[name] for name in _GAPS],
                coarse_shift=probe.coarse_shift,
                loss_at=[at[name] for name in _LOSS] if settings.sequences else None,
                longest=settings.intervals[1],
            )
            if settings.key != self._key:
                self._key = settings.key
                self._labels = {}
            self._plan: Plan = label_plan(settings.key, Labels(self._device, self._names))
            self._sequences = settings.sequences

    def name_device(self, device: str) -> None:
        """From now on the label says DEVICE."""
        with self._lock:
            self._device = device
            self._labels = {}
            if self._key is not None:
                self._plan = label_plan(self._key, Labels(device, self._names))

    def hand_flows(self, batch: bytearray) -> None:
        """Summaries of flows."""
        with self._lock:
            self._totals.add(batch)

    def end_interval(
        self,
        now: int,
        interfaces: Mapping[str, Mapping[str, int]],
        probes: Mapping[str, Mapping[str, int]],
    ) -> None:
        """An interval has ended, all its summaries are here.

        Args:
            now: The end, ns since the epoch.
            interfaces: What was counted, by interface name, as in `vtap_agent`.
            probes: Likewise of drops and traps, by probe.
        """
        account = _Account(interfaces, probes, self._gaps())
        with self._lock:
            self._totals.end_interval(now)
            self._account = account

    def use_drops(self, reasons: Mapping[int, str]) -> None:
        """There are probes for drops or traps; REASONS as for `DropCounts`."""
        self._drops = self._drops or DropCounts(reasons)

    def hand_drops(self, probe: str, batch: bytearray) -> None:
        """Records of dropped or trapped packets."""
        with self._lock:
            if self._drops:
                self._drops.add(probe, batch)

    def _gaps(self) -> dict[tuple[str, int, str], list[int]]:
        """The histogram over all probes, by interface name, direction and protocol."""
        found = dict(self._gaps_before)
        for (index, direction, protocol), counts in self._probe.gaps().items():
            where = self._interfaces[index], int(direction), protocol
            before = found.get(where, [0] * len(counts))
            found[where] = [a + b for a, b in zip(before, counts, strict=True)]
        return found

    def page(self, accept: str) -> Page:
        """All metrics, in the format that the scraper would ACCEPT best; classic if in doubt."""
        encoder, kind = choose_encoder(_wanted(accept))
        end = encoder(_Only())  # of a format that marks it
        parts = []
        for metric, lines in self._metrics():
            head = encoder(_Only(metric))
            parts += [head[: len(head) - len(end)], lines]
        parts += [encoder(_Only(*self._process.collect()))]
        return Page(200, kind, b"".join(parts))

    def _metrics(self) -> Iterator[tuple[Metric, bytes]]:
        """Each family, and the lines of single flows that belong behind it."""
        with self._lock:
            scrape, account = self._totals.scrape(), self._account
            labels = self._flow_labels(scrape[1])
            sequences = self._sequences
            drops = list(self._drops.samples()) if self._drops else None
        agent = {"device": safe_text(self._device), "version": __version__}
        yield _metric(families.INFO, [(agent, 1)]), b""
        if self._key is not None:  # flows are measured
            yield from self._protocols(scrape[0], sequences=sequences)
            yield self._histogram(account.gaps), b""
            yield from _flows(scrape, labels, sequences=sequences)
        for place, family in enumerate(families.DROPPED if drops is not None else ()):
            yield _metric(family, [(where, counts[place]) for where, counts in drops or ()]), b""
        yield from _accounts(families.AGENT, account.interfaces, families.UNCOUNTED)
        yield from _accounts(families.PROBE, account.probes, families.FATES)
        yield from _accounts(families.SINK, self._sinks(), LOSSES)

    def _flow_labels(self, flows: Mapping[bytes, object]) -> dict[bytes, str]:
        """By key, of those that are shown now; written once for each."""
        self._labels = {key: self._labels.get(key) or self._written(key) for key in flows}
        return self._labels

    def _written(self, key: bytes) -> str:
        (((text, _, _),), _) = self._plan.render(key, 1, 1 << 62)
        return text.decode()

    def _where(self, name: str, direction: int, protocol: str) -> dict[str, str]:
        found = {"interface": safe_text(name), "direction": _DIRECTIONS[direction]}
        return {**found, "protocol": protocol} if protocol else found

    def _protocols(self, totals: Protocols, *, sequences: bool) -> Iterator[tuple[Metric, bytes]]:
        found = [
            (self._where(self._names[i], d, _PROTOCOLS[p]), *values)
            for (i, d, p), values in totals.items()
        ]
        for place, family in enumerate(families.PROTOCOL_COUNTERS):
            yield _metric(family, [(where, counts[place]) for where, counts, *_ in found]), b""
        if sequences:
            errors = [
                ({**where, "kind": kind}, counts[_MEASURED + place])
                for where, counts, *_ in found
                for place, kind in enumerate(families.SEQUENCE_KINDS)
            ]
            yield _metric(families.PROTOCOL_ERRORS, errors), b""
            losses = [(where, loss) for where, *_, loss in found if loss is not None]
            yield _metric(families.PROTOCOL_LOSS, losses), b""
        yield _metric(families.PROTOCOL_FLOWS, [(where, n) for where, _, n, *_ in found]), b""
        for place, family in enumerate((families.PROTOCOL_MEAN, families.PROTOCOL_JITTER)):
            gaps = [(where, gaps[place]) for where, _, _, gaps, _ in found if gaps]
            yield _metric(family, gaps), b""

    def _histogram(self, gaps: Mapping[tuple[str, int, str], Sequence[int]]) -> Metric:
        metric = _metric(families.INTERARRIVAL, [])
        bounds = [*(str(bound / NS) for bound in GAP_BOUNDS), "+Inf"]
        for place, (total, *counts) in gaps.items():
            if not any(counts):
                continue
            where, so_far = self._where(*place), 0
            for bound, count in zip(bounds, counts, strict=True):
                so_far += count
                metric.add_sample(f"{metric.name}_bucket", {**where, "le": bound}, so_far)
            metric.add_sample(f"{metric.name}_count", where, so_far)
            metric.add_sample(f"{metric.name}_sum", where, total / NS)
        return metric


def _wanted(accept: str) -> str:
    """The one of the two formats that an Accept header weighs more, as the library wants it."""
    classic, modern = (media_type_weight(accept, name) for name in (_CLASSIC, _OPENMETRICS))
    named = _OPENMETRICS in weights(accept)
    if modern > classic or (modern == classic and modern and named):
        return f"{_OPENMETRICS}; version=1.0.0"
    return f"{_CLASSIC}; version=0.0.4"


def _metric(family: Family, samples: Sequence[tuple[Mapping[str, str], float]]) -> Metric:
    """FAMILY with SAMPLES: labels and value of each."""
    metric = Metric(family.name, family.doc, family.kind, family.unit)
    for labels, value in samples:
        metric.add_sample(family.sample, dict(labels), value)
    return metric


def _flows(
    scrape: Scrape, labels: Mapping[bytes, str], *, sequences: bool
) -> Iterator[tuple[Metric, bytes]]:
    """The families of single flows, and of those that are not shown any more."""
    _, flows, rest, departed = scrape
    found = [(labels[key], *values) for key, values in flows.items()]
    for place, family in enumerate(families.FLOW_COUNTERS):
        lines = [(where, counts[place]) for where, counts, *_ in found]
        yield _metric(family, []), _lines(family, [*lines, (_REST, rest[place])])
    if sequences:
        lines = [
            (f'{where[:-1]},kind="{kind}"}}', counts[_MEASURED + place])
            for where, counts in (*((where, counts) for where, counts, *_ in found), (_REST, rest))
            for place, kind in enumerate(families.SEQUENCE_KINDS)
        ]
        yield _metric(families.FLOW_ERRORS, []), _lines(families.FLOW_ERRORS, lines)
        losses = [(where, loss) for where, *_, loss in found]
        yield _metric(families.FLOW_LOSS, []), _lines(families.FLOW_LOSS, losses)
    for place, family in enumerate((families.FLOW_MEAN, families.FLOW_JITTER)):
        seconds = [(where, gaps[place]) for where, _, gaps, _ in found if gaps]
        yield _metric(family, []), _lines(family, seconds)
    for place, family in enumerate(families.DEPARTED_COUNTERS):
        yield _metric(family, [({}, departed[place])]), b""
    if sequences:
        kinds = enumerate(families.SEQUENCE_KINDS)
        errors = [({"kind": kind}, departed[_MEASURED + place]) for place, kind in kinds]
        yield _metric(families.DEPARTED_ERRORS, errors), b""


def _lines(family: Family, samples: Sequence[tuple[str, float | None]]) -> bytes:
    """Samples with labels that are written already; those without a value are left out."""
    name = family.sample
    return "".join(
        f"{name}{where} {value}\n" for where, value in samples if value is not None
    ).encode()


def _accounts(
    known: Mapping[str, Family],
    accounts: Mapping[str, Mapping[str, int]],
    reasons: Sequence[str] | Mapping[str, str],
) -> Iterator[tuple[Metric, bytes]]:
    """ACCOUNTS in the families KNOWN, by the family's first label, and REASONS by its second."""
    for count, family in known.items():
        samples: list[tuple[dict[str, str], float]] = []
        for name, counts in accounts.items():
            where = {family.labels[0]: safe_text(name)}
            if "{reason}" in count:
                samples += [
                    ({**where, family.labels[1]: reason}, counts[count.format(reason=reason)])
                    for reason in reasons
                ]
            elif count in counts:
                scale = 1000 if count.endswith("_ms") else 1
                samples.append((where, counts[count] / scale))
        if samples:
            yield _metric(family, samples), b""
