# SPDX-License-Identifier: Apache-2.0
"""Every dropped packet is told in exactly one count, however many they are."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from storm import HERE, INTERFACE, LENGTH, THERE, Storm
from tap import COMMAND, Tap, flows
from tcdrop import SOURCE
from waiting import wait_for

from lab import testrun
from lab.loading import load
from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = ("events", "aggregated", "suppressed", "left_out", "elsewhere", "no_packet", "missed")


@pytest.fixture
def storm() -> Iterator[Storm]:
    """Where packets are sent to closed ports."""
    with Storm() as made:
        yield made


def account(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The last account of drops, the sum of whose parts is right."""
    found = [r for r in records if r["name"] == "vtap_agent" and r.get("probe") == "drops"][-1]
    assert found["seen_packets"] == sum(found[f"{part}_packets"] for part in PARTS)
    told = sum(found[f"{part}_packets"] for part in PARTS[:3])
    assert told == found["packets_handed"]
    return dict(found)


def drops(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of dropped packets to closed ports: of others there are none here."""
    found = [record for record in records if record["name"] == "DroppedPackets"]
    assert {record["trapName"] for record in found} == {"NO_SOCKET"}
    return found


def check_sum(records: list[dict[str, Any]], dropped: int) -> Counter[str]:
    """The counts by kind of record; their sum is what the kernel says it DROPPED.

    Packets that the program missed may be of this interface, or of any other of the machine.
    """
    kinds = Counter[str]()
    for record in drops(records):
        kinds[record["recordKind"]] += record["count"]
        assert record["bytes"] == record["count"] * LENGTH
    missed = account(records)["missed_packets"]
    assert dropped - missed <= kinds.total() <= dropped
    return kinds


def test_storm(storm: Storm) -> None:
    """A storm from all sides: a few one by one, the others together, by flow."""
    ports = range(9, 17)
    with Tap(
        *(storm.namespace, "--probe", "drops", "-i", INTERFACE, "--max-events", "50", "-v")
    ) as tap:
        storm.send(240_000, ports)
        records = tap.stop()
    kinds = check_sum(records, 240_000)
    found = drops(records)
    seconds = Counter(record["timestamp"].partition(".")[0] for record in found)
    assert kinds["suppressed"] == 0
    assert 0 < kinds["event"] <= 50 * (len(seconds) + 1)  # the kernel's seconds are not the clock's
    by_port = Counter[int]()
    for record in found:
        packet = record["packet"]
        assert (packet["IP"]["srcIp"], packet["IP"]["dstIp"]) == (HERE, THERE)
        by_port[packet["TRANSPORT"]["dstPort"]] += record["count"]
    missed = account(records)["missed_packets"]
    assert by_port.keys() == set(ports)
    assert all(30_000 - missed <= count <= 30_000 for count in by_port.values())


def test_more_flows_than_the_table_holds(storm: Storm) -> None:
    """What the table has no room for is counted by cause, and nothing else is said of it."""
    with Tap(
        *(storm.namespace, "--probe", "drops", "-i", INTERFACE, "--max-events", "0"),
        *("--drop-table-size", "16"),
    ) as tap:
        storm.send(60_000, range(10_000, 11_000))
        records = tap.stop()
    kinds = check_sum(records, 60_000)
    assert kinds["event"] == 0
    assert kinds["aggregate"] > 0
    assert kinds["suppressed"] > 0
    assert kinds.total() == kinds["aggregate"] + kinds["suppressed"]
    for record in drops(records):
        if record["recordKind"] == "suppressed":
            assert record["packet"] == {"packetType": "unknown"}
            assert record["ingressPort"] == "unknown"


def test_unique(storm: Storm) -> None:
    """With `--unique` equal ones are one record, with their number and their time span."""
    with Tap(
        *(storm.namespace, "--probe", "drops", "-i", INTERFACE, "--unique", "3600", "-t", "0.5")
    ) as tap:
        for _ in range(3):
            storm.send(60, (9,))
            storm.send(120, (10,))
        records = tap.stop()
    found = {record["packet"]["TRANSPORT"]["dstPort"]: record for record in drops(records)}
    assert len(found) == len(drops(records)) == 2
    assert {port: record["count"] for port, record in found.items()} == {9: 180, 10: 360}
    assert {record["recordKind"] for record in found.values()} == {"aggregate"}
    assert all(0 < record["duration"] < 60 for record in found.values())
    assert check_sum(records, 540).total() == 540


def test_full_table_is_emptied_early(storm: Storm) -> None:
    """When the table is full long before its time, what it holds goes out, and it holds more."""
    with Tap(
        *(storm.namespace, "--probe", "drops", "-i", INTERFACE, "--unique", "3600"),
        *("--drop-table-size", "16"),
    ) as tap:
        for first in (20_000, 21_000):
            before = tap.payload.count(b'"aggregate"')
            storm.send(16 * 60, range(first, first + 16))
            wait_for(lambda before=before: tap.payload.count(b'"aggregate"') >= before + 13)
        records = tap.stop()
    check_sum(records, 2 * 16 * 60)


PATTERNS = {
    "*": {INTERFACE, "lo"},
    "?*": {INTERFACE, "lo"},
    f"{INTERFACE[0]}*": {INTERFACE},
    f"!lo,{INTERFACE}": {INTERFACE},
    "!lo*": {INTERFACE},
    "*9,*n*0": {INTERFACE},
    "x*": set(),
    f"!{INTERFACE}": {"lo"},
    "?": set(),
    "?" * 16: set(),
    "x" * 40 + "*": set(),
    "*x*x*": set(),
}


def is_ours(record: dict[str, Any], storm: Storm) -> bool:
    """Whether it is of what STORM has sent: what leaves out tells of all the machine."""
    here = os.fstat(storm.namespace.fd).st_ino
    return record.get("trapName") == "NO_SOCKET" and record.get("netns") == here


@pytest.mark.parametrize("words", PATTERNS)
def test_patterns(storm: Storm, words: str) -> None:
    """Only drops at interfaces that a pattern stands for, and that none leaves out."""
    with Tap(storm.namespace, "--probe", "drops", "-i", words) as tap:
        with storm.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for _ in range(7):
                sending.sendto(b"x", ("127.0.0.1", 9))
        storm.send(60, (9,))
        records = tap.stop()
    found = Counter[str]()
    for record in records:
        if is_ours(record, storm):
            found[record["ingressPort"]] += record.get("count", 1)
    sent = {INTERFACE: 60, "lo": 7}
    assert found == {name: sent[name] for name in PATTERNS[words]}
    assert account(records)["elsewhere_packets"] >= 67 - sum(found.values())


ALSO = "the-uplink-of-this-machine"
OTHER_NAMES = {
    ALSO: {INTERFACE},
    "the-up*": {INTERFACE},
    f"!{ALSO}": {"lo"},
    "!the-up*": {"lo"},
}


@pytest.mark.parametrize("words", OTHER_NAMES)
def test_alternative_names(storm: Storm, words: str) -> None:
    """Interfaces are chosen and left out by their alternative names, too, also with patterns."""
    storm.namespace.run(*f"ip link property add dev {INTERFACE} altname {ALSO}".split())
    try:
        with Tap(storm.namespace, "--probe", "drops", "-i", words) as tap:
            with storm.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                for _ in range(7):
                    sending.sendto(b"x", ("127.0.0.1", 9))
            storm.send(60, (9,))
            records = tap.stop()
    finally:
        storm.namespace.run(*f"ip link property del dev {INTERFACE} altname {ALSO}".split())
    found = {record["ingressPort"] for record in records if is_ours(record, storm)}
    assert found == OTHER_NAMES[words]


def test_not_there(storm: Storm) -> None:
    """A name that nothing has is said, as it is of flows: it may be a slip."""
    with Tap(storm.namespace, "--probe", "drops", "-i", "in9") as tap:
        tap.stop()
    assert any("in9 is not there yet; " in line for line in tap.said)


def test_other_interfaces(storm: Storm) -> None:
    """What is dropped at another interface, of the same name elsewhere, is counted and left out."""
    with Tap(storm.namespace, "--probe", "drops", "-i", INTERFACE) as tap:
        with Storm() as other:
            other.send(120, (9,))
        with storm.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            for _ in range(7):
                sending.sendto(b"x", ("127.0.0.1", 9))
        storm.send(60, (9,))
        records = tap.stop()
    assert check_sum(records, 60).total() == 60
    assert account(records)["elsewhere_packets"] >= 127


def test_beside_flows(storm: Storm, tmp_path: Path) -> None:
    """Drops beside flows: both complete, also across a configuration that is read again."""
    file = tmp_path / "vtap.json"
    file.write_text(json.dumps({"probe": ["flows", "drops"], "interface": INTERFACE}))
    with Tap(storm.namespace, "-c", str(file)) as tap:
        storm.send(60, (9,))
        file.write_text(json.dumps({**json.loads(file.read_text()), "RULES": ["- - - 10 udp"]}))
        tap.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("read again" in line for line in tap.said))
        storm.send(120, (10, 11))
        records = tap.stop()
    assert check_sum(records, 180).total() == 180
    counted = {flow["dst_port"]: flow["packets"] for flow in flows(records)}
    assert counted == {"9": 60, "10": 60}


def test_chosen_reasons(storm: Storm) -> None:
    """With `--drop-reasons` only those are told, by any way of writing them; others are counted."""
    with Tap(
        *(storm.namespace, "--probe", "drops", "-i", INTERFACE),
        *("--drop-reasons", "netfilter_drop,SKB_DROP_REASON_IP_CSUM"),
    ) as tap:
        storm.send(60, (9,))
        records = tap.stop()
    assert not [record for record in records if record["name"] == "DroppedPackets"]
    assert account(records)["left_out_packets"] >= 60


def test_own_packets() -> None:
    """What it sends itself, and is dropped, is told ten times a second at most, not ever more."""
    with Namespace() as namespace:
        begun = time.monotonic()
        done = namespace.run(
            *(str(COMMAND), "--probe", "drops", "-i", "lo", "--transport", "udp"),
            *("--duration", "3", "127.0.0.1", "9"),
            check=False,
        )
        seconds = time.monotonic() - begun
    assert done.returncode == 3, done.stderr  # nobody has taken anything
    told = re.search(r"drops seen: (\d+) one by one", done.stderr)
    assert told
    assert 0 < int(told[1]) <= 30 * seconds


def test_runs_of_programs_drop_nothing() -> None:
    """The packets that the kernel makes for test runs of programs, as our sweeps are, are none."""
    loaded = load(SOURCE)
    with (
        Namespace() as namespace,
        Tap(namespace, "--probe", "drops", "--drop-reasons", "all", "-i", "lo") as tapped,
    ):
        with namespace.entered():
            for _ in range(50):
                testrun.run(loaded.programs["drop_some"], bytes(60))
        records = tapped.stop()
    loaded.close()
    assert not [record for record in records if record["name"] == "DroppedPackets"]
    account = [record for record in records if record.get("probe") == "drops"][-1]
    assert account["no_packet_packets"] >= 50


def test_no_address_of_the_kernel() -> None:
    """Without CAP_SYSLOG a drop has no location, rather than an address; and that is said."""
    rights = "bpf,perfmon,net_admin,dac_read_search,setuid,setgid,setpcap"
    options = ("--probe", "drops", "-i", "lo", "-f", "json", "--duration", "1.5", "-")
    found = []
    with Namespace() as namespace:
        for limits in ("+all", "-all,+" + rights.replace(",", ",+")):
            process = namespace.popen(
                *("setpriv", f"--bounding-set={limits}", str(COMMAND), *options),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            said = ""
            while "measuring" not in said:
                said += process.stderr.readline()
            with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", ("127.0.0.1", 9))
            out, more = process.communicate(timeout=20)
            records = [json.loads(line) for line in out.splitlines()]
            (event,) = [r for r in records if r["name"] == "DroppedPackets"]
            found.append((event.get("location"), "no location" in said + more))
    assert found[0][0].startswith("__udp4_lib_rcv+")
    assert found == [(found[0][0], False), (None, True)]


@pytest.mark.skipif(
    "devlink_trap_report" in Path("/proc/kallsyms").read_text(encoding="ascii"),
    reason="This kernel has devlink.",
)
def test_no_traps_here() -> None:
    """On a kernel that reports no traps the command says so, and ends."""
    with Namespace() as namespace:
        done = namespace.run(str(COMMAND), "--probe", "flows,traps", "-i", "lo", "-", check=False)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("vtap-stream: This kernel reports no traps: ")


def test_reasons_are_checked() -> None:
    """A reason that this kernel does not know is refused, with those that look like it."""
    with Namespace() as namespace:
        options = ("--probe", "drops", "--drop-reasons", "NO_SOKET", "-")
        done = namespace.run(str(COMMAND), *options, check=False)
    assert done.returncode == 2
    assert "no drop reason 'NO_SOKET'. Do you mean NO_SOCKET?" in done.stderr
