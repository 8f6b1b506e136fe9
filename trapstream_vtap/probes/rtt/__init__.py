# SPDX-License-Identifier: Apache-2.0
"""Round-trip times: how long after a packet its answer comes by, without a packet sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.interface import Alone, Needs
from trapstream_vtap.probes.rtt.account import ROWS
from trapstream_vtap.probes.rtt.guest import guest_of
from trapstream_vtap.probes.rtt.records import schema_of
from trapstream_vtap.probes.rtt.settings import RttSettings
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.guest import Guest
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.probes.interface import ToLoad
    from trapstream_vtap.probes.rtt.running import RttRunning
    from trapstream_vtap.schema import Schema


class Rtt(Alone):
    """The probe `rtt`."""

    name = "rtt"
    doc = "round-trip times of TCP, ICMP echo, DNS and QUIC, without a packet sent"
    noun = "packet"
    settings = RttSettings
    at_interfaces = True
    reloads = True

    def guest(self, settings: RttSettings) -> Guest | None:
        """Round-trip times of each flow, unless a key says what they are wanted of."""
        return guest_of(settings) if settings.rtt_key is None else None

    def needs(self, settings: RttSettings) -> Needs:  # noqa: ARG002
        """Nothing."""
        return Needs()

    def measures(self, settings: RttSettings) -> str:
        """Interfaces, and what tells records apart."""
        names = ", ".join(i.name for i in settings.interfaces)
        if self.name in settings.guests:
            return "round-trip times of its flows"
        by = ", ".join(settings.by) or "interface"
        return f"round-trip times (by {by}) of {names or 'interfaces that are to come'}"

    def schemas(self, settings: RttSettings) -> tuple[Schema, ...]:
        """One kind, unless they stand in others' records."""
        if self.name in settings.guests:
            return ()
        return (schema_of(settings.by, {i.index: i.name for i in settings.interfaces}),)

    def rows(self, settings: RttSettings) -> Rows:  # noqa: ARG002
        """A row for each protocol."""
        return ROWS

    def demanding(self) -> RttSettings:
        """Whatever it is, the kernel has it or has not."""
        return RttSettings(probes=(self.name,))

    def to_load(self, settings: RttSettings) -> ToLoad:
        """The programs of bpf/rtt/rtt.c."""
        from trapstream_vtap.probes.rtt import program  # noqa: PLC0415 - the loader's alone

        return program.to_load(settings)

    def load(
        self,
        settings: RttSettings,
        objects: Objects,
        clock: Clock,
        files: Mapping[Path, BinaryIO],  # noqa: ARG002
    ) -> RttRunning:
        """As loaded by `to_load`."""
        from trapstream_vtap.probes.rtt.running import RttRunning  # noqa: PLC0415 - few want it

        return RttRunning(settings, objects, clock)

    def collector(self, settings: RttSettings) -> Collector:  # noqa: ARG002
        """Histograms."""
        from trapstream_vtap.probes.rtt.metrics import RttCollector  # noqa: PLC0415 - if scraped

        return RttCollector()

    def reloaded(self, settings: RttSettings) -> str:
        """What tells records apart."""
        if self.name in settings.guests:
            return "round-trip times of its flows"
        return f"round-trip times by {', '.join(settings.by) or 'interface'}"

    def doubt(self, settings: RttSettings, totals: Mapping[str, int]) -> str | None:  # noqa: ARG002
        """Where only one direction comes by."""
        if totals["one_way"] >= _ENOUGH and not totals["samples"]:
            return (
                "there are no round-trip times so far: of no connection have both directions been "
                "seen here (docs/rtt.md)"
            )
        return None

    def summary(self, settings: RttSettings, totals: Mapping[str, int]) -> str:  # noqa: ARG002
        """What became of all probes."""
        told = [f"{totals[c.name]} {c.said}" for c in ROWS.counts if c.said and totals[c.name]]
        return ", ".join((amount(totals["samples"], "round-trip time"), *told))


_ENOUGH = 20
RTT = Rtt()
