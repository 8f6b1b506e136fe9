# SPDX-License-Identifier: Apache-2.0
"""The systemd unit, run by a real systemd with all its restrictions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import installed
import pytest
from attached import attached, exchange
from machine import Machine
from rights import KEEPS, SETS, children, mask, status
from traffic import Wire
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNITS = installed.wheel.ROOT / "deploy" / "systemd"
UNIT = UNITS / "vtap-stream.service"
PACKET_SOCKET = UNITS / "packet-socket.conf"
EXPOSURE = 26
"""Tenths, as systemd-analyze counts: 0 is a service that can do nothing, 100 one that can all."""
OUTPUT = "/var/lib/vtap-stream/flows.json"
CONFIGURATION = {
    "interface": ["wire0"],
    "format": "json",
    "interval": 0.5,
    "sink": [f"file:{OUTPUT}", "tcp://127.0.0.1:9"],
    "spool": "/var/lib/vtap-stream/spool",
}
CONFIG = "/etc/vtap-stream/vtap-stream.json"
FILES = {
    "/etc/systemd/system/vtap-stream.service": UNIT.read_text(),
    "/etc/sysusers.d/vtap-stream.conf": (UNITS / "sysusers.conf").read_text(),
    "/etc/tmpfiles.d/vtap-stream.conf": (UNITS / "tmpfiles.conf").read_text(),
    CONFIG: json.dumps(CONFIGURATION),
}
DROP_IN = "/etc/systemd/system/vtap-stream.service.d/test.conf"
WITHOUT = {
    "CAP_DAC_READ_SEARCH": "vtap-stream.json: cannot be read",
    "CAP_SETUID": "cannot become user vtap-stream",
    "CAP_SETGID": "cannot become user vtap-stream",
    "CAP_SETPCAP": "bounding set stays as it is",
}
"""What is said where a capability is missing; the others are tried where the keeper is tested."""


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads."""
    with Wire() as wire:
        yield wire


def test_exposure() -> None:
    """What systemd-analyze counts against the unit stays below a bound."""
    command = ("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}")
    done = subprocess.run((*command, str(UNIT)), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def journal(machine: Machine) -> str:
    """What the service has said."""
    return machine.run("journalctl", "--no-pager", "-u", "vtap-stream").stdout


def test_service(wire: Wire) -> None:
    """It starts when it measures, writes where it may, is reloaded, and detaches at the end."""
    with Machine(wire.receiver, installed.environment(), FILES) as machine:
        verified = machine.run("systemd-analyze", "verify", "vtap-stream.service")
        assert verified.stderr == ""
        started = machine.run("systemctl", "start", "vtap-stream", check=False)
        assert started.returncode == 0, journal(machine)
        process = machine.process("vtap-stream")
        said = status(process)
        passwd = (process / "root" / "etc" / "passwd").read_text()
        uid, gid = re.search("^vtap-stream:x:(\\d+):(\\d+):", passwd, re.MULTILINE).groups()
        assert (said["Uid"], said["Gid"]) == ([uid] * 4, [gid] * 4)
        assert {said[name][0] for name in SETS} == {mask(())}
        (keeper,) = children(int(process.name))
        assert status(process.parent / str(keeper))["CapBnd"] == [mask(KEEPS)]
        exchange(wire, 7)
        machine.run("systemctl", "reload", "vtap-stream")
        wait_for(lambda: "was read again" in journal(machine))
        exchange(wire, 5)
        assert attached(wire.receiver, "wire0") == 1
        machine.run("systemctl", "stop", "vtap-stream")
        shown = machine.run("systemctl", "show", "--property=Result,ExecMainStatus", "vtap-stream")
        assert set(shown.stdout.split()) == {"Result=success", "ExecMainStatus=0"}
        assert attached(wire.receiver, "wire0") == 0
        records = [json.loads(line) for line in machine.run("cat", OUTPUT).stdout.splitlines()]
        flows = [record for record in records if record["name"] == "vtap_flow"]
        assert sum(record["packets"] for record in flows) == 12
        spooled = machine.run("find", CONFIGURATION["spool"], "-name", "*[0-9]", "-size", "+0")
        assert spooled.stdout != ""


def capabilities(path: Path) -> list[str]:
    """Those that a file of the unit names."""
    return re.search("^CapabilityBoundingSet=(.*)", path.read_text(), re.MULTILINE)[1].split()


def test_capabilities(wire: Wire) -> None:
    """The unit has what the keeper keeps and what it takes to give up the rest; no more."""
    kept = {f"CAP_{name.upper()}" for name in KEEPS}
    assert set(capabilities(UNIT)) == kept | set(WITHOUT)
    assert capabilities(PACKET_SOCKET) == ["CAP_NET_RAW"]
    configuration = {"interface": ["wire0"], "hook": "socket", "sink": ["-"]}
    files = FILES | {CONFIG: json.dumps(configuration)}
    with Machine(wire.receiver, installed.environment(), files) as machine:

        def start(more: str) -> str:
            text = f"{PACKET_SOCKET.read_text()}Restart=no\n{more}[Unit]\nStartLimitIntervalSec=0\n"
            machine.write(DROP_IN, text)
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "restart", "vtap-stream", check=False)
            shown = machine.run("systemctl", "show", "-P", "InvocationID", "vtap-stream").stdout
            matching = f"_SYSTEMD_INVOCATION_ID={shown.strip()}"
            return machine.run("journalctl", "--no-pager", "-o", "cat", matching).stdout

        said = start("")
        assert "measuring" in said
        assert not re.search("|".join(WITHOUT.values()), said)
        machine.run("chown", "daemon", CONFIG)
        machine.run("chmod", "600", CONFIG)
        for name, sentence in WITHOUT.items():
            assert sentence in start(f"CapabilityBoundingSet=~{name}\n")


def test_watchdog(wire: Wire) -> None:
    """A process that hangs is ended and started anew, and measures again, with one program."""
    files = FILES | {DROP_IN: "[Service]\nWatchdogSec=3\nRestartSec=0\n"}
    with Machine(wire.receiver, installed.environment(), files) as machine:
        machine.run("systemctl", "start", "vtap-stream")
        hung = machine.process("vtap-stream")
        os.kill(int(hung.name), signal.SIGSTOP)
        wait_for(lambda: not hung.exists())
        assert "Watchdog timeout" in journal(machine)
        again = ("systemctl", "is-active", "vtap-stream")
        wait_for(lambda: machine.run(*again, check=False).stdout == "active\n")
        assert machine.process("vtap-stream") != hung
        wait_for(lambda: attached(wire.receiver, "wire0") == 1)
