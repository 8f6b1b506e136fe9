# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: another program takes over under traffic, and nothing is lost or counted twice."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import tap
from traffic import Wire, bursts

from trapstream_vtap.probes.flows.settings import HOOKS

if TYPE_CHECKING:
    from pathlib import Path

PORT = 7001


def wait_for(tapped: tap.Tap, words: str, times: int = 1) -> None:
    """Return when it has said WORDS so many times."""
    deadline = time.monotonic() + tap.DEADLINE
    while sum(words in line for line in tapped.said) < times:
        assert time.monotonic() < deadline, tapped.said
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("interval", "hook"),
    [
        ("0.1", "tc"),
        ("1", "tc"),
        ("0.1 -j 0.4", "tc"),
        ("0.4 -j 0.1", "tc"),
        ("0.1", "xdp"),
        ("0.1", "socket"),
    ],
)
def test_reload_under_traffic(tmp_path: Path, interval: str, hook: str) -> None:
    """Over several reloads every packet counts or is filtered, once; no point is there twice."""
    path = tmp_path / "vtap.json"
    rules = ([f"- - - {PORT} udp", "- - - - tcp"], [], ["- - - 1-9 udp"])
    path.write_text(json.dumps({"RULES": rules[0]}))
    with (
        Wire() as wire,
        tap.Tap(
            *(wire.receiver, "-i", "wire0", "-t", *interval.split()),
            *("--hook", hook, "-c", str(path)),
        ) as tapped,
    ):
        senders = [wire.udp(socket.AF_INET, PORT), wire.udp(socket.AF_INET6, PORT)]
        before = wire.receiver.counters("wire0")
        with bursts(*senders):
            for turn in range(1, 4):
                path.write_text(json.dumps({"RULES": rules[turn % len(rules)]}))
                tapped.process.send_signal(signal.SIGHUP)
                wait_for(tapped, "was read again", turn)
        wire.settle()
        after = wire.receiver.counters("wire0")
        records = tapped.stop()
    account = tap.agent(records, "wire0")
    flows = tap.flows(records)
    assert account["seen_packets"] == after.rx_packets - before.rx_packets > 1000
    assert account["filtered_packets"] > 0
    assert account["seen_packets"] == account["counted_packets"] + account["filtered_packets"]
    assert account["seen_bytes"] == account["counted_bytes"] + account["filtered_bytes"]
    assert account["counted_packets"] == sum(record.get("packets", 0) for record in flows)
    assert account["counted_bytes"] == sum(record.get("bytes", 0) for record in flows)
    assert account["evicted_packets"] == 0
    points = Counter(
        (r["src_ip"], r["dst_ip"], r.get("src_port"), r["protocol"], r["timestamp"]) for r in flows
    )
    assert max(points.values()) == 1


@pytest.mark.parametrize("hook", HOOKS)
def test_nothing_filtered(tmp_path: Path, hook: str) -> None:
    """Where all rules let a flow pass, reloads lose none of its packets."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    chosen = ("-i", "wire0", "--hook", hook, "-c", str(path))
    with Wire() as wire, tap.Tap(wire.receiver, *chosen) as tapped:
        sender = wire.udp(socket.AF_INET, PORT)
        with bursts(sender):
            for turn in range(1, 4):
                tapped.process.send_signal(signal.SIGHUP)
                wait_for(tapped, "was read again", turn)
        wire.settle()
        records = tapped.stop()
    account = tap.agent(records, "wire0")
    assert account["counted_packets"] == account["seen_packets"] == account["packets_handed"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"RULES": ["- - - - nope"]}', "RULES, rule 1, '- - - - nope': protocol 'nope'"),
        ('{"interface": "lo"}', None),
        ('{"direction": "both"}', "a running program cannot change its directions"),
        ('{"hook": "xdp"}', "a running program cannot change its hook"),
        ('{"user": "daemon"}', "a running program cannot change its user"),
        ('{"promiscuous": true}', "a running program cannot change its promiscuous mode"),
        ('{"decapsulate": ["vxlan", "gre"], "key": ["src_ip", "src_port", "tunnel_id"]}', None),
        ("{", "line 1: "),
    ],
)
def test_bad_file(tmp_path: Path, text: str, why: str | None) -> None:
    """A bad file is said to be one, and the program measures on as before."""
    path = tmp_path / "vtap.json"
    path.write_text('{"RULES": ["- - - 7001 udp"]}')
    with Wire() as wire, tap.Tap(wire.receiver, "-i", "wire0", "-c", str(path)) as tapped:
        sender = wire.udp(socket.AF_INET, PORT)
        sender.send(b"x")
        path.write_text(text)
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(tapped, "was read again" if why is None else "the configuration stays as it was: ")
        assert why is None or any(why in line for line in tapped.said)
        sender.send(b"x")
        wire.settle()
        records = tapped.stop()
    assert sum(record["packets"] for record in tap.flows(records)) == 2
