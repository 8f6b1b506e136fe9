# SPDX-License-Identifier: Apache-2.0
"""What measuring receive latency costs an event, by the kernel's own statistics of its programs."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab.loading import load
from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Holder
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.latency import LATENCY, program
from trapstream_vtap.probes.latency.settings import STAGES, LatencySettings

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "(k) Receive latency: an event above an empty program at the same hook"
PACKETS = 60_000
PORT = 7001
_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
_EMPTY = """
#include <uapi/linux/bpf.h>
struct arguments;
int returns_0(struct arguments *ctx) { return 0; }
int returns_1(struct arguments *ctx) { return 1; }
int lets_through(struct __sk_buff *ctx) { return 1; }
"""


def main() -> None:
    """Print the table."""
    print("| stage | hook | an event | above an empty program there |")
    print("|---|---|---|---|")
    with Namespace() as sender, Namespace() as receiver:
        veth(sender, "bench0", receiver, "bench0", ipv4=("192.0.2.1", "192.0.2.2"))
        for by in (None, "dst_port"):
            with receiver.entered():
                there, _ = choose(("bench0",))
                chosen = LatencySettings(
                    interfaces=there,
                    selected=("bench0",),
                    probes=("latency",),
                    latency_stages=STAGES,
                    latency_by=by,
                )
                rows = _measured(chosen, sender, receiver)
            for name, kind, ours, empty in rows:
                more = f", by {by}" if by else ""
                print(f"| {name}{more} | {kind} | {ours:.0f} ns | {ours - empty:.0f} ns |")
    _forwarding()


def _forwarding() -> None:
    """A packet that is forwarded between two veth pairs, in the sender's own time."""
    print("\n| a packet forwarded, with stages | all that the kernel does for it | more |")
    print("|---|---|---|")
    with Namespace() as sender, Namespace() as router, Namespace() as receiver:
        veth(sender, "bench0", router, "bench0", ipv4=("192.0.2.1", "192.0.2.2"))
        veth(router, "bench1", receiver, "bench1", ipv4=("198.51.100.1", "198.51.100.2"))
        sender.run("ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
        receiver.run("ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.1")
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        plain = 0.0
        for stages in ((), ("stack",), ("ip", "rules"), ("socket",)):
            holder = Holder()
            if stages:
                with router.entered():
                    there, _ = choose(("bench0",))
                    chosen = LatencySettings(
                        interfaces=there, probes=("latency",), latency_stages=stages
                    )
                    wanted = program.to_load(chosen)
                    objects = load(wanted.source)
                    running = LATENCY.load(chosen, objects, SystemClock(), {})
                    holder.finish(holder.begin(wanted.places, objects.programs))
            each = min(_forwarded(sender, receiver) for _ in range(5))
            plain = plain or each
            name = ", ".join(stages) or "none"
            print(f"| {name} | {each:.0f} ns | {each - plain:.0f} ns |")
            holder.detach()
            if stages:
                running.close()


def _forwarded(sender: Namespace, receiver: Namespace) -> float:
    with (
        receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        taking.bind(("198.51.100.2", PORT))
        sending.connect(("198.51.100.2", PORT))
        begin = time.perf_counter_ns()
        for _ in range(PACKETS):
            sending.send(b"x" * 100)
        return (time.perf_counter_ns() - begin) / PACKETS


def _measured(
    chosen: LatencySettings, sender: Namespace, receiver: Namespace
) -> list[tuple[str, str, float, float]]:
    wanted = program.to_load(chosen)
    objects = load(wanted.source)
    running = LATENCY.load(chosen, objects, SystemClock(), {})
    running.take_over(None)
    functions = {"NETFILTER": "returns_1", "CGROUP_SKB": "lets_through"}
    empties = tuple(
        Program(f"e_{p.name[5:]}", p.kind, functions.get(p.kind, "returns_0"), traced=p.traced)
        for p in wanted.source.programs
    )
    empty = load(Source(_EMPTY, empties, ()))
    places = []
    for place in wanted.places:
        moved = {"program": f"e_{place.program[5:]}"}
        if hasattr(place, "priority"):
            moved["priority"] = place.priority + (3 if place.priority < 0 else -3)
        places.append(replace(place, **moved))
    beside, holder = Holder(), Holder()
    holder.finish(holder.begin(wanted.places, objects.programs))
    beside.finish(beside.begin(places, empty.programs))
    with _statistics():
        _send(sender, receiver)
    rows = []
    for each in wanted.source.programs:
        ours = _each_run(objects.programs[each.name])
        others = _each_run(empty.programs[f"e_{each.name[5:]}"])
        if ours and others:
            rows.append((each.name.removeprefix("vtap_"), each.kind, ours, others))
    holder.detach()
    beside.detach()
    running.close()
    empty.close()
    return rows


@contextlib.contextmanager
def _statistics() -> Iterator[None]:
    before = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(before)


def _each_run(descriptor: int) -> float:
    """ns; 0 where there was none."""
    time, runs = kernel.run_statistics(descriptor)
    return time / runs if runs else 0.0


def _send(sender: Namespace, receiver: Namespace) -> None:
    """Datagrams, and a connection's bytes, which somebody reads."""
    with (
        receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        taking.bind(("192.0.2.2", PORT))
        sending.connect(("192.0.2.2", PORT))
        for _ in range(PACKETS):
            sending.send(b"x" * 100)
            taking.recv(200)
    with receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("192.0.2.2", PORT))
        listener.listen()
        with sender.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            stream.connect(("192.0.2.2", PORT))
            with listener.accept()[0] as accepted:
                for _ in range(PACKETS // 4):
                    stream.send(b"x" * 100)
                    accepted.recv(200)


if __name__ == "__main__":
    main()
