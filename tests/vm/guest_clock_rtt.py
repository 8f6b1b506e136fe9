# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: round-trip times, while somebody sets the clocks.

Given are the steps, as `guest_clock_latency.py` has them. What comes back is how many were asked
and how long each took its asker (ms), the records, and what was said.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

from guest_clock_latency import step
from guest_command import ADDRESSES, HERE, WIRE, streaming

from lab.namespace import Namespace, veth

AT_ONCE = 40  # questions between two steps
GAP = 0.05  # seconds between them
THINKS = 0.02  # seconds before an answer


def serve(taking: socket.socket) -> None:
    """Answer DNS queries, after a while."""
    with contextlib.suppress(OSError):
        while data := taking.recvfrom(512):
            time.sleep(THINKS)
            taking.sendto(data[0][:2] + b"\x81\x80" + data[0][4:], data[1])


def main() -> None:
    """Ask, set a clock, ask, until all steps have been made."""
    given = json.loads((HERE / "given.json").read_bytes())
    took = []
    with Namespace() as server:
        veth(Namespace.current(), WIRE, server, WIRE, ipv4=ADDRESSES)
        with (
            server.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
            streaming("-i", WIRE, "--probe", "rtt") as records,
        ):
            taking.bind((ADDRESSES[1], 53))
            asking.connect((ADDRESSES[1], 53))
            threading.Thread(target=serve, args=(taking,), daemon=True).start()
            for each in (*given["steps"], None):
                for _ in range(AT_ONCE):
                    before = time.monotonic()
                    asking.send(len(took).to_bytes(2, "big") + b"\1\0\0\1" + bytes(22))
                    asking.recv(512)
                    took.append((time.monotonic() - before) * 1000)
                    time.sleep(GAP)
                if each:
                    step(*each)
            time.sleep(1)
        said = (HERE / "errors").read_text()
    results = {"took": took, "records": records, "said": said}
    Path(os.environ["VM_DIRECTORY"], "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
