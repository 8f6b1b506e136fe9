# SPDX-License-Identifier: Apache-2.0
"""Storms of drops: whether every packet is told, and what the exporter takes of a processor."""

from __future__ import annotations

import itertools
import multiprocessing
import re
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.delivery import processor
from lab.command import VtapStream
from lab.namespace import Namespace, veth

TITLE = "(h) Storms of drops"
SECONDS = 10
NOBODY = "02:00:00:00:00:99"
SEGMENTS, SIZE = 60, 18  # of one call of the sender
UDP_SEGMENT = 103  # include/uapi/linux/udp.h
COUNT = re.compile(rb"^DroppedPackets,.*? count=(\d+)i,", re.MULTILINE)
KINDS = ("event", "aggregate", "suppressed")

ROWS = (
    ("none", 0, 1, 0),
    ("8 flows", 200_000, 1, 8),
    ("60,000 flows", 200_000, 1, 60_000),
    ("8 flows, two senders, unpaced", None, 2, 8),
    ("60,000 flows, two senders, unpaced", None, 2, 60_000),
)


def main() -> None:
    """Print the table."""
    print(
        "| storm | drops a second | of one core | drops by the kernel's count | told one by one "
        "| aggregated | by cause | missed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, rate, senders, flows in ROWS:
        print(f"| {name} | {_run(rate, senders, flows)} |", flush=True)
    print(f"\nUnpaced, without vtap-stream: {_unmeasured():,.0f} a second.")


def _unmeasured() -> float:
    """Drops a second of the two unpaced senders when nobody looks."""
    with ExitStack() as stack:
        sender, receiver = _namespaces(stack)
        began = time.monotonic()
        _storm(sender, None, 2, 8)
        return receiver.counters("storm0").rx_packets / (time.monotonic() - began)


def _namespaces(stack: ExitStack) -> tuple[Namespace, Namespace]:
    """Where packets come from, and where they are dropped as early as the kernel does by itself."""
    sender, receiver = (stack.enter_context(Namespace()) for _ in range(2))
    veth(sender, "storm0", receiver, "storm0", ipv4=("192.0.2.1", "192.0.2.2"))
    sender.run("ip", "neigh", "replace", "192.0.2.2", "lladdr", NOBODY, "dev", "storm0")
    return sender, receiver


def _storm(sender: Namespace, rate: int | None, senders: int, flows: int) -> None:
    """So many senders, each with a process, for their time."""
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_send, args=(sender, rate, flows, number)
        )
        for number in range(senders)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _run(rate: int | None, senders: int, flows: int) -> str:
    with ExitStack() as stack:
        sender, receiver = _namespaces(stack)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ("--probe", "drops", "-i", "storm0", "--drop-reasons", "OTHERHOST")
        path = directory / "drops"
        command = stack.enter_context(
            VtapStream(receiver, *options, "--user", "root", "--sink", f"file:{path}")
        )
        command.wait_until_measuring()
        used, began = processor(command.pid), time.monotonic()
        if flows:
            _storm(sender, rate, senders, flows)
        else:
            time.sleep(SECONDS)
        elapsed = time.monotonic() - began
        share = (processor(command.pid) - used) / elapsed
        command.stop()
        dropped = receiver.counters("storm0").rx_packets
        missed = re.search(r"(\d+) missed", command.said)
        told = dict.fromkeys(KINDS, 0)
        for line in path.read_bytes().splitlines():
            if found := COUNT.match(line):
                kind = next(kind for kind in KINDS if f'recordKind="{kind}"'.encode() in line)
                told[kind] += int(found[1])
        lost = int(missed[1]) if missed else 0
        if not dropped - lost <= sum(told.values()) <= dropped:
            raise AssertionError(f"{dropped} dropped, {told} told, {lost} missed")
        counts = " | ".join(f"{told[kind]:,}" for kind in KINDS)
        return f"{dropped / elapsed:,.0f} | {share:.1%} | {dropped:,} | {counts} | {lost}"


def _send(namespace: Namespace, rate: int | None, flows: int, number: int) -> None:
    """Packets to so many ports in turn; a process of its own."""
    with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SIZE)
        sending.bind(("192.0.2.1", 4000 + number))
        data = bytes(SIZE * SEGMENTS)
        begun = time.monotonic()
        for call in itertools.count():
            passed = time.monotonic() - begun
            if passed >= SECONDS:
                return
            if rate and call * SEGMENTS > passed * rate:
                time.sleep(0.001)
            sending.sendto(data, ("192.0.2.2", 5000 + call % flows))
