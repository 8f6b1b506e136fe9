# SPDX-License-Identifier: Apache-2.0
"""Each packet that the kernel shows to programs is measured once: on all CPUs, over reloads."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import tap
from observer import observer
from traffic import Wire
from waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

PORT = 7001
RELOADS = 6


def account(records: list[dict[str, Any]]) -> dict[str, int]:
    """The last one of stage `stack`."""
    rows = [r for r in records if r["name"] == "vtap_agent" and r.get("stage") == "stack"]
    return dict(rows[-1])


def counted(records: list[dict[str, Any]]) -> int:
    """Packets in the records of that stage."""
    return sum(r["count"] for r in records if r["name"] == "vtap_latency" and r["stage"] == "stack")


def test_two_cpus_lose_nothing() -> None:
    """Many packets on all CPUs: each is measured once."""
    chance = random.Random(5)  # noqa: S311 - traffic, not secrets
    with Wire() as wire, observer(wire.receiver, "wire0") as shown:
        options = ("-i", "wire0", "--probe", "latency", "-t", "0.2", "--latency-stages", "stack")
        with tap.Tap(wire.receiver, *options) as tapped:
            senders = [wire.udp(socket.AF_INET, PORT + n) for n in range(4)]
            sent = [0] * 4

            def send(number: int) -> None:
                for _ in range(3000):
                    senders[number].send(bytes(chance.randrange(200)))
                    sent[number] += 1

            threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            wire.settle()
            records = tapped.stop()
        there = shown()
    row = account(records)
    assert there <= sum(sent)
    assert row["measured_packets"] + row["missed_packets"] + row["unstamped_packets"] == there
    assert counted(records) == row["measured_packets"]


def test_a_reload_measures_each_packet_once(tmp_path: Path) -> None:
    """While the programs of both are attached, each packet is one's, and none is nobody's."""
    path = tmp_path / "vtap.json"
    settings = {"probe": "latency", "interface": "wire0", "interval": 0.2}
    path.write_text(json.dumps(settings))
    with (
        Wire() as wire,
        observer(wire.receiver, "wire0") as shown,
        tap.Tap(wire.receiver, "--user", "root", "-c", str(path)) as tapped,
    ):
        sender = wire.udp(socket.AF_INET, PORT)
        sent, done = 0, threading.Event()

        def send() -> None:
            nonlocal sent
            while not done.is_set():
                sender.send(b"x")
                sent += 1
                time.sleep(0.0002)

        thread = threading.Thread(target=send)
        thread.start()
        for number in range(RELOADS):
            stages = "stack,read" if number % 2 else "stack"
            path.write_text(json.dumps(settings | {"latency_stages": stages}))
            before = len(tapped.said)
            tapped.process.send_signal(1)
            wait_for(lambda before=before: any("read again" in s for s in tapped.said[before:]))
        done.set()
        thread.join()
        wire.settle()
        records = tapped.stop()
        there = shown()
    assert sum("latency is not measured" in line for line in tapped.said) <= 1
    row = account(records)
    assert counted(records) == row["measured_packets"]
    assert 1000 < there <= sent
    assert row["measured_packets"] + row["missed_packets"] + row["unstamped_packets"] == there
