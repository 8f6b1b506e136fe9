# SPDX-License-Identifier: Apache-2.0
"""The whole program with a spool, and everything that fails around it: the sum is exact.

seen = delivered + Σ lost by name, where seen is the kernel's own count of the interface, and
delivered is what the collector has, each series and time once.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import tap
from collector import Collector, Load, account, check, seen
from disk import Disk
from hole import black_hole
from traffic import Wire
from waiting import wait_for

from lab.namespace import veth

if TYPE_CHECKING:
    from collections.abc import Iterator

OUT = ("198.51.100.1", "198.51.100.2")
"""Of a second link, for what is sent and not measured."""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's."""
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two namespaces; little of what is sent fits into the kernel's buffers."""
    with Wire() as new:
        for namespace in (new.sender, new.receiver):
            with namespace.entered():
                for name in ("tcp_rmem", "tcp_wmem"):
                    Path(f"/proc/sys/net/ipv4/{name}").write_text("4096 16384 65536")
        yield new


@pytest.fixture
def collector(wire: Wire) -> Iterator[Collector]:
    """A collector that does not run yet."""
    with Collector(wire.receiver) as new:
        yield new


def running(wire: Wire, collector: Collector, spool: Path, *options: str) -> tap.Tap:
    """The program, ten intervals a second; its accounts come to a collector that never fails."""
    sinks = ("--sink", collector.url, "--spool", str(spool))
    return tap.Tap(wire.receiver, "-t", "0.1", "-i", "wire0", *sinks, *options)


def until_delivered(tapped: tap.Tap, wire: Wire, collector: Collector) -> None:
    """Wait until everything that was seen has found its end."""
    wait_for(
        lambda: (
            (now := account(tapped, collector.url))["packets_delivered"] + now["packets_lost"]
            == seen(wire)
        )
    )


def last_account(tapped: tap.Tap, collector: Collector) -> dict[str, int]:
    """End the program; its last account of the collector."""
    records = tapped.stop()
    last = [record for record in records if record.get("sink") == collector.url][-1]
    check(last)
    return last


def test_killed_ten_times(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """A collector that is not there at the start, and then killed ten times, gets every packet."""
    with running(wire, collector, tmp_path) as tapped:
        with Load(wire, flows=40):
            wait_for(lambda: account(tapped, collector.url)["packets_spooled"])
            for kills in range(10):
                collector.start()
                wait_for(
                    lambda kills=kills: (
                        len(collector.connections) > kills
                        and b"\n" in collector.connections[-1].data
                    )
                )
                collector.kill()
            collector.start()
        until_delivered(tapped, wire, collector)
        last = last_account(tapped, collector)
    wait_for(lambda: collector.packets() == seen(wire))
    assert last["packets_delivered"] == seen(wire)
    assert (last["records_lost"], last["records_spooled"]) == (0, 0)
    assert last["records_delivered"] >= len(collector.flows())


def test_stopped_collector(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """Of what a collector does not read, the oldest goes to disk before memory is full."""
    collector.start()
    with running(wire, collector, tmp_path, "--max-memory", "1") as tapped:
        with Load(wire, flows=150):
            wait_for(lambda: account(tapped, collector.url)["packets_delivered"])
            collector.signal(signal.SIGSTOP)
            wait_for(lambda: account(tapped, collector.url).get("records_spooled", 0) > 1000)
            stalled = account(tapped, collector.url)
            collector.signal(signal.SIGCONT)
        until_delivered(tapped, wire, collector)
        last = last_account(tapped, collector)
    assert stalled["up"] == 1
    assert stalled["oldest_age_ms"] > 100
    wait_for(lambda: collector.packets() == seen(wire))
    assert (last["records_lost"], last["records_spooled"]) == (0, 0)
    assert list(tmp_path.glob("*/*.segment")) == []


def test_black_hole(wire: Wire, tmp_path: Path) -> None:
    """Packets to the collector vanish for a while: nothing is lost, nothing has to be told."""
    veth(wire.sender, "out0", wire.receiver, "out0", ipv4=OUT)
    with Collector(wire.sender, OUT[0]) as collector:
        collector.start()
        with running(wire, collector, tmp_path, "--max-memory", "1") as tapped:
            with Load(wire, flows=150):
                wait_for(lambda: account(tapped, collector.url)["packets_delivered"])
                with black_hole(wire.sender, "out0"):
                    wait_for(
                        lambda: account(tapped, collector.url).get("records_spooled", 0) > 1000
                    )
            until_delivered(tapped, wire, collector)
            last = last_account(tapped, collector)
        wait_for(lambda: collector.packets() == seen(wire))
    assert (last["records_lost"], last["records_spooled"]) == (0, 0)


def test_full_disk(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """When disk and memory are full, the oldest in memory goes, counted; measuring goes on."""
    with Disk(tmp_path, 1 << 20) as disk:
        with running(wire, collector, tmp_path, "--max-memory", "1") as tapped:
            with Load(wire, flows=150):
                wait_for(lambda: account(tapped, collector.url).get("records_spooled", 0) > 100)
                disk.fill()
                wait_for(lambda: account(tapped, collector.url)["packets_lost"])
                disk.make_room()
                collector.start()
            until_delivered(tapped, wire, collector)
            last = last_account(tapped, collector)
        wait_for(lambda: collector.packets() == last["packets_delivered"])
    assert any("Cannot spool (No space left on device)" in line for line in tapped.said)
    assert last["packets_delivered"] + last["packets_lost"] == seen(wire)
    assert last["records_lost"] == last["lost_memory"] > 0


def test_bound_of_the_spool(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """Beyond --spool-size the oldest goes, counted."""
    with running(wire, collector, tmp_path, "--spool-size", "1") as tapped:
        with Load(wire, flows=150):
            wait_for(lambda: account(tapped, collector.url)["packets_lost"])
        full = account(tapped, collector.url)
        collector.start()
        until_delivered(tapped, wire, collector)
        last = last_account(tapped, collector)
    wait_for(lambda: collector.packets() == last["packets_delivered"])
    assert last["packets_delivered"] + last["packets_lost"] == seen(wire)
    assert last["records_lost"] == last["lost_spool_full"] > 0
    assert full["bytes_spooled"] <= 1 << 20


def test_end_and_start_again(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """What nobody took until the end is in the spool; the next run sends it, and says so."""
    with running(wire, collector, tmp_path) as tapped:
        with Load(wire, flows=20):
            time.sleep(0.5)
        first = last_account(tapped, collector)
    packets = seen(wire)
    assert (first["packets_spooled"], first["packets_lost"]) == (packets, 0)
    assert any(f" records spooled ({packets} packets)" in line for line in tapped.said)

    collector.start()
    with running(wire, collector, tmp_path) as tapped:
        wait_for(lambda: account(tapped, collector.url)["packets_delivered"] == packets)
        second = last_account(tapped, collector)
    assert second["records_recovered"] == first["records_spooled"]
    assert second["packets_recovered"] == packets
    assert (second["records_spooled"], second["records_handed"]) == (0, 0)
    wait_for(lambda: collector.packets() == packets)


def test_own_sigkill(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """Killed, the program loses what is in the kernel's table and in memory, nothing on disk."""
    with running(wire, collector, tmp_path) as tapped:
        with Load(wire, flows=20):
            time.sleep(0.5)
        packets = seen(wire)
        wait_for(lambda: account(tapped, collector.url)["packets_spooled"] == packets)
        killed = account(tapped, collector.url)
        tapped.process.kill()

    with running(wire, collector, tmp_path) as tapped:
        wait_for(lambda: account(tapped, collector.url).get("packets_recovered") == packets)
        assert account(tapped, collector.url)["records_recovered"] == killed["records_spooled"]
        with Load(wire, flows=20):
            wait_for(lambda: account(tapped, collector.url)["packets_spooled"] > 2 * packets)
            tapped.process.kill()
            tapped.process.wait()
        at_least = account(tapped, collector.url)["packets_spooled"]

    collector.start()
    with running(wire, collector, tmp_path) as tapped:
        wait_for(
            lambda: (
                (now := account(tapped, collector.url)).get("packets_recovered")
                == now["packets_delivered"]
                != 0
            )
        )
        last = last_account(tapped, collector)
    wait_for(lambda: collector.packets() == last["packets_recovered"])
    assert at_least <= last["packets_recovered"] <= seen(wire)
    assert last["packets_lost"] == 0


def test_two_runs_do_not_share(wire: Wire, collector: Collector, tmp_path: Path) -> None:
    """A second program with the same spool and collector is refused, in one sentence."""
    with running(wire, collector, tmp_path):
        refused = wire.receiver.run(
            *(str(tap.COMMAND), "-i", "wire0", "--spool", str(tmp_path), "-f", "json"),
            *("--sink", collector.url),
            check=False,
        )
    assert refused.returncode == 1
    assert "Another process has the spool" in refused.stderr
    assert "Traceback" not in refused.stderr
