# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: traps of netdevsim and drops of known frames, under one vtap-stream.

Given are the frames to send, in hexadecimal digits, each with how often. What comes back is what
was streamed, what devlink has counted of each trap, and what the kernel has counted of packets to
closed ports.
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
from typing import Any

from storm import INTERFACE, Storm
from tcdrop import dropping_by_tc

from lab.namespace import Namespace

DEVICE = 62
DEADLINE = 240.0
COMMAND = [sys.executable, "-c", "from trapstream_vtap.cli import main; main()"]
HERE = Path(os.environ["VM_DIRECTORY"])


def devlink(namespace: Namespace, *words: str) -> Any:
    """What devlink says."""
    return json.loads(namespace.run("devlink", "-j", *words).stdout or "null")


@contextlib.contextmanager
def streaming(namespace: Namespace, name: str, *options: str) -> Any:
    """A vtap-stream in NAMESPACE that measures; in the end its records, in a list."""
    path, records = HERE / name, []
    with path.open("w+b") as out, (HERE / f"{name}.errors").open("w+b") as errors:
        process = namespace.popen(
            *COMMAND, "-f", "json", "--user", "root", *options, "-", stdout=out, stderr=errors
        )
        said = HERE / f"{name}.errors"
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
        records += [json.loads(line) for line in path.read_bytes().splitlines()]


def traps() -> dict[str, Any]:
    """A device reports traps for two seconds; some go one by one, the others together."""
    current = Namespace.current()
    name = f"netdevsim/netdevsim{DEVICE}"
    Path("/sys/bus/netdevsim/new_device").write_text(f"{DEVICE} 1")
    ports = devlink(current, "port", "show")["port"]
    interface = next(p["netdev"] for port, p in ports.items() if port.startswith(f"{name}/"))
    for trap in ("blackhole_route", "ingress_vlan_filter"):
        current.run("devlink", "trap", "set", name, "trap", trap, "action", "trap")
    before = {trap["name"]: trap for trap in devlink(current, "-s", "trap", "show")["trap"][name]}
    options = ("--probe", "traps", "-i", interface, "--max-events", "20", "--drop-table-size", "16")
    with streaming(current, "traps", *options) as records:
        current.run("ip", "link", "set", interface, "up")
        time.sleep(2)
        current.run("ip", "link", "set", interface, "down")
        time.sleep(0.5)  # the driver looks at it ten times a second
    after = {trap["name"]: trap for trap in devlink(current, "-s", "trap", "show")["trap"][name]}
    Path("/sys/bus/netdevsim/del_device").write_text(str(DEVICE))
    return {
        "interface": interface,
        "records": records,
        "counted": {
            trap: {
                "type": said["type"],
                "group": said["group"],
                **{
                    unit: said["stats"]["rx"][unit] - before[trap]["stats"]["rx"][unit]
                    for unit in ("packets", "bytes")
                },
            }
            for trap, said in after.items()
        },
    }


def drops(frames: list[tuple[str, int]]) -> dict[str, Any]:
    """The FRAMES, of which the destination is missing, one by one, and then a storm."""
    with Storm() as storm:
        link = json.loads(storm.namespace.run("ip", "-j", "link", "show", INTERFACE).stdout)[0]
        address = bytes.fromhex(link["address"].replace(":", ""))
        options = ("--probe", "drops", "-i", INTERFACE, "--drop-reasons", "all")
        with (
            dropping_by_tc(storm.namespace, INTERFACE),
            streaming(storm.namespace, "drops", *options) as records,
        ):
            with storm.source.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
                sending.bind(("out0", 0))
                for frame, count in frames:
                    for _ in range(count):
                        sending.send(address + bytes.fromhex(frame))
            time.sleep(1.5)  # another second, another allowance
            before = storm.dropped()
            storm.send(12_000, range(30_000, 30_008), at_once=1)
            dropped = storm.dropped() - before
        return {"address": link["address"], "records": records, "dropped": dropped}


def main() -> None:
    """Both."""
    given = json.loads((HERE / "given.json").read_bytes())
    results = {"traps": traps(), "drops": drops(given)}
    (HERE / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
