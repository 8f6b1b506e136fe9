# SPDX-License-Identifier: Apache-2.0
"""What once was wrong with round-trip times, each by the packets that showed it."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import signal
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tap
from framings import Framing
from rawwire import RawWire
from roundtripcases import Step
from roundtrips import End
from rttrecords import account, only, roundtrips
from traffic import Wire
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
HERE, THERE = End("198.51.100.2", 40000), End("203.0.113.7", 80)
QUERY, ANSWER = bytes.fromhex("0100"), bytes.fromhex("8180")
BOTH = ("--probe", "flows,rtt", "--direction", "both")


def dns(number: int, *, answer: bool, port: int, version: int = 4) -> bytes:
    """A query of PORT here, or what answers it."""
    framing = Framing(version)
    here, there = framing.addresses()
    ports = (53, port) if answer else (port, 53)
    data = struct.pack(">H", number) + (ANSWER if answer else QUERY) + bytes(13)
    datagram = struct.pack(">HHHH", *ports, 8 + len(data), 0) + data
    ends = (there, here) if answer else (here, there)
    return framing.wrap(*ends, datagram, 17)


def segment(
    flags: str,
    sequence: int,
    acknowledges: int,
    length: int,
    stamps: Sequence[int],
    *,
    leaves: bool,
) -> bytes:
    """One with TCP's timestamps: its own, and the one that it echoes."""
    options = bytes.fromhex("0101080a") + struct.pack(">II", *stamps)
    step = Step(leaves, flags, sequence, length, acknowledges)
    return Framing(tcp_options=options).frame((HERE, THERE), step)


def test_samples_of_evicted_flows_are_lost_by_name() -> None:
    """Records have as many as the account says are handed; the others it says are lost."""
    options = (*BOTH, "--flow-table-size", "64", "-t", "2")
    exchanges = 3000
    with RawWire() as wire, tap.Tap(wire.tapped, "-i", "wire0", *options) as tapped:
        for number in range(exchanges):
            port = 1024 + number
            wire.put(dns(number, answer=False, port=port), leaves=True)
            wire.put(dns(number, answer=True, port=port), leaves=False)
        records = tapped.stop()
    said = account(records, "dns")
    assert said["samples"] == exchanges
    assert said["samples_lost"] > 0
    assert said["samples"] == said["samples_handed"] + said["samples_lost"]
    there = sum(record.get("rtt_count", 0) for record in tap.flows(records))
    assert there == said["samples_handed"]


def test_one_record_of_a_key() -> None:
    """Where addresses are none of it, IPv4 and IPv6 are in the same one."""
    options = ("-i", "wire0", "--probe", "rtt", "--rtt-key", "dst_port")
    with RawWire() as wire, tap.Tap(wire.tapped, *options) as tapped:
        time.sleep(1 - time.time() % 1)  # both within an interval
        for version in (4, 6):
            wire.put(dns(version, answer=False, port=4000, version=version), leaves=True)
            wire.put(dns(version, answer=True, port=4000, version=version), leaves=False)
        records = tapped.stop()
    assert only(records, dst_port="53")["rtt_count"] == 2


def test_a_late_answer_is_of_the_interval_in_which_it_comes() -> None:
    """Not of the one in which its flow was seen last."""
    with RawWire() as wire, tap.Tap(wire.tapped, "-i", "wire0", *BOTH, "-t", "0.2") as tapped:
        wire.put(dns(1, answer=False, port=4000), leaves=True)
        time.sleep(1.3)
        wire.put(dns(1, answer=True, port=4000), leaves=False)
        came = time.time_ns()
        wait_for(lambda: any("rtt_count" in r for r in tap.flows(arrived(tapped))))
        records = tapped.stop()
    (late,) = (record for record in tap.flows(records) if record.get("rtt_count"))
    assert late["packets"] == 0
    assert late["rtt_mean_ms"] > 1300
    assert 0 <= late["timestamp"] - came + 0.2e9 / 2 <= 0.5e9


def arrived(tapped: tap.Tap) -> list[dict[str, Any]]:
    """What has come so far of whole payloads."""
    lines = tapped.payload.splitlines(keepends=True)
    return [r for line in lines if line.endswith(b"\n") for r in json.loads(line)]


def test_dropped_probes_alone_are_handed_over() -> None:
    """In the flow's record, though nothing of it was answered."""
    with RawWire() as wire, tap.Tap(wire.tapped, "-i", "wire0", *BOTH, "-t", "0.2") as tapped:
        wire.put(segment("S", 99, 0, 0, (1, 0), leaves=True), leaves=True)
        wire.put(segment("SA", 499, 100, 0, (7, 1), leaves=False), leaves=False)
        for number in range(2):
            wire.put(segment("A", 100 + 10 * number, 500, 10, (3, 7), leaves=True), leaves=True)
        time.sleep(0.5)
        wire.put(segment("A", 500, 120, 0, (9, 3), leaves=False), leaves=False)
        time.sleep(0.5)
        records = tapped.stop()
    assert account(records)["stretched"] == 1
    assert sum(record.get("rtt_invalidated", 0) for record in tap.flows(records)) == 1


def test_a_tick_that_an_acknowledgement_had_first_is_no_probe() -> None:
    """Whose echo answers that, and not the data that followed within the tick."""
    options = ("-i", "wire0", "--probe", "rtt", "--rtt-tcp", "timestamp")
    with RawWire() as wire, tap.Tap(wire.tapped, *options) as tapped:
        wire.put(segment("A", 500, 90, 10, (50, 90), leaves=False), leaves=False)
        wire.put(segment("A", 100, 510, 0, (100, 50), leaves=True), leaves=True)
        time.sleep(0.02)
        wire.put(segment("A", 100, 510, 10, (100, 50), leaves=True), leaves=True)
        wire.put(segment("A", 510, 100, 10, (51, 100), leaves=False), leaves=False)
        wire.put(segment("A", 110, 520, 10, (101, 51), leaves=True), leaves=True)
        time.sleep(0.01)
        wire.put(segment("A", 520, 120, 0, (52, 101), leaves=False), leaves=False)
        records = tapped.stop()
    (found,) = roundtrips(records, side="remote")
    assert found["rtt_count"] == 1
    assert found["rtt_min_ms"] > 10


def test_timestamps_of_a_new_connection_begin_anywhere() -> None:
    """Of the same ports: its SYN says so."""
    options = ("-i", "wire0", "--probe", "rtt", "--rtt-tcp", "timestamp")
    with RawWire() as wire, tap.Tap(wire.tapped, *options) as tapped:
        for begins in (0x8000_0000, 0x7000_0000):
            wire.put(segment("S", 99, 0, 0, (begins, 0), leaves=True), leaves=True)
            wire.put(segment("SA", 499, 100, 0, (7, begins), leaves=False), leaves=False)
            for number in range(1, 5):
                at = 100 + 10 * number
                wire.put(segment("A", at, 500, 10, (begins + number, 7), leaves=True), leaves=True)
                echo = (7 + number, begins + number)
                wire.put(segment("A", 500, at + 10, 0, echo, leaves=False), leaves=False)
        records = tapped.stop()
    assert sum(found["rtt_count"] for found in roundtrips(records, side="remote")) == 10
    assert account(records)["invalidated"] == 0


def test_pings_have_jitter() -> None:
    """What one answer differs by from the one before, between the same ends."""
    ends = Framing().addresses()
    pauses = (0.005, 0.025, 0.005)
    with (
        RawWire() as wire,
        tap.Tap(wire.tapped, "-i", "wire0", "--probe", "rtt", "-t", "60") as tapped,
    ):
        for number, pause in enumerate(pauses):
            for kind, leaves in ((8, True), (0, False)):
                data = struct.pack(">BBHHH", kind, 0, 0, 77, number) + bytes(20)
                wire.put(Framing().wrap(*(ends if leaves else ends[::-1]), data, 1), leaves=leaves)
                time.sleep(pause if leaves else 0)
        records = tapped.stop()
    assert 15 < only(records, protocol="icmp")["rtt_jitter_ms"] < 40


def test_tables_go_with_their_program(tmp_path: Path) -> None:
    """A guest's are open as often after ten reloads as after one, whatever else is measured."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    options = (
        "-c",
        str(path),
        "-i",
        "wire0",
        "--probe",
        "flows,latency,rtt",
        "--direction",
        "both",
    )
    with Wire() as wire, tap.Tap(wire.receiver, *options) as tapped:
        open_at_first = maps_of(tapped.process.pid)
        for number in range(5):
            path.write_text(f'{{"rtt_table_size": {1000 + number}}}')
            tapped.process.send_signal(signal.SIGHUP)
            wait_for(lambda n=number: sum("read again" in s for s in tapped.said) > n)
        wait_for(lambda: maps_of(tapped.process.pid).total() == open_at_first.total())
        assert max(maps_of(tapped.process.pid).values()) == max(open_at_first.values())
        tapped.stop()


def maps_of(process: int) -> collections.Counter[str]:
    """How many descriptors of each map the PROCESS has open, by the map's number."""
    found = collections.Counter[str]()
    for descriptor in Path(f"/proc/{process}/fdinfo").iterdir():
        text = ""
        with contextlib.suppress(OSError):  # closed meanwhile
            text = descriptor.read_text(encoding="ascii")
        found.update(re.findall(r"^map_id:\t(\d+)$", text, re.MULTILINE))
    return found
