# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: traps of netdevsim and drops of known frames, under one vtap-stream.

Given are the frames to send, in hexadecimal digits, each with how often. What comes back is what
was streamed, what devlink had counted of each trap before and after, and what the kernel has
counted of packets to closed ports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm import INTERFACE, Storm
from tcdrop import dropping_by_tc

from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = 62
DEADLINE = 240.0
COMMAND = [sys.executable, "-c", "from trapstream_vtap.cli import main; main()"]
HERE = Path(os.environ["VM_DIRECTORY"])


def devlink(*words: str) -> Any:
    """What devlink says."""
    return json.loads(Namespace.current().run("devlink", "-j", *words).stdout)


@contextlib.contextmanager
def streaming(*options: str) -> Iterator[list[Any]]:
    """A vtap-stream that measures; in the end the list has its records."""
    records: list[Any] = []
    with (HERE / "records").open("w+b") as out, (HERE / "errors").open("w+b") as errors:
        process = Namespace.current().popen(
            *COMMAND, "-f", "json", "--user", "root", *options, "-", stdout=out, stderr=errors
        )
        said = HERE / "errors"
        deadline = time.monotonic() + DEADLINE
        while b"measuring" not in said.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(said.read_text())
            time.sleep(0.1)
        yield records
        process.send_signal(signal.SIGINT)
        if process.wait(DEADLINE):
            raise RuntimeError(said.read_text())
        print(said.read_text())  # noqa: T201 - for the person who looks why a test has failed
        records += [json.loads(line) for line in (HERE / "records").read_bytes().splitlines()]


@contextlib.contextmanager
def device(name: str) -> Iterator[list[str]]:
    """A device with four ports, whose names these are; some more of its traps report."""
    current = Namespace.current()
    Path("/sys/bus/netdevsim/new_device").write_text(f"{DEVICE} 4")
    try:
        for trap in ("blackhole_route", "ingress_vlan_filter"):
            current.run("devlink", "trap", "set", name, "trap", trap, "action", "trap")
        ports = devlink("port", "show")["port"]
        yield [said["netdev"] for port, said in ports.items() if port.startswith(f"{name}/")]
    finally:
        Path("/sys/bus/netdevsim/del_device").write_text(str(DEVICE))


def report(interfaces: list[str]) -> None:
    """The device reports traps for a second and a half: ten times a second, while a port is up."""
    current = Namespace.current()
    for state, pause in (("up", 1.5), ("down", 0.5)):
        for interface in interfaces:
            current.run("ip", "link", "set", interface, state)
        time.sleep(pause)


def send(storm: Storm, frames: list[tuple[str, int]]) -> tuple[str, int]:
    """FRAMES, of which the destination is missing, and then many; that address, and how many."""
    link = json.loads(storm.namespace.run("ip", "-j", "link", "show", INTERFACE).stdout)[0]
    address = bytes.fromhex(link["address"].replace(":", ""))
    with storm.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
        sending.bind(("out0", 0))
        for frame, count in frames:
            for _ in range(count):
                sending.send(address + bytes.fromhex(frame))
    time.sleep(1.5)  # another second, another allowance
    before = storm.dropped()
    storm.send(12_000, range(30_000, 30_008), at_once=1)
    return link["address"], storm.dropped() - before


def counters(name: str) -> dict[str, dict[str, Any]]:
    """Of each trap what devlink says, with what it has counted."""
    return {
        trap["name"]: {"type": trap["type"], "group": trap["group"], **trap["stats"]["rx"]}
        for trap in devlink("-s", "trap", "show")["trap"][name]
    }


def main() -> None:
    """Frames, a storm, and traps."""
    frames = json.loads((HERE / "given.json").read_bytes())
    name = f"netdevsim/netdevsim{DEVICE}"
    options = ("--probe", "drops,traps", "--drop-reasons", "all", "--max-events", "100")
    options += ("--drop-table-size", "16")
    with Storm() as storm, device(name) as interfaces, dropping_by_tc(storm.namespace, INTERFACE):
        before = counters(name)
        with streaming(*options) as records:
            address, dropped = send(storm, frames)
            report(interfaces)
        after = counters(name)
    results = {
        "records": records,
        "address": address,
        "dropped": dropped,
        "interfaces": interfaces,
        "before": before,
        "after": after,
    }
    (HERE / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
