# SPDX-License-Identifier: Apache-2.0
"""Packets by protocol: a probe of a few lines, which a test adds to a copy of the package."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trapstream_vtap.account import Count, Rows
from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Direction, Place
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.clock import Grid
from trapstream_vtap.metrics.collector import Samples
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes.interface import Alone, Needs, ToLoad
from trapstream_vtap.schema import (
    DEVICE,
    TIME,
    Batch,
    Column,
    Field,
    Kind,
    Layout,
    Role,
    Schema,
)
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.kinds import Whole
from trapstream_vtap.settings.option import Reload, option

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NAME = "protocols"
_LEFT_OUT = 256
_COLUMNS = (Column("protocol", "u32"), Column("reserved", "u32"))
RECORD = Layout(
    "protocol_record",
    (*_COLUMNS, *(Column(name, "u64") for name in ("time", "packets", "bytes"))),
)
SCHEMA = Schema(
    "vtap_protocols",
    "One record per protocol and interval in which it had a packet.",
    RECORD,
    (
        DEVICE,
        Field("protocol", Role.TAG, Kind.LABEL, ("protocol",), "", "by its number"),
        Field("packets", Role.VALUE, Kind.COUNT, ("packets",), "packets", "that came in"),
        TIME,
    ),
    names={"protocol": {number: str(number) for number in range(256)}},
)
_SEEN = Family("vtap_protocols_seen_packets", "counter", ("probe",), "Packets seen.")
_FATES = Family("vtap_protocols_packets", "counter", ("probe", "fate"), "What became of them.")
ROWS = Rows(
    Field("probe", Role.TAG, Kind.LABEL, ("probe",), "", f"`{NAME}`"),
    (
        Count("seen_packets", "packets", "that came in", _SEEN),
        Count("handed_packets", "packets", "in records", _FATES, "handed", "seen_packets"),
        Count("left_packets", "packets", "too short, or not IPv4", _FATES, "left", "seen_packets"),
        Count("held_packets", "packets", "not handed over yet", _FATES, "held", "seen_packets"),
    ),
    "What became of them.",
)
PACKETS = Family("vtap_protocol_handed_packets", "counter", ("protocol",), "Packets by protocol.")


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings(Core):
    """One option."""

    smallest: int = option(
        "--smallest",
        kind=Whole(0, 9000),
        metavar="BYTES",
        default=0,
        reload=Reload.TAKEN,
        help="Shorter packets are left out.",
    )


class ProtocolRunning:
    """Hands over at each grid line."""

    def __init__(self, settings: ProtocolSettings, objects: Any, clock: Any) -> None:
        self._objects, self._clock = objects, clock
        self._grid = Grid(clock, settings.interval)
        self._line, self._closed = self._grid.next_line(), clock.now()
        self._told, self._cpus = Counter[int](), kernel.possible_cpus()
        self.notes: list[str] = []

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def woken(self, ready: Collection[int]) -> None:
        pass

    def due(self) -> int:
        return self._line

    def attend(self) -> Iterator[Batch]:
        if self._clock.now() >= self._line:
            yield from self.flush(self._line)
            self._closed, self._line = self._line, self._grid.next_line()

    def closed(self) -> int:
        return self._closed

    def take_over(self, old: Any) -> int:
        return self._clock.now()

    def flush(self, moment: int | None = None) -> Iterator[Batch]:
        now = self._grid.wall(self._clock.now() if moment is None else moment)
        data = b""
        for number, packets in self._counted().items():
            news = packets - self._told[number]
            if news and number != _LEFT_OUT:
                data += RECORD.pack({"protocol": number, "time": now, "packets": news})
                self._told[number] = packets
        if data:
            yield Batch(SCHEMA, data, NAME)

    def counts(self) -> dict[str, dict[str, int]]:
        counted, handed = self._counted(), self._told.total()
        left = counted[_LEFT_OUT]
        return {
            NAME: {
                "seen_packets": counted.total(),
                "handed_packets": handed,
                "left_packets": left,
                "held_packets": counted.total() - handed - left,
            }
        }

    def close(self) -> None:
        self._objects.close()

    def _counted(self) -> Counter[int]:
        each = (
            kernel.read_element(self._objects.maps["counts"], number, 8 * self._cpus)
            for number in range(_LEFT_OUT + 1)
        )
        return Counter({n: sum(memoryview(data).cast("Q")) for n, data in enumerate(each)})


class ProtocolCollector:
    """Adds up."""

    families = (PACKETS,)

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def use(self, running: Any, settings: Any) -> None:
        pass

    def name_device(self, device: str) -> None:
        pass

    def end_interval(self, now: int) -> None:
        pass

    def add(self, batch: Batch) -> None:
        for record in batch.schema.layout.unpack(batch.data):
            self._counts[str(record["protocol"])] += record["packets"]

    def samples(self) -> Iterator[Samples]:
        values = [({"protocol": name}, float(n)) for name, n in self._counts.items()]
        return iter([Samples(PACKETS, values)])


class Protocols(Alone):
    """The probe."""

    name = NAME
    doc = "packets by protocol"
    noun = "packet"
    settings = ProtocolSettings
    at_interfaces = True
    reloads = True

    def needs(self, settings: Any) -> Needs:
        return Needs()

    def measures(self, settings: Any) -> str:
        return f"protocols of {', '.join(i.name for i in settings.interfaces)}"

    def schemas(self, settings: Any) -> tuple[Schema, ...]:
        return (replace(SCHEMA),)

    def rows(self, settings: Any) -> Rows:
        return ROWS

    def demanding(self) -> ProtocolSettings:
        return ProtocolSettings()

    def to_load(self, settings: ProtocolSettings) -> ToLoad:
        text = f"#define SMALLEST {settings.smallest}\n" + program_text("protocols/protocols.c")
        source = Source(text, (Program("vtap_protocols", "SCHED_CLS"),), ("counts",))
        places = [
            Place(interface, (Direction.INGRESS,), "tc", "vtap_protocols")
            for interface in settings.interfaces
        ]
        return ToLoad(source, places, 257 * 8, "--probe protocols")

    def load(self, settings: Any, objects: Any, clock: Any, files: Any) -> ProtocolRunning:
        return ProtocolRunning(settings, objects, clock)

    def collector(self, settings: Any) -> ProtocolCollector:
        return ProtocolCollector()

    def reloaded(self, settings: Any) -> str:
        return f"smallest {settings.smallest}"

    def doubt(self, settings: Any, totals: Any) -> str | None:
        return None

    def summary(self, settings: Any, totals: Any) -> str:
        return f"{totals['handed_packets']} of {totals['seen_packets']} packets by protocol"


PROTOCOLS = Protocols()
