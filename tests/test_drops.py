# SPDX-License-Identifier: Apache-2.0
"""Packets that the kernel drops for known reasons, and what is told of each."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dropcases import (
    A4,
    A6,
    B4,
    B6,
    CASES,
    FILTERED,
    OPEN,
    SMALL,
    TO4,
    build,
    by_mac,
    check,
    mac_of,
)
from dropevents import mac
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from tap import Tap
from tcdrop import dropping_by_tc
from waiting import wait_for

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = Raw(b"x" * 1000)


@dataclass(frozen=True)
class Run:
    """What was sent, and what was told of it."""

    frames: dict[str, bytes]
    told: dict[str, list[dict[str, Any]]]  # events by case
    full: tuple[int, list[dict[str, Any]]]  # packets that the socket had no room for, and told
    leaving: tuple[int, list[dict[str, Any]]]  # likewise packets that the queue had no room for
    account: dict[str, Any]


@contextlib.contextmanager
def provoking(b: Namespace) -> Iterator[None]:
    """In B, what drops packets."""
    with b.entered():
        for setting, value in (("ip_forward", "1"), ("conf/in0/rp_filter", "1")):
            Path("/proc/sys/net/ipv4", setting).write_text(value)
    b.run("ip", "route", "add", "198.51.100.0/24", "dev", "in0")
    b.run(
        "nft",
        "add table inet t; add chain inet t i { type filter hook input priority 0; }; "
        f"add rule inet t i udp dport {FILTERED} drop",
    )
    with dropping_by_tc(b, "in0"):
        yield


def without_room(namespace: Namespace) -> int:
    """How many packets the kernel says that the small socket had no room for."""
    with namespace.entered():
        rows = Path("/proc/thread-self/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return next(int(row.split()[-1]) for row in rows if f":{SMALL:04X} " in row)


@pytest.fixture(scope="module")
def run() -> Run:
    """All cases, one after the other, under one vtap-stream."""
    with Namespace() as a, Namespace() as b, contextlib.ExitStack() as stack:
        veth(a, "out0", b, "in0", ipv4=(A4, B4), ipv6=(A6, B6))
        stack.enter_context(provoking(b))
        to, own = mac(b, "in0"), mac(a, "out0")
        frames = build(to)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            server = stack.enter_context(b.socket(socket.AF_INET, kind))
            server.bind((B4, OPEN))
            if kind == socket.SOCK_STREAM:
                server.listen()
        small = stack.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        small.bind((B4, SMALL))
        small.settimeout(0)
        tap = stack.enter_context(Tap(b, "--probe", "drops", "-i", "in0"))
        with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
            sending.bind(("out0", 0))
            for name, frame in frames.items():
                for _ in range(CASES[name].count):
                    sending.send(frame)
            full = bytes(Ether(src=own, dst=to) / TO4 / UDP(sport=4400, dport=SMALL) / LONG)
            for _ in range(40):
                sending.send(full)
        wait_for(lambda: without_room(b) > 0)  # only now is there more room
        received = 0
        while received + without_room(b) < 40:
            with contextlib.suppress(BlockingIOError):
                received += bool(small.recv(2000))
        lost = without_room(b)
        leaving = stack.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
        leaving.bind((B4, 4500))
        b.run("tc", "qdisc", "replace", "dev", "in0", "root", "bfifo", "limit", "100")
        for _ in range(7):
            with contextlib.suppress(OSError):  # ENOBUFS says it, too
                leaving.sendto(b"x" * 500, (A4, 4600))
        wanted = sum(case.count for case in CASES.values()) + lost + 7
        with contextlib.suppress(AssertionError):  # the tests say what is missing
            wait_for(lambda: tap.payload.count(b'"recordKind":"event"') >= wanted, 20)
        records = tap.stop()
    found = by_mac(records)
    accounts = [r for r in records if r["name"] == "vtap_agent" and r.get("probe") == "drops"]
    return Run(
        frames,
        {name: found[mac_of(number)] for number, name in enumerate(CASES)},
        (lost, found[own]),
        (7, found[to]),
        accounts[-1],
    )


@pytest.mark.parametrize("name", CASES)
def test_reason(run: Run, name: str) -> None:
    """As many events as packets were sent, with the reason, and all that the packet says."""
    case = CASES[name]
    check(run.told[name], case.reason, run.frames[name], case.count)


def test_full_socket(run: Run) -> None:
    """What a socket has no room for is told, packet by packet, at the interface it came in by."""
    count, events = run.full
    assert count > 0
    assert [e["trapName"] for e in events] == ["SOCKET_RCVBUFF"] * count
    assert {e["packet"]["TRANSPORT"]["dstPort"] for e in events} == {SMALL}
    assert {e["ingressPort"] for e in events} == {"in0"}
    assert {e["bytes"] for e in events} == {14 + 20 + 8 + 1000}


def test_full_queue(run: Run) -> None:
    """What does not leave is told, too, at the interface that it should have left by."""
    count, events = run.leaving
    assert len(events) == count
    assert {e["trapName"] for e in events} <= {"QDISC_DROP", "QDISC_OVERLIMIT"}
    assert {e["ingressPort"] for e in events} == {"in0"}
    assert {e["packet"]["TRANSPORT"]["srcPort"] for e in events} == {4500}
    assert {e["packet"]["IP"]["dstIp"] for e in events} == {A4}
    assert {e["bytes"] for e in events} == {14 + 20 + 8 + 500}


def test_account(run: Run) -> None:
    """Every packet that the kernel reported is in exactly one count."""
    account = dict(run.account)
    told = sum(map(len, run.told.values())) + len(run.full[1]) + len(run.leaving[1])
    assert account["events_packets"] >= told
    assert account["packets_handed"] == account["events_packets"]
    parts = ("events", "aggregated", "suppressed", "left_out", "elsewhere", "no_packet", "missed")
    assert account["seen_packets"] == sum(account[f"{part}_packets"] for part in parts)
