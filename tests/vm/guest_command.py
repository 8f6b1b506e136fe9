# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: flows, drops of known frames, traps of netdevsim, under one vtap-stream.

Given are the frames to send, in hexadecimal digits, each with how often, and sizes of datagrams.
What comes back is what was streamed, what devlink had counted of each trap before and after, what
the kernel has counted of packets to closed ports, and what was attached to the datagrams' interface
meanwhile and in the end.
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

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = 62
ADDRESSES = ("192.0.2.1", "192.0.2.2")
WIRE = "wire0"
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


def exchange(sender: Namespace, sizes: list[int]) -> None:
    """Datagrams of SIZES to this namespace, where somebody reads them."""
    with (
        Namespace.current().socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
        sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        listening.bind((ADDRESSES[1], 7001))
        for size in sizes:
            sending.sendto(bytes(size), (ADDRESSES[1], 7001))
            listening.recv(1 << 16)


def attached() -> str:
    """What is attached to the wire's end."""
    return Namespace.current().run("tc", "qdisc", "show", "dev", WIRE).stdout


def counters(name: str) -> dict[str, dict[str, Any]]:
    """Of each trap what devlink says, with what it has counted."""
    return {
        trap["name"]: {"type": trap["type"], "group": trap["group"], **trap["stats"]["rx"]}
        for trap in devlink("-s", "trap", "show")["trap"][name]
    }


def main() -> None:
    """Frames, a storm, traps, and datagrams."""
    given = json.loads((HERE / "given.json").read_bytes())
    name = f"netdevsim/netdevsim{DEVICE}"
    options = ("--probe", "flows,drops,traps", "--drop-reasons", "all", "--max-events", "100")
    options += ("--drop-table-size", "16")
    with (
        Storm() as storm,
        Namespace() as sender,
        device(name) as interfaces,
        dropping_by_tc(storm.namespace, INTERFACE),
    ):
        veth(sender, WIRE, Namespace.current(), WIRE, ipv4=ADDRESSES)
        before = counters(name)
        with streaming(*options) as records:
            address, dropped = send(storm, given["frames"])
            report(interfaces)
            exchange(sender, given["sizes"])
            meanwhile = attached()
        after = counters(name)
        left = attached()
    results = {
        "records": records,
        "address": address,
        "dropped": dropped,
        "interfaces": interfaces,
        "before": before,
        "after": after,
        "attached": meanwhile,
        "left": left,
    }
    (HERE / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
