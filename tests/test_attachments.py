# SPDX-License-Identifier: Apache-2.0
"""Each kind of attachment: a program sees every packet once, and another takes its place."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from traffic import V4, Wire

from lab.loading import load
from trapstream_vtap.bpf import btf, kernel
from trapstream_vtap.bpf.attach.cgroup import Cgroup
from trapstream_vtap.bpf.attach.clsact import Clsact
from trapstream_vtap.bpf.attach.netfilter import Netfilter
from trapstream_vtap.bpf.attach.packet_socket import PacketSocket
from trapstream_vtap.bpf.attach.place import Direction, NetfilterPlace
from trapstream_vtap.bpf.attach.raw_tracepoint import RawTracepoint
from trapstream_vtap.bpf.attach.tcx import Tcx
from trapstream_vtap.bpf.attach.tracing import Tracing
from trapstream_vtap.bpf.attach.xdp import Xdp
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.errors import RunError
from trapstream_vtap.interfaces import Interface, interfaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.bpf.attach.attachment import Attachment
    from trapstream_vtap.bpf.code import Objects

GROUPS = next(
    line.split()[1]
    for line in Path("/proc/self/mounts").read_text().splitlines()
    if line.split()[2] == "cgroup2"
)
COUNTING = """
#include <uapi/linux/bpf.h>
BPF_ARRAY(runs, u64, 2);
static int count(int which)
{
	u64 *found = runs.lookup(&which);
	if (found)
		__sync_fetch_and_add(found, 1);
	return RESULT;
}
int first(CONTEXT *ctx)
{
	return count(0);
}
int second(CONTEXT *ctx)
{
	return count(1);
}
"""
# by kind: the type of its programs, their context, what they return, what makes the attachment
KINDS: dict[str, tuple[str, str, int, Callable[[int, Interface], Attachment]]] = {
    "tcx": ("SCHED_CLS", "struct __sk_buff", -1, lambda p, i: Tcx(p, i, Direction.INGRESS)),
    "clsact": ("SCHED_CLS", "struct __sk_buff", -1, lambda p, i: Clsact(p, i, Direction.INGRESS)),
    "xdp": ("XDP", "struct xdp_md", 2, lambda p, i: Xdp(p, i, kernel.XDP_FLAGS_DRV_MODE)),
    "packet socket": (
        *("SOCKET_FILTER", "struct __sk_buff", 0),
        lambda p, i: PacketSocket(p, i, (Direction.INGRESS,)),
    ),
    "raw tracepoint": (
        *("RAW_TRACEPOINT", "struct bpf_raw_tracepoint_args", 0),
        lambda p, _: RawTracepoint(p, "netif_receive_skb"),
    ),
    "tracing": ("TRACEPOINT", "void", 0, lambda p, _: Tracing(p, "netif_receive_skb")),
    "netfilter": (
        *("NETFILTER", "void", 1),  # NF_ACCEPT
        lambda p, _: Netfilter(p, NetfilterPlace("counting", 2, 0, -1)),  # IPv4, PRE_ROUTING
    ),
    "cgroup": ("CGROUP_SKB", "struct __sk_buff", 1, lambda p, _: Cgroup(p, GROUPS)),
}
OPEN = Path("/proc/self/fd")
TRACED = "netif_receive_skb"
PORT = 7001
# some see what is sent elsewhere, too: they are tracepoints, or of the group of all
SEES_MORE = ("raw tracepoint", "tracing", "cgroup")


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Nothing else is measured on it."""
    with Wire() as wire:
        wire.settle()
        yield wire


def runs(objects: Objects) -> list[int]:
    """How often each of the two programs has run."""
    kernel.wait_for_programs()
    read = (kernel.read_element(objects.maps["runs"], which, 8) for which in range(2))
    return [int.from_bytes(value, "little") for value in read]


def send(wire: Wire, count: int) -> None:
    """Frames that come in at the receiver, and datagrams for a socket there."""
    with (
        wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
        wire.sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        taking.bind((V4[1], PORT))
        for number in range(count):
            datagrams.sendto(bytes(number), (V4[1], PORT))
        wire.settle()


def programs(type_: str) -> tuple[Program, ...]:
    """The two of COUNTING, of that type."""
    traced = btf.read().traced(TRACED, tracepoint=True) if type_ == "TRACEPOINT" else 0
    return tuple(Program(name, type_, traced=traced) for name in ("first", "second"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_has_its_place_until_another_takes_it(wire: Wire, kind: str) -> None:
    """It sees each packet once; then another does, and at last nobody."""
    type_, context, result, attach = KINDS[kind]
    text = COUNTING.replace("CONTEXT", context).replace("RESULT", str(result))
    objects = load(Source(text, programs(type_), ("runs",)))
    exact = kind not in SEES_MORE
    with wire.receiver.entered():
        there = attach(objects.programs["first"], interfaces()["wire0"])
        send(wire, 50)
        first = runs(objects)
        there.replace(objects.programs["second"])
        there.settle()
        assert there.is_first([*objects.programs.values()])
        before = runs(objects)
        send(wire, 70)
        second = runs(objects)
        there.detach()
        kernel.wait_for_programs()
        gone = runs(objects)
        send(wire, 20)
    objects_left = runs(objects)
    objects.close()
    assert first[0] == 50 if exact else first[0] >= 50
    assert first[1] == 0
    assert second[1] - before[1] == 70 if exact else second[1] - before[1] >= 70
    assert second[0] == before[0]
    assert objects_left == gone


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_was_put_back_can_be_replaced_again(wire: Wire, kind: str) -> None:
    """As when another place has refused, and later has not."""
    type_, context, result, attach = KINDS[kind]
    text = COUNTING.replace("CONTEXT", context).replace("RESULT", str(result))
    objects = load(Source(text, programs(type_), ("runs",)))
    first, second = (objects.programs[name] for name in ("first", "second"))
    with wire.receiver.entered():
        there = attach(first, interfaces()["wire0"])
        for program in (second, first, second, first, second):
            there.replace(program)
        there.settle()
        before = runs(objects)
        send(wire, 30)
        after = runs(objects)
        there.detach()
    objects.close()
    assert after[0] == before[0]
    assert after[1] - before[1] == 30 if kind not in SEES_MORE else after[1] - before[1] >= 30


@pytest.mark.parametrize("kind", ["xdp", "raw tracepoint"])
def test_what_the_kernel_refuses_is_said(wire: Wire, kind: str) -> None:
    """An interface whose place is taken, a tracepoint that is none; no descriptor stays open."""
    type_, context, result, attach = KINDS[kind]
    text = COUNTING.replace("CONTEXT", context).replace("RESULT", str(result))
    objects = load(Source(text, programs(type_), ("runs",)))
    program = objects.programs["first"]
    with wire.receiver.entered():
        there = attach(program, interfaces()["wire0"])
        again = {
            "xdp": lambda: attach(program, interfaces()["wire0"]),
            "raw tracepoint": lambda: RawTracepoint(program, "no_such_tracepoint"),
        }[kind]
        before = len([*OPEN.iterdir()])
        with pytest.raises((RunError, OSError)):
            again()
        assert len([*OPEN.iterdir()]) == before
        there.detach()
    objects.close()
