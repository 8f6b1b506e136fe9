# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: the command itself, from packets on a wire to records."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from waiting import wait_for

from lab.command import COMMAND
from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESSES = ("192.0.2.1", "192.0.2.2")
PORT = 7001
STARTED = 300.0  # seconds; an emulated processor compiles, beside all else that runs here


def main() -> None:
    """Leave as results what the command streamed, and what is still attached when it has ended."""
    directory = Path(os.environ["VM_DIRECTORY"])
    given = json.loads((directory / "given.json").read_bytes())
    with Namespace() as sender, Namespace() as receiver:
        veth(sender, "wire0", receiver, "wire0", ipv4=ADDRESSES)
        process = receiver.popen(
            *(str(COMMAND), "-f", "json", "-i", "wire0", *given["options"], "-"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said: list[str] = []
        streamed: list[str] = []
        readers = [
            threading.Thread(target=gather, args=pair, daemon=True)
            for pair in ((process.stderr, said), (process.stdout, streamed))
        ]
        for reader in readers:
            reader.start()
        wait_for(lambda: any("measuring" in line for line in said) or process.poll(), STARTED)
        assert process.poll() is None, said
        with (
            receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
            sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        ):
            listening.bind((ADDRESSES[1], PORT))
            for size in given["sizes"]:
                sending.sendto(bytes(size), (ADDRESSES[1], PORT))
            sent = len(given["sizes"])
            wait_for(lambda: receiver.counters("wire0").rx_packets >= sent)
        process.send_signal(signal.SIGINT)
        status = process.wait(STARTED)
        for reader in readers:
            reader.join()
        left = receiver.run("tc", "qdisc", "show", "dev", "wire0").stdout
    results = {
        "status": status,
        "said": said,
        "records": [json.loads(line) for line in streamed],
        "left": left,
    }
    (directory / "results.json").write_text(json.dumps(results), encoding="utf-8")


def gather(stream: Iterable[str], lines: list[str]) -> None:
    """The lines of STREAM, as they come."""
    lines.extend(stream)


if __name__ == "__main__":
    main()
