# SPDX-License-Identifier: Apache-2.0
"""In a virtual machine: a vtap-stream for each of the given options, while somebody sets the clock.

All measure the same datagrams. What comes back is what each said, streamed and exited with.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path

from guest_boot import ADDRESSES, WIRE, Run

from lab.namespace import Namespace, veth

HERE = Path(os.environ["VM_DIRECTORY"])
GAP = 0.05  # seconds between datagrams
AT_ONCE = 40  # datagrams between two steps of the clock


def main() -> None:
    """Send, set the clock, send, until all steps have been made."""
    given = json.loads((HERE / "given.json").read_bytes())
    number = 0
    with contextlib.ExitStack() as stack:
        sender = stack.enter_context(Namespace())
        veth(sender, WIRE, Namespace.current(), WIRE, ipv4=ADDRESSES)
        runs = [Run(str(each), options, stack) for each, options in enumerate(given["options"])]
        for run in runs:
            run.wait_for("measuring")
        sending = stack.enter_context(sender.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for step in (*given["steps"], 0):
            for _ in range(AT_ONCE):
                sending.sendto(number.to_bytes(4, "big"), (ADDRESSES[1], 7001))
                number += 1
                time.sleep(GAP)
            if step:
                time.clock_settime(time.CLOCK_REALTIME, time.time() + step)
        time.sleep(1)
        for run in runs:
            run.process.send_signal(signal.SIGINT)
        results = {"sent": number, "runs": [run.result() for run in runs]}
    (HERE / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
