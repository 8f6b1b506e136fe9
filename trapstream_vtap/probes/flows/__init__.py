# SPDX-License-Identifier: Apache-2.0
"""Flows: what crosses an interface, flow by flow and interval by interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.flows import account, numbering
from trapstream_vtap.probes.flows.records import errors_of, schema_of
from trapstream_vtap.probes.interface import Needs, ToLoad
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.config import Settings
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.probes.flows.running import FlowRunning
    from trapstream_vtap.schema import Schema

_TOLD = ("evicted_packets", "stranded_packets", "no_flow_packets", "events_suppressed")


class Flows:
    """The probe `flows`."""

    name = "flows"
    doc = "throughput, goodput, jitter and sequence errors of every flow"
    noun = "packet"
    reloads = True

    def needs(self, settings: Settings) -> Needs:  # noqa: ARG002
        """Interfaces."""
        return Needs(interfaces=True)

    def measures(self, settings: Settings) -> str:
        """Which packets, of which interfaces."""
        names = ", ".join(i.name for i in settings.interfaces)
        directions = " and ".join(d.name.lower() for d in settings.directions)
        return f"{directions} of {names or 'interfaces that are to come'}"

    def schemas(self, settings: Settings) -> tuple[Schema, ...]:
        """Summaries, and sequence errors where they are asked for."""
        errors = errors_of(settings)
        return (schema_of(settings), *((errors,) if errors else ()))

    def rows(self, settings: Settings) -> Rows:
        """A row for each interface."""
        return account.rows(events=settings.sequences)

    def to_load(self, settings: Settings) -> ToLoad:
        """The program of bpf/flow.c for these settings."""
        from trapstream_vtap.probes.flows import program  # noqa: PLC0415 - the loader's alone

        return ToLoad(
            program.source(settings),
            program.places(settings),
            program.memory(settings),
            f"--flow-table-size {settings.flow_table_size}",
        )

    def load(
        self,
        settings: Settings,
        objects: Objects,
        clock: Clock,
        files: Mapping[Path, BinaryIO],  # noqa: ARG002
    ) -> FlowRunning:
        """As loaded by `to_load`."""
        from trapstream_vtap.probes.flows.running import FlowRunning  # noqa: PLC0415 - native

        return FlowRunning(settings, objects, clock)

    def collector(self, settings: Settings) -> Collector:
        """Totals by protocol and by flow, and the histogram of inter-arrival times."""
        from trapstream_vtap.probes.flows.metrics import FlowCollector  # noqa: PLC0415 - if scraped

        return FlowCollector(settings)

    def doubt(self, settings: Settings, totals: Mapping[str, int]) -> str | None:
        """Whether the sequence numbers are numbers."""
        return numbering.doubt(totals, settings)

    def summary(self, settings: Settings, totals: Mapping[str, int]) -> str:
        """What was measured, and what of it was lost before it came to the sinks."""
        return ", ".join(self._told(settings, totals))

    def _told(self, settings: Settings, totals: Mapping[str, int]) -> Iterator[str]:
        packets, flows = totals["counted_packets"], totals["flows_begun"]
        yield f"{amount(packets, 'packet')} of {amount(flows, 'flow')} measured"
        yield from numbering.found(totals, settings)
        counts = {count.name: count for count in self.rows(settings).counts}
        for name in _TOLD:
            if name in counts and totals[name]:
                unit = counts[name].unit.removesuffix("s")
                yield f"{amount(totals[name], unit)} {counts[name].said}"


FLOWS = Flows()
