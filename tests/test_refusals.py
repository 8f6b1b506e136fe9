# SPDX-License-Identifier: Apache-2.0
"""What is refused, fails or changes in the middle leaves all else as it was, counted once."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from attached import settings
from traffic import Wire

from lab.loading import load
from trapstream_vtap.account import Count, Rows
from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.bpf.attach.clsact import Clsact
from trapstream_vtap.bpf.attach.holder import Change, Holder, _Attached
from trapstream_vtap.bpf.attach.place import Direction
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.engine.room import Room
from trapstream_vtap.errors import RunError
from trapstream_vtap.interfaces import interfaces
from trapstream_vtap.keeper import client
from trapstream_vtap.probes.drops.metrics import DropCollector
from trapstream_vtap.probes.flows.metrics import FlowCollector
from trapstream_vtap.schema import Batch, Column, Field, Kind, Layout, Role, Schema
from trapstream_vtap.settings.command import load_settings

if TYPE_CHECKING:
    from pathlib import Path

GAPS = {(1, Direction.INGRESS, "udp"): [100, 1]}


class Table:
    """A flow table of which only gaps are asked."""

    def __init__(self) -> None:
        self.found: dict[Any, list[int]] = {}

    def gaps(self) -> dict[Any, list[int]]:
        """Since it was loaded."""
        return self.found


def test_a_refused_program_adds_no_gaps() -> None:
    """However often another program was in force for a moment, each gap is counted once."""
    chosen = settings(metrics=("127.0.0.1", 1))
    chosen = chosen.__class__(**{**vars(chosen), "interfaces": (interfaces()["lo"],)})
    lasting, schema = Table(), SimpleNamespace(layout=_layout(chosen), coarse_shift=0)
    collector = FlowCollector(chosen)
    key = (interfaces()["lo"].index, Direction.INGRESS, "udp")
    running: Any = SimpleNamespace(table=lasting, schema=schema)
    collector.use(running, chosen)
    lasting.found = {key: [100, 1]}
    for _ in range(3):
        refused = Table()
        other: Any = SimpleNamespace(table=refused, schema=schema)
        collector.use(other, chosen)
        refused.found = {key: [7, 1]}
        collector.use(running, chosen)
    lasting.found = {key: [150, 2]}
    (counts,) = collector._gaps().values()
    assert counts == [150 + 3 * 7, 2 + 3]


def _layout(chosen: Any) -> Layout:
    from trapstream_vtap.probes.flows.records import flow_schema  # noqa: PLC0415 - native

    return flow_schema(chosen.key).layout


def test_probes_are_loaded_of_one_mind() -> None:
    """An interface that comes between two probes' loading is in the settings of neither."""
    with Wire() as wire, wire.receiver.entered():
        keeping = client.Keeper(load_settings(("--probe", "flows,drops", "127.0.0.1", "9")), None)
        objects, first = keeping.load("flows")
        wire.receiver.run("ip", "link", "add", "late0", "type", "veth")
        wire.receiver.run("ip", "link", "set", "late0", "up")
        others, same = keeping.load("drops", "same")
        anew, looked = keeping.load("drops", "look")
        for each in (objects, others, anew):
            each.close()
        keeping.close()
    assert same.core.names == first.core.names
    assert {*looked.core.names} == {*first.core.names, "late0"}


class Odd(Attachment):
    """One that fails in a way of its own."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.program = 1

    def replace(self, program: int) -> None:
        """Or not."""
        if self.error:
            raise self.error
        self.program = program

    def detach(self) -> None:
        """Or not."""
        self.replace(0)


@pytest.mark.parametrize("error", [RunError("no"), OSError(5, "no"), ValueError("no")])
def test_undoing_goes_on_behind_an_error(error: Exception) -> None:
    """Whatever one place answers, the others have their old program again."""
    odd, plain = Odd(error), Odd(None)
    plain.program = 2
    change = Change(before=[(_Attached(0, 2, odd), 1), (_Attached(0, 2, plain), 1)])
    Holder().undo(change)
    assert plain.program == 1


def test_samples_are_a_copy() -> None:
    """What is added behind a scrape's back is not in it, and does not break it."""
    cause = Column("cause", "u32")
    layout = Layout(
        "r", (cause, Column("port", "u32"), Column("packets", "u64"), Column("bytes", "u64"))
    )
    names = {name: {0: "a", 1: "b"} for name in ("trapName", "dropType", "severity", "ingressPort")}
    schema = Schema("m", "", layout, (), names=names)
    collector = DropCollector()
    collector.add(Batch(schema, layout.pack({"packets": 5}), "drops"))
    before = collector.samples()
    for number in (0, 1):
        collector.add(Batch(schema, layout.pack({"cause": number, "packets": 3}), "drops"))
    packets, _ = before
    assert [value for _, value in packets.values] == [5]


NOTHING = Source(
    "#include <uapi/linux/bpf.h>\nint first(struct __sk_buff *skb)\n{\n\treturn -1;\n}\n"
    "int second(struct __sk_buff *skb)\n{\n\treturn -1;\n}\n",
    (Program("first", "SCHED_CLS"), Program("second", "SCHED_CLS")),
    (),
)


def test_two_filters_at_one_place_are_two() -> None:
    """Each is replaced and removed by itself, on kernels without tcx."""
    objects = load(NOTHING)
    with Wire() as wire, wire.receiver.entered():
        there = interfaces()["wire0"]
        one = Clsact(objects.programs["first"], there, Direction.INGRESS)
        other = Clsact(objects.programs["first"], there, Direction.INGRESS)
        other.replace(objects.programs["second"])
        both = _filters(wire)
        other.detach()
        left = _filters(wire)
        one.detach()
        none = _filters(wire)
    objects.close()
    assert sorted(both) == ["first", "second"]
    assert (left, none) == (["first"], [])


def _filters(wire: Wire) -> list[str]:
    text = wire.receiver.run("tc", "filter", "show", "dev", "wire0", "ingress").stdout
    words = text.split()
    return [words[i + 1] for i, word in enumerate(words) if word == "name"]


def test_rows_may_come_later() -> None:
    """A row that comes after the beginning is in the account, and its program is closed."""
    tag = Field("peer", Role.TAG, Kind.LABEL, ("peer",), "", "")
    rows = Rows(tag, (Count("seen_packets", "packets", ""),), "")
    closed: list[bool] = []
    counts: dict[str, dict[str, int]] = {}
    running: Any = SimpleNamespace(counts=lambda: counts, close=lambda: closed.append(True))
    probe: Any = SimpleNamespace(rows=lambda _: rows)
    room = Room(probe, lambda _: None, lambda *_: None)
    room.begin(running, SimpleNamespace())  # type: ignore[arg-type]
    counts["late"] = {"seen_packets": 3}
    _, shown, total = room.account()
    assert (shown, total) == ({"late": {"seen_packets": 3}}, {"seen_packets": 3})
    room.close()
    assert closed == [True]


ENGINES = """
import sys, warnings
warnings.simplefilter("error")
from trapstream_vtap import *
spool = sys.argv[1]
def settings(health):
    return load_settings(["-i", "lo", "-t", "0.1", "--user", "root", "--spool", spool,
                          "--health", health, "127.0.0.1", "9"])
print(Engine(settings("127.0.0.1:0")).status())
try:
    Engine(settings("203.0.113.9:1")).start()
except RunError as error:
    print(error)
said = []
engine = Engine(settings("127.0.0.1:0"), report=said.append)
calls = []
def fails(batch):
    calls.append(batch)
    raise ValueError("mine")
engine.subscribe(fails)
with engine:
    import time
    end = time.monotonic() + 20
    while engine.status().sinks.get("tcp://127.0.0.1:9", {}).get("records_handed", 0) == 0:
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
print(len(calls), sum("ValueError('mine')" in str(event) for event in said))
"""


def test_an_engine_in_trouble(tmp_path: Path) -> None:
    """One that cannot begin lets go of its spool; a subscriber that fails ends nothing."""
    with Wire() as wire:
        done = wire.receiver.run(
            sys.executable, "-c", ENGINES, str(tmp_path / "spool"), check=False
        )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    status, refused, calls = done.stdout.splitlines()
    assert status.startswith("Snapshot(measuring=False, time=0")
    assert refused.startswith("Cannot listen on 203.0.113.9 port 1")
    assert calls == "1 1"
