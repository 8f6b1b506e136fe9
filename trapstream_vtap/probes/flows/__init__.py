# SPDX-License-Identifier: Apache-2.0
"""Flows: what crosses an interface, flow by flow and interval by interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.privileges import CAP_NET_RAW
from trapstream_vtap.probes.flows import account, numbering
from trapstream_vtap.probes.flows.records import errors_of, schema_of
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.probes.interface import Alone, Needs, ToLoad
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.probes.flows.running import FlowRunning
    from trapstream_vtap.schema import Schema

_TOLD = ("evicted_packets", "stranded_packets", "no_flow_packets", "events_suppressed")


class Flows(Alone):
    """The probe `flows`."""

    name = "flows"
    doc = "what crosses interfaces, flow by flow"
    noun = "packet"
    settings = FlowSettings
    at_interfaces = True
    reloads = True

    def hosts(self, settings: FlowSettings) -> bool:
        """Where it sees both directions of what comes by, and no tunnels are looked into."""
        both = len(settings.directions) == len(Direction)
        return both and settings.hook == "tc" and not settings.decapsulate

    def needs(self, settings: FlowSettings) -> Needs:
        """Packet sockets, where it is to see packets by them, or to have others' frames taken."""
        raw = settings.promiscuous or settings.hook == "socket"
        return Needs(capabilities=(CAP_NET_RAW,) if raw else ())

    def measures(self, settings: FlowSettings) -> str:
        """Which packets, of which interfaces."""
        names = ", ".join(i.name for i in settings.interfaces)
        directions = " and ".join(d.name.lower() for d in settings.directions)
        return f"{directions} of {names or 'interfaces that are to come'}"

    def schemas(self, settings: FlowSettings) -> tuple[Schema, ...]:
        """Summaries, and sequence errors where they are asked for."""
        errors = errors_of(settings)
        return (schema_of(settings), *((errors,) if errors else ()))

    def rows(self, settings: FlowSettings) -> Rows:
        """A row for each interface."""
        return account.rows(events=settings.sequences)

    def demanding(self) -> FlowSettings:
        """Whatever it is, the kernel has it or has not."""
        return FlowSettings(probes=(self.name,))

    def to_load(self, settings: FlowSettings) -> ToLoad:
        """The program of bpf/flows/flow.c for these settings."""
        from trapstream_vtap.probes.flows import program  # noqa: PLC0415 - the loader's alone

        return ToLoad(
            program.source(settings),
            program.places(settings),
            program.memory(settings),
            f"--flow-table-size {settings.flow_table_size}",
        )

    def load(
        self,
        settings: FlowSettings,
        objects: Objects,
        clock: Clock,
        files: Mapping[Path, BinaryIO],  # noqa: ARG002
    ) -> FlowRunning:
        """As loaded by `to_load`."""
        from trapstream_vtap.probes.flows.running import FlowRunning  # noqa: PLC0415 - native

        return FlowRunning(settings, objects, clock)

    def collector(self, settings: FlowSettings) -> Collector:
        """Totals by protocol and by flow, and the histogram of inter-arrival times."""
        from trapstream_vtap.probes.flows.metrics import FlowCollector  # noqa: PLC0415 - if scraped

        return FlowCollector(settings)

    def reloaded(self, settings: FlowSettings) -> str:
        """How many rules."""
        return amount(len(settings.rules), "rule")

    def doubt(self, settings: FlowSettings, totals: Mapping[str, int]) -> str | None:
        """Whether the sequence numbers are numbers."""
        return numbering.doubt(totals, settings)

    def summary(self, settings: FlowSettings, totals: Mapping[str, int]) -> str:
        """What was measured, and what of it was lost before it came to the sinks."""
        return ", ".join(self._told(settings, totals))

    def _told(self, settings: FlowSettings, totals: Mapping[str, int]) -> Iterator[str]:
        packets, flows = totals["counted_packets"], totals["flows_begun"]
        yield f"{amount(packets, 'packet')} of {amount(flows, 'flow')} measured"
        yield from numbering.found(totals, settings)
        counts = {count.name: count for count in self.rows(settings).counts}
        for name in _TOLD:
            if name in counts and totals[name]:
                unit = counts[name].unit.removesuffix("s")
                yield f"{amount(totals[name], unit)} {counts[name].said}"


FLOWS = Flows()
