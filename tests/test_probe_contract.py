# SPDX-License-Identifier: Apache-2.0
"""What every probe of the registry keeps of `probes/interface.py`, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from storm import INTERFACE, Storm
from waiting import wait_for

from lab.loading import load
from trapstream_vtap.bpf import btf, kernel
from trapstream_vtap.bpf.attach import Holder
from trapstream_vtap.clock import ReplayClock, SystemClock
from trapstream_vtap.errors import RunError
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.settings.core import Core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.probes.interface import Probe, Running

NAMES = [probe.name for probe in REGISTRY]
PORT = 9


@pytest.fixture(scope="module")
def storm() -> Iterator[Storm]:
    """Packets that come in at an interface, and are dropped there."""
    with Storm() as storm:
        yield storm


class Loaded:
    """A probe that is attached by this process."""

    def __init__(self, probe: Probe, storm: Storm, clock: SystemClock | ReplayClock) -> None:
        self.probe = probe
        with storm.namespace.entered():
            there, _ = choose((INTERFACE,))
            chosen = {"interfaces": there, "selected": (INTERFACE,), "probes": (probe.name,)}
            self.settings: Any = probe.settings(**chosen)  # type: ignore[arg-type]
            wanted = probe.to_load(self.settings)
            objects = load(wanted.source)
            self._files = {path: path.open("rb") for path in probe.needs(self.settings).files}
            self.running: Running = probe.load(self.settings, objects, clock, self._files)
            self.holder = Holder()
            self.running.take_over(None)
            self.holder.finish(self.holder.begin(wanted.places, objects.programs))

    def detach(self) -> None:
        """From everywhere; nothing is counted any more when this returns."""
        self.holder.detach()
        kernel.wait_for_programs()

    def close(self) -> None:
        """Give it back to the kernel."""
        self.running.close()
        for file in self._files.values():
            file.close()


def loaded(name: str, storm: Storm, clock: SystemClock | ReplayClock) -> Loaded:
    """The probe of that NAME; or no test, where the kernel has not what it needs, and says so."""
    probe = next(probe for probe in REGISTRY if probe.name == name)
    if name == "traps" and not btf.read().arguments("devlink_trap_report"):
        with pytest.raises(RunError, match="has been built without devlink"):
            Loaded(probe, storm, clock)
        pytest.skip("this kernel has no devlink; traps are measured in tests/vm")
    return Loaded(probe, storm, clock)


def descriptors() -> int:
    """How many this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


def totals(found: Loaded) -> Counter[str]:
    """All rows together."""
    total = Counter[str]()
    for row in found.running.counts().values():
        total.update(row)
    return total


def check_sums(found: Loaded) -> None:
    """The parts of each count add up to it."""
    total = totals(found)
    parts = Counter[str]()
    for count in found.probe.rows(found.settings).counts:
        if count.part_of:
            parts[count.part_of] += total[count.name]
    assert parts
    assert {name: total[name] for name in parts} == dict(parts)


@pytest.mark.parametrize("name", NAMES)
def test_counts_add_up_and_all_is_handed_over(name: str, storm: Storm) -> None:
    """While it measures and at the end; what was flushed is what was counted; nothing is left."""
    before = descriptors()
    found = loaded(name, storm, SystemClock())
    storm.send(60, (PORT,), at_once=1)
    wait_for(lambda: totals(found)["seen_packets"] >= 60)
    batches = []
    for _ in range(3):
        batches += list(found.running.attend())
        check_sums(found)
    found.detach()
    batches += list(found.running.flush())
    check_sums(found)
    packets = sum(
        record["packets"]
        for batch in batches
        for record in batch.schema.layout.unpack(batch.data)
        if batch.schema.weight
    )
    assert packets == totals(found)["packets_handed"]
    weighs = any(schema.weight for schema in found.probe.schemas(found.settings))
    assert packets >= 60 or not weighs
    assert all(batch.probe == name for batch in batches)
    assert not list(found.running.flush())
    found.close()
    assert descriptors() == before


@pytest.mark.parametrize("name", NAMES)
def test_nothing_happens_before_it_is_due(name: str, storm: Storm) -> None:
    """A step ahead of its moment does nothing; behind it, the interval is closed."""
    clock = ReplayClock(SystemClock().now(), SystemClock().offset)
    found = loaded(name, storm, clock)
    due = found.running.due()
    assert clock.now() <= due <= clock.now() + found.settings.interval
    assert found.running.closed() <= clock.now()
    line = due
    assert found.running.closed() < line
    for _ in range(10):  # steps
        clock.go_on(max(clock.now(), found.running.due()))
        list(found.running.attend())
        if found.running.closed() >= line:
            break
    assert found.running.closed() >= line
    assert found.running.due() > clock.now()
    found.detach()
    found.close()


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_cheap(name: str) -> None:
    """Declaring and asking for options loads no BCC, nothing native, no library of metrics."""
    code = (
        "import sys\n"
        "from trapstream_vtap.probes import named\n"
        f"probe = named({name!r})\n"
        "settings = probe.settings()\n"
        "probe.needs(settings), probe.rows(settings).schema, probe.measures(settings)\n"
        "probe.summary(settings, __import__('collections').Counter())\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not modules & {"bcc", "prometheus_client", "pyroute2", "trapstream_vtap._native"}


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_whole(name: str) -> None:
    """Names and words are there; every option has a meaning; schemas name what they number."""
    probe = next(probe for probe in REGISTRY if probe.name == name)
    assert probe.doc
    assert probe.noun
    settings: Any = probe.settings(interfaces=choose(("lo",))[0])
    assert isinstance(settings, Core)
    for schema in probe.schemas(settings):
        assert schema.doc
        labels = {f.name for f in schema.fields if f.kind.value in ("label", "name")}
        assert labels <= schema.names.keys()
    names = {count.name for count in probe.rows(settings).counts}
    assert {count.part_of for count in probe.rows(settings).counts} <= names | {""}
    assert "seen_packets" in names
