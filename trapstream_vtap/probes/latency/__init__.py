# SPDX-License-Identifier: Apache-2.0
"""Receive latency: how long a packet takes from the network card's driver to the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.interface import Alone, Needs
from trapstream_vtap.probes.latency.account import ROWS
from trapstream_vtap.probes.latency.records import LONGEST_NAME, schema_of
from trapstream_vtap.probes.latency.settings import STAGES, LatencySettings
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.probes.interface import ToLoad
    from trapstream_vtap.probes.latency.running import LatencyRunning
    from trapstream_vtap.schema import Schema


class Latency(Alone):
    """The probe `latency`."""

    name = "latency"
    doc = "how long packets take inside the kernel, from the driver to the application"
    noun = "packet"
    settings = LatencySettings
    at_interfaces = True
    reloads = True

    def needs(self, settings: LatencySettings) -> Needs:  # noqa: ARG002
        """Nothing."""
        return Needs()

    def measures(self, settings: LatencySettings) -> str:
        """Stages and interfaces."""
        names = ", ".join(i.name for i in settings.interfaces)
        stages = ", ".join(settings.latency_stages)
        return f"latency ({stages}) of {names or 'interfaces that are to come'}"

    def schemas(self, settings: LatencySettings) -> tuple[Schema, ...]:
        """One kind."""
        names = {i.index: i.name for i in settings.interfaces}
        return (schema_of(settings.latency_by, names, {0: "x" * LONGEST_NAME}),)

    def rows(self, settings: LatencySettings) -> Rows:  # noqa: ARG002
        """A row for each stage."""
        return ROWS

    def demanding(self) -> LatencySettings:
        """Every stage."""
        return LatencySettings(probes=(self.name,), latency_stages=STAGES)

    def to_load(self, settings: LatencySettings) -> ToLoad:
        """The programs of bpf/latency/latency.c that this kernel can have."""
        from trapstream_vtap.probes.latency import program  # noqa: PLC0415 - the loader's alone

        return program.to_load(settings)

    def load(
        self,
        settings: LatencySettings,
        objects: Objects,
        clock: Clock,
        files: Mapping[Path, BinaryIO],  # noqa: ARG002
    ) -> LatencyRunning:
        """As loaded by `to_load`."""
        from trapstream_vtap.probes.latency.running import (  # noqa: PLC0415 - few want it
            LatencyRunning,
        )

        return LatencyRunning(settings, objects, clock)

    def collector(self, settings: LatencySettings) -> Collector:
        """Histograms."""
        from trapstream_vtap.probes.latency.metrics import (  # noqa: PLC0415 - if scraped
            LatencyCollector,
        )

        return LatencyCollector(settings.latency_by)

    def reloaded(self, settings: LatencySettings) -> str:
        """The stages."""
        return f"latency at {', '.join(settings.latency_stages)}"

    def doubt(self, settings: LatencySettings, totals: Mapping[str, int]) -> str | None:  # noqa: ARG002
        """Where nothing that is asked for has a receive timestamp."""
        asked = (
            totals["measured_packets"] + totals["unstamped_packets"] + totals["delivery_packets"]
        )
        if asked >= _ENOUGH and not totals["measured_packets"]:
            return (
                "no packet has had a receive timestamp: those of this same machine have none "
                "(docs/latency.md)"
            )
        return None

    def summary(self, settings: LatencySettings, totals: Mapping[str, int]) -> str:  # noqa: ARG002
        """What became of all packets, at all stages together."""
        told = [f"{totals[c.name]} {c.said}" for c in ROWS.counts if c.said and totals[c.name]]
        measured = f"{amount(totals['measured_packets'], 'packet')} measured"
        return ", ".join((measured, *told))


_ENOUGH = 20
LATENCY = Latency()
