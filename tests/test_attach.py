# SPDX-License-Identifier: Apache-2.0
"""Attaching and letting go: both ways, beside others, and after SIGKILL."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tap
from attached import Attached, attached, exchange, filters, settings
from pyroute2 import IPRoute
from traffic import Wire

from lab.loading import load
from trapstream_vtap.bpf import attach, kernel
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.errors import RunError
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.flows.settings import DIRECTIONS, FlowSettings
from trapstream_vtap.settings.address import parse

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads."""
    with Wire() as wire:
        yield wire


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.6 answers EINVAL to a tcx link."""

    def refuse(*_: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(kernel, "link_tcx", refuse)


def probe(wire: Wire) -> Attached:
    """A probe on both directions of the receiver's end."""
    with wire.receiver.entered():
        return Attached(settings(directions=DIRECTIONS["both"])).attach()


@pytest.mark.usefixtures("old_kernel")
def test_clsact(wire: Wire) -> None:
    """Without tcx, clsact filters count both directions, and all of it goes at the end."""
    measuring = probe(wire)
    assert f"vtap-stream:{os.getpid()}" in filters(wire.receiver)
    exchange(wire, 20)
    with wire.receiver.entered():
        measuring.detach()
    (counts,) = measuring.counters().values()
    assert counts["seen_packets"] == counts["counted_packets"] == 40
    assert filters(wire.receiver) == ""


def take_over(wire: Wire) -> None:
    """One probe after the other on the same interface."""
    first = probe(wire)
    second = Attached(first._settings)
    exchange(wire, 20)
    with wire.receiver.entered():
        second.take_over(first)
    exchange(wire, 30)
    with wire.receiver.entered():
        second.detach()
    exchange(wire, 5)
    for measuring, expected in ((first, 40), (second, 60)):
        (counts,) = measuring.counters().values()
        assert counts["seen_packets"] == counts["counted_packets"] == expected


@pytest.mark.usefixtures("old_kernel")
def test_clsact_take_over(wire: Wire) -> None:
    """Without tcx, one program takes another's place: each packet is seen by one of them."""
    take_over(wire)
    assert filters(wire.receiver) == ""


def test_tcx_take_over(wire: Wire) -> None:
    """With tcx, one program takes another's place: each packet is seen by one of them."""
    take_over(wire)
    assert attached(wire.receiver, "wire0") == 0


NOTHING = Source(
    "#include <uapi/linux/bpf.h>\nint nothing(struct __sk_buff *skb)\n{\n\treturn -1;\n}\n",
    (Program("nothing", "SCHED_CLS"),),
    (),
)


def test_take_over_refused(wire: Wire) -> None:
    """Where one place cannot be had, every other has its old program back."""
    first = probe(wire)
    (there,) = first._settings.interfaces
    with wire.receiver.entered():
        (loopback,) = choose(("lo",))[0]
    second = Attached(replace(first._settings, interfaces=(there, loopback), promiscuous=True))
    with wire.receiver.entered():
        crowd, taken = [load(NOTHING)], []
        with contextlib.suppress(RunError):  # there is no room for more
            while True:
                program = crowd[-1].programs["nothing"]
                taken.append(attach.attach(program, loopback, attach.Direction.INGRESS))
                crowd.append(load(NOTHING))
        with pytest.raises(RunError, match="lo: Numerical result out of range"):
            second.take_over(first)
        for each in taken:
            each.detach()
    for one in crowd:
        one.close()
    assert "promiscuity 0 " in wire.receiver.run("ip", "-d", "link", "show", "wire0").stdout
    exchange(wire, 20)
    with wire.receiver.entered():
        first.detach()
    counts = [measuring.counters()[there.index] for measuring in (first, second)]
    assert [count["seen_packets"] for count in counts] == [40, 0]
    assert attached(wire.receiver, "wire0") == 0


@pytest.mark.usefixtures("old_kernel")
def test_clsact_leaves_others_alone(wire: Wire) -> None:
    """A clsact that somebody else has made stays."""
    wire.receiver.run("tc", "qdisc", "add", "dev", "wire0", "clsact")
    before = filters(wire.receiver)
    measuring = probe(wire)
    with wire.receiver.entered():
        measuring.detach()
    assert filters(wire.receiver) == before


KILLED = f"""
import errno, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent / "support")!r})
from trapstream_vtap.bpf import kernel
def refuse(*_):
    raise OSError(errno.EINVAL, "no tcx")
kernel.link_tcx = refuse
from trapstream_vtap.probes.flows.settings import *
from trapstream_vtap.interfaces import choose
from attached import Attached
from trapstream_vtap.sinks import parse
settings = FlowSettings(sinks=(parse("tcp://127.0.0.1:9"),), interfaces=choose(("wire0",))[0],
                    directions=DIRECTIONS["both"])
Attached(settings).attach()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("old_kernel")
def test_clsact_after_sigkill(wire: Wire) -> None:
    """Filters that a killed process has left are removed by the next one."""
    killed = wire.receiver.run(sys.executable, "-c", KILLED, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "vtap-stream:" in filters(wire.receiver)
    measuring = probe(wire)
    exchange(wire, 5)
    with wire.receiver.entered():
        measuring.detach()
    assert filters(wire.receiver) == ""
    (counts,) = measuring.counters().values()
    assert counts["seen_packets"] == 10


def test_tcx_after_sigkill(wire: Wire) -> None:
    """With tcx links nothing is left of a process that was killed."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--direction", "both") as tapped:
        assert attached(wire.receiver, "wire0") == 2
        tapped.process.kill()
        tapped.process.wait()
    deadline = time.monotonic() + tap.DEADLINE
    while attached(wire.receiver, "wire0"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_at_a_time(wire: Wire) -> None:
    """Two instances on one interface do not see each other: both count everything."""
    with (
        tap.Tap(wire.receiver, "-i", "wire0") as first,
        tap.Tap(wire.receiver, "-i", "wire0", "-t", "0.2") as second,
    ):
        exchange(wire, 30)
        for tapped in (first, second):
            account = tap.agent(tapped.stop(), "wire0")
            assert account["seen_packets"] == account["packets_handed"] == 30


def test_gone_interface(wire: Wire) -> None:
    """An interface that is gone when attaching is passed over; it may come back."""
    with wire.receiver.entered():
        chosen = choose(("wire0", "lo"))[0]
        wire.receiver.run("ip", "link", "del", "wire0")
        settings = FlowSettings(sinks=(parse("tcp://127.0.0.1:9"),), interfaces=chosen)
        measuring = Attached(settings)
        measuring.attach()
        assert attached(wire.receiver, "lo") == 1
        measuring.detach()
    assert attached(wire.receiver, "lo") == 0


ACCEPTING = Source(
    "#include <uapi/linux/bpf.h>\nint accept_all(struct __sk_buff *skb)\n{\n\treturn 0;\n}\n",
    (Program("accept_all", "SCHED_CLS"),),
    (),
)
"""A program after which the kernel runs no other on that packet, as Cilium's do."""


def hold_by_clsact(wire: Wire, program: int) -> None:
    """PROGRAM as somebody else's filter on both directions, with the first of all preferences."""
    with wire.receiver.entered(), IPRoute() as route:
        (index,) = route.link_lookup(ifname="wire0")
        route.tc("add", "clsact", index)
        for parent in ("ffff:fff2", "ffff:fff3"):
            options = {"fd": program, "name": "somebody", "parent": parent, "prio": 1}
            route.tc("add-filter", "bpf", index, **options, direct_action=True, classid=1)


@pytest.mark.parametrize("way", ["tcx", "clsact"])
def test_ahead_of_one_that_accepts(wire: Wire, way: str, request: pytest.FixtureRequest) -> None:
    """Where another program was there first, and accepts every packet, all are counted."""
    accepting = load(ACCEPTING)
    program = accepting.programs["accept_all"]
    links: list[int] = []
    if way == "clsact":
        hold_by_clsact(wire, program)
        request.getfixturevalue("old_kernel")
    else:
        with wire.receiver.entered():
            index = socket.if_nametoindex("wire0")
            kinds = (kernel.BPF_TCX_INGRESS, kernel.BPF_TCX_EGRESS)
            links += [kernel.link_tcx(program, index, kind) for kind in kinds]
    measuring = probe(wire)
    assert measuring.notes == []
    exchange(wire, 20)
    (counts,) = measuring.counters().values()
    assert counts["seen_packets"] == 40
    measuring.detach()
    measuring.close()
    for link in links:
        os.close(link)
    accepting.close()


def test_somebody_comes_ahead(wire: Wire) -> None:
    """A program that is put ahead of ours is said once, and once more when it has come back."""
    accepting = load(ACCEPTING)
    with wire.receiver.entered():
        ours = Attached(settings()).attach()
        holder = ours._holder
        assert ours.notes == []
        index = socket.if_nametoindex("wire0")
        for _ in range(2):
            link = kernel.link_tcx(accepting.programs["accept_all"], index, kernel.BPF_TCX_INGRESS)
            (said,) = holder.ahead(holder.programs)
            assert said.startswith("Another program sees ingress of wire0 ahead of ours")
            assert holder.ahead(holder.programs) == []
            os.close(link)
            assert holder.ahead(holder.programs) == []
        holder.detach()
    ours.close()
    accepting.close()
