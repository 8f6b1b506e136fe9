# SPDX-License-Identifier: Apache-2.0
"""docs/records.schema.json: every record that is streamed is as it says, and says no more."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tap
from recordschema import SCHEMA, VALIDATOR
from storm import INTERFACE, Storm
from traffic import Wire

jsonschema.Draft202012Validator.check_schema(SCHEMA)
CHOICES = (
    (),
    ("--sequence-offset", "0", "--bits", "--expected-gap", "5", "--smoothed-jitter"),
    ("--key", "src_ip,vlan", "-j", "0.4", "--timestamp", "rfc3339"),
    ("--sequence", "-t", "0.8", "-j", "0.2"),
)


def kinds(records: list[dict[str, Any]]) -> set[str]:
    """Which there are; each is of exactly one kind."""
    found = set()
    for record in records:
        VALIDATOR.validate(record)
        mine = [s["title"] for s in SCHEMA["oneOf"] if _fits(s, record)]
        assert len(mine) == 1
        found.add(mine[0])
        unknown = {**record, "colour": 1}
        assert not VALIDATOR.is_valid(unknown)
    return found


def _fits(schema: dict[str, Any], record: dict[str, Any]) -> bool:
    return bool(VALIDATOR.evolve(schema=schema).is_valid(record))


@pytest.mark.parametrize("options", CHOICES, ids=" ".join)
def test_flows(options: tuple[str, ...]) -> None:
    """Flows, sequence errors and accounts, with the fields that options add."""
    with Wire() as wire, tap.Tap(wire.receiver, "-i", "wire0", "-t", "0.2", *options) as tapped:
        senders = [wire.udp(family, 7001) for family in (socket.AF_INET, socket.AF_INET6)]
        ours, _ = wire.tcp(socket.AF_INET, 7002)
        for _ in range(5):
            for sender in (*senders, ours):
                sender.send(bytes(20))
        wire.settle()
        records = tapped.stop()
    errors = {"vtap_sequence_error"} if "--sequence-offset" in options else set()
    assert kinds(records) == {"vtap_flow", "vtap_agent"} | errors


def test_drops() -> None:
    """Dropped packets, one by one and together."""
    with (
        Storm() as storm,
        tap.Tap(
            storm.namespace, "--probe", "drops", "-i", INTERFACE, "--max-events", "50"
        ) as tapped,
    ):
        storm.send(600, (9, 10))
        records = tapped.stop()
    assert kinds(records) == {"DroppedPackets", "vtap_agent"}


def test_types_are_those_of_the_schema(tmp_path: Path) -> None:
    """A type checker tells records apart by their name, and knows what they have and may lack."""
    (tmp_path / "reads.py").write_text(
        "from trapstream_vtap.typed import Record\n\n"
        "def read(record: Record) -> int:\n"
        '    if record["name"] == "vtap_flow":\n'
        '        return record.get("packets", 0)\n'
        '    if record["name"] == "DroppedPackets":\n'
        '        return len(record["packet"]["packetType"])\n'
        '    return len(record["no_such_field"])\n'
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path, "reads.py"]
    where = {**os.environ, "MYPYPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=where, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert errors, done.stdout + done.stderr
    assert all("no_such_field" in line for line in errors), errors
