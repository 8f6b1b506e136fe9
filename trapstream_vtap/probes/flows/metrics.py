# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes of flows: totals by protocol and of the top flows, a histogram.

Of single flows there may be thousands, whose labels never change: they are written once, by the
renderer that writes them in records.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from trapstream_vtap._totals import Totals
from trapstream_vtap.clock import NS
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.metrics.collector import Samples, histogram
from trapstream_vtap.probes.flows import families
from trapstream_vtap.probes.flows.labels import label_plan
from trapstream_vtap.probes.flows.layouts import GAP_BOUNDS, flow_layouts
from trapstream_vtap.probes.flows.records import DIRECTIONS, PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trapstream_vtap._native import Plan
    from trapstream_vtap._totals import Protocols, Scrape
    from trapstream_vtap.metrics.family import Family
    from trapstream_vtap.probes.flows.running import FlowRunning
    from trapstream_vtap.probes.flows.settings import FlowSettings
    from trapstream_vtap.probes.flows.table import FlowTable
    from trapstream_vtap.schema import Batch

_COUNTED = (*families.MEASURED, *(f"seq_{kind}" for kind in families.SEQUENCE_KINDS))
_GAPS = ("iat_count", "iat_sum", "iat_squares", "iat_squares_coarse")
_LOSS = ("seq_missed", "seq_expected")
_MEASURED = len(families.MEASURED)
_MOST_REMEMBERED = 65_536  # flows that are ranked, 240 bytes each
_REST = '{flow="rest"}'
_PROTOCOLS = {**PROTOCOLS, 256: ""}  # flows are not told apart by it


class FlowCollector:
    """Adds summaries up natively; a scrape decides which flows are shown.

    Args:
        settings: Of the run.
    """

    families = families.ALL

    def __init__(self, settings: FlowSettings) -> None:
        self._device = settings.device or socket.gethostname()
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        remembered = min(settings.flow_table_size, _MOST_REMEMBERED) + settings.metrics_flows
        self._totals = Totals(settings.metrics_flows, remembered)
        self._gaps_before: dict[tuple[str, int, str], list[int]] = {}
        self._gaps_now: dict[tuple[str, int, str], list[int]] = {}
        self._ended: tuple[FlowTable, dict[tuple[str, int, str], list[int]]] | None = None
        self._key: tuple[str, ...] | None = None
        self._labels: dict[bytes, str] = {}
        self._sequences = False

    def use(self, running: FlowRunning, settings: FlowSettings) -> None:
        """RUNNING measures from now on; the one before can still be read."""
        if self._key is not None:
            self._end_gaps(running.table)
        self._table = running.table
        self._interfaces = {i.index: i.name for i in settings.interfaces}
        layout = running.schema.layout
        key, at = flow_layouts(settings.key).key, layout.offsets
        for name in settings.names:
            self._names[self._numbers.setdefault(name, len(self._numbers))] = name
        indices = {i.index: self._numbers[i.name] for i in settings.interfaces}
        counted = _COUNTED if settings.sequences else _COUNTED[:_MEASURED]
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
            coarse_shift=running.schema.coarse_shift,
            loss_at=[at[name] for name in _LOSS] if settings.sequences else None,
            longest=settings.intervals[1],
        )
        if settings.key != self._key:
            self._key = settings.key
            self._labels = {}
        self._plan: Plan = label_plan(settings.key, self._device, self._names)
        self._sequences = settings.sequences
        self._gaps_now = self._gaps()

    def name_device(self, device: str) -> None:
        """From now on the label says DEVICE."""
        self._device = device
        self._labels = {}
        if self._key is not None:
            self._plan = label_plan(self._key, device, self._names)

    def add(self, batch: Batch) -> None:
        """Summaries; sequence errors are counted in them."""
        if batch.schema.measurement == "vtap_flow":
            self._totals.add(batch.data)

    def end_interval(self, now: int) -> None:
        """All its summaries are here."""
        self._gaps_now = self._gaps()
        self._totals.end_interval(now)

    def samples(self) -> Iterator[Samples]:
        """What is shown now."""
        scrape, gaps, sequences = self._totals.scrape(), self._gaps_now, self._sequences
        return self._samples(scrape, gaps, self._flow_labels(scrape[1]), sequences=sequences)

    def _samples(
        self,
        scrape: Scrape,
        gaps: Mapping[tuple[str, int, str], Sequence[int]],
        labels: Mapping[bytes, str],
        *,
        sequences: bool,
    ) -> Iterator[Samples]:
        yield from self._protocols(scrape[0], sequences=sequences)
        yield self._histogram(gaps)
        yield from _flows(scrape, labels, sequences=sequences)

    def _end_gaps(self, following: FlowTable) -> None:
        """The table's gaps are those of an earlier one, unless it was FOLLOWING before, too."""
        before = self._ended if self._ended and self._ended[0] is following else None
        self._ended = self._table, self._own_gaps()
        self._gaps_before = self._gaps()
        for where, counts in before[1].items() if before else ():
            sums = self._gaps_before[where]
            self._gaps_before[where] = [a - b for a, b in zip(sums, counts, strict=True)]

    def _gaps(self) -> dict[tuple[str, int, str], list[int]]:
        """The histogram over all probes, by interface name, direction and protocol."""
        found = dict(self._gaps_before)
        for where, counts in self._own_gaps().items():
            before = found.get(where, [0] * len(counts))
            found[where] = [a + b for a, b in zip(before, counts, strict=True)]
        return found

    def _own_gaps(self) -> dict[tuple[str, int, str], list[int]]:
        """Of the table alone."""
        return {
            (self._interfaces[index], int(direction), protocol): [*counts]
            for (index, direction, protocol), counts in self._table.gaps().items()
        }

    def _flow_labels(self, flows: Mapping[bytes, object]) -> dict[bytes, str]:
        """By key, of those that are shown now; written once for each."""
        self._labels = {key: self._labels.get(key) or self._written(key) for key in flows}
        return self._labels

    def _written(self, key: bytes) -> str:
        (((text, _, _),), _) = self._plan.render(key, 1, 1 << 62)
        return text.decode()

    def _where(self, name: str, direction: int, protocol: str) -> dict[str, str]:
        found = {"interface": safe_text(name), "direction": DIRECTIONS[direction]}
        return {**found, "protocol": protocol} if protocol else found

    def _protocols(self, totals: Protocols, *, sequences: bool) -> Iterator[Samples]:
        found = [
            (self._where(self._names[i], d, _PROTOCOLS[p]), *values)
            for (i, d, p), values in totals.items()
        ]
        for place, family in enumerate(families.PROTOCOL_COUNTERS):
            yield Samples(family, [(where, counts[place]) for where, counts, *_ in found])
        if sequences:
            errors = [
                ({**where, "kind": kind}, counts[_MEASURED + place])
                for where, counts, *_ in found
                for place, kind in enumerate(families.SEQUENCE_KINDS)
            ]
            yield Samples(families.PROTOCOL_ERRORS, errors)
            losses = [(where, loss) for where, *_, loss in found if loss is not None]
            yield Samples(families.PROTOCOL_LOSS, losses)
        yield Samples(families.PROTOCOL_FLOWS, [(where, n) for where, _, n, *_ in found])
        for place, family in enumerate((families.PROTOCOL_MEAN, families.PROTOCOL_JITTER)):
            gaps = [(where, gaps[place]) for where, _, _, gaps, _ in found if gaps]
            yield Samples(family, gaps)

    def _histogram(self, gaps: Mapping[tuple[str, int, str], Sequence[int]]) -> Samples:
        found = ((self._where(*place), sums) for place, sums in gaps.items() if any(sums[1:]))
        return histogram(families.INTERARRIVAL, [str(bound / NS) for bound in GAP_BOUNDS], found)


def _flows(scrape: Scrape, labels: Mapping[bytes, str], *, sequences: bool) -> Iterator[Samples]:
    """The families of single flows, and of those that are not shown any more."""
    _, flows, rest, departed = scrape
    found = [(labels[key], *values) for key, values in flows.items()]
    for place, family in enumerate(families.FLOW_COUNTERS):
        lines = [(where, counts[place]) for where, counts, *_ in found]
        yield Samples(family, lines=_lines(family, [*lines, (_REST, rest[place])]))
    if sequences:
        lines = [
            (f'{where[:-1]},kind="{kind}"}}', counts[_MEASURED + place])
            for where, counts in (*((where, counts) for where, counts, *_ in found), (_REST, rest))
            for place, kind in enumerate(families.SEQUENCE_KINDS)
        ]
        yield Samples(families.FLOW_ERRORS, lines=_lines(families.FLOW_ERRORS, lines))
        losses = [(where, loss) for where, *_, loss in found]
        yield Samples(families.FLOW_LOSS, lines=_lines(families.FLOW_LOSS, losses))
    for place, family in enumerate((families.FLOW_MEAN, families.FLOW_JITTER)):
        seconds = [(where, gaps[place]) for where, _, gaps, _ in found if gaps]
        yield Samples(family, lines=_lines(family, seconds))
    for place, family in enumerate(families.DEPARTED_COUNTERS):
        yield Samples(family, [({}, departed[place])])
    if sequences:
        kinds = enumerate(families.SEQUENCE_KINDS)
        errors = [({"kind": kind}, departed[_MEASURED + place]) for place, kind in kinds]
        yield Samples(families.DEPARTED_ERRORS, errors)


def _lines(family: Family, samples: Sequence[tuple[str, float | None]]) -> bytes:
    """Samples with labels that are written already; those without a value are left out."""
    name = family.sample
    return "".join(
        f"{name}{where} {value}\n" for where, value in samples if value is not None
    ).encode()
