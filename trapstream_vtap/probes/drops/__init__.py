# SPDX-License-Identifier: Apache-2.0
"""Drops and traps: packets that the kernel drops, and those that hardware or a driver traps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.drops.account import ROWS
from trapstream_vtap.probes.drops.settings import DropSettings
from trapstream_vtap.probes.drops.symbols import KALLSYMS, Symbols
from trapstream_vtap.probes.interface import Alone, Needs, ToLoad
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.probes.drops.running import DropRunning
    from trapstream_vtap.schema import Schema


class _Dropped(Alone):
    """A probe at one tracepoint.

    Args:
        name: `drops` or `traps`.
        doc: For `--help`.
        files: That it needs.
    """

    settings = DropSettings
    at_interfaces = False
    reloads = False

    def __init__(self, name: str, doc: str, *files: Path) -> None:
        self.name = name
        self.doc = doc
        self.noun = name.removesuffix("s")
        self._files = files

    def needs(self, settings: DropSettings) -> Needs:  # noqa: ARG002
        """Where functions of the kernel are."""
        return Needs(files=self._files)

    def measures(self, settings: DropSettings) -> str:
        """All of them, or those at the interfaces chosen, which the last one of several names."""
        if settings.selected and settings.probes[-1] == self.name:
            return f"{self.name} of {', '.join(settings.selected)}"
        return self.name

    def schemas(self, settings: DropSettings) -> tuple[Schema, ...]:
        """One kind, whatever has been dropped."""
        from trapstream_vtap.probes.drops.naming import longest  # noqa: PLC0415 - few want drops

        return (longest(settings.trap_tags),)

    def rows(self, settings: DropSettings) -> Rows:  # noqa: ARG002
        """One row."""
        return ROWS

    def demanding(self) -> DropSettings:
        """Whatever it is, the kernel has it or has not."""
        return DropSettings(probes=(self.name,))

    def to_load(self, settings: DropSettings) -> ToLoad:
        """The program of bpf/drops/drop.c for this kernel and these settings."""
        from trapstream_vtap.bpf.attach import TracepointPlace  # noqa: PLC0415 - likewise
        from trapstream_vtap.probes.drops import program  # noqa: PLC0415 - the loader's alone

        return ToLoad(
            program.source(settings, self.name),
            [TracepointPlace(program.TRACEPOINTS[self.name], program.PROGRAM)],
            program.memory(settings, self.name),
            f"--drop-table-size {settings.drop_table_size}",
        )

    def load(
        self,
        settings: DropSettings,
        objects: Objects,
        clock: Clock,
        files: Mapping[Path, BinaryIO],
    ) -> DropRunning:
        """As loaded by `to_load`."""
        from trapstream_vtap.probes.drops import (  # noqa: PLC0415 - few want drops
            naming,
            program,
            running,
        )

        symbols = Symbols(files.get(KALLSYMS))
        names = naming.Naming(program.reason_names(), symbols.names, settings.trap_tags)
        made = running.DropRunning(settings, self.name, objects, clock, names)
        if KALLSYMS in self._files and symbols.hidden():
            made.notes.append(
                "the kernel does not show where its functions are (CAP_SYSLOG, "
                "kernel.kptr_restrict): records of drops have no location."
            )
        return made

    def collector(self, settings: DropSettings) -> Collector:  # noqa: ARG002
        """Totals by interface and cause."""
        from trapstream_vtap.probes.drops.metrics import DropCollector  # noqa: PLC0415 - if scraped

        return DropCollector()

    def reloaded(self, settings: DropSettings) -> str:  # noqa: ARG002
        """It never is."""
        return ""

    def doubt(self, settings: DropSettings, totals: Mapping[str, int]) -> str | None:  # noqa: ARG002
        """Never."""
        return None

    def summary(self, settings: DropSettings, totals: Mapping[str, int]) -> str:  # noqa: ARG002
        """What became of all packets."""
        seen = f"{amount(totals['seen_packets'], self.noun)} seen: "
        told = [f"{totals[c.name]} {c.said}" for c in ROWS.counts if c.said and totals[c.name]]
        return seen + (", ".join(told) or "none")


DROPS = _Dropped("drops", "packets that the kernel dropped, and why", KALLSYMS)
TRAPS = _Dropped("traps", "packets that hardware or a driver trapped or dropped")
