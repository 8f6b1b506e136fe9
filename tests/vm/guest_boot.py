# SPDX-License-Identifier: Apache-2.0
"""In a virtual machine that has just booted: a vtap-stream for each of the given options.

All measure the same datagrams at the same time, those with a configuration file before and after
SIGHUP. What comes back is what each said, streamed and exited with, and how long the machine had
been up, in s, when the last datagram was sent.
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

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    import subprocess

ADDRESSES = ("192.0.2.1", "192.0.2.2")
WIRE = "wire0"
DEADLINE = 200.0  # seconds; emulated, and beside other tests
COMMAND = [sys.executable, "-c", "from trapstream_vtap.cli import main; main()"]
HERE = Path(os.environ["VM_DIRECTORY"])


class Run:
    """A vtap-stream with OPTIONS, whose output goes to files of this NAME."""

    def __init__(self, name: str, options: list[str], stack: contextlib.ExitStack) -> None:
        self._out, self._said = HERE / f"{name}.out", HERE / f"{name}.said"
        self.reloads = "-c" in options
        self.process: subprocess.Popen[bytes] = Namespace.current().popen(
            *(*COMMAND, "-f", "json", "--user", "root", *options, "-"),
            stdout=stack.enter_context(self._out.open("wb")),
            stderr=stack.enter_context(self._said.open("wb")),
        )

    def wait_for(self, word: str) -> None:
        """Until it has said so."""
        deadline = time.monotonic() + DEADLINE
        while word.encode() not in self._said.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._said.read_text())
            time.sleep(0.1)

    def result(self) -> dict[str, Any]:
        """What it left behind."""
        code = self.process.wait(DEADLINE)
        records = [json.loads(line) for line in self._out.read_bytes().splitlines()]
        return {"code": code, "said": self._said.read_text(), "records": records}


def main() -> None:
    """Start all, send, have some read their configuration again, send, end all."""
    given = json.loads((HERE / "given.json").read_bytes())
    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(Namespace())
        veth(sender, WIRE, Namespace.current(), WIRE, ipv4=ADDRESSES)
        runs = [Run(str(number), options, stack) for number, options in enumerate(given["options"])]
        for run in runs:
            run.wait_for("measuring")
        sending = stack.enter_context(sender.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for number in range(given["packets"]):
            sending.sendto(number.to_bytes(4, "big"), (ADDRESSES[1], 7001))
        for run in runs:
            if run.reloads:
                run.process.send_signal(signal.SIGHUP)
                run.wait_for("read again")
        for number in range(given["packets"], 2 * given["packets"]):
            sending.sendto(number.to_bytes(4, "big"), (ADDRESSES[1], 7001))
        uptime = time.monotonic()
        time.sleep(0.5)
        for run in runs:
            run.process.send_signal(signal.SIGINT)
        results = {"uptime": uptime, "runs": [run.result() for run in runs]}
        large = Run("large", ["--flow-table-size", "16777216"], stack).process
        results["large"] = [large.wait(DEADLINE), (HERE / "large.said").read_text()]
    (HERE / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
