# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: receive latency, while somebody sets the clocks.

Given are the stages and the steps: which clock, and by how many seconds (the wall clock) or to how
many (what CLOCK_TAI is ahead). What comes back is how many were sent, the records, and what was
said.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import threading
import time
from pathlib import Path

from guest_command import ADDRESSES, HERE, WIRE, streaming

from lab.namespace import Namespace, veth

PORT = 7001
GAP = 0.05  # seconds between datagrams
AT_ONCE = 40  # datagrams between two steps
_ADJ_TAI = 0x80  # include/uapi/linux/timex.h
_MODES, _CONSTANT, _SIZE = 0, 48, 208  # offsets in struct timex, and its size


def set_tai(seconds: int) -> None:
    """CLOCK_TAI is so far ahead from now on (adjtimex(2))."""
    timex = bytearray(_SIZE)
    struct.pack_into("I", timex, _MODES, _ADJ_TAI)
    struct.pack_into("q", timex, _CONSTANT, seconds)
    given = (ctypes.c_char * _SIZE).from_buffer(timex)
    if ctypes.CDLL(None, use_errno=True).adjtimex(given) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")


def step(clock: str, seconds: int) -> None:
    """Set a clock."""
    if clock == "tai":
        set_tai(seconds)
    else:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def read(taking: socket.socket) -> None:
    """Whatever comes, at once, to the end."""
    while taking.recv(2000):
        pass


def main() -> None:
    """Send, set a clock, send, until all steps have been made."""
    given = json.loads((HERE / "given.json").read_bytes())
    options = ("-i", WIRE, "--probe", "latency", "--latency-stages", ",".join(given["stages"]))
    sent = 0
    with Namespace() as sender:
        veth(sender, WIRE, Namespace.current(), WIRE, ipv4=ADDRESSES)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taking,
            sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
            streaming(*options) as records,
        ):
            taking.bind((ADDRESSES[1], PORT))
            threading.Thread(target=read, args=(taking,), daemon=True).start()
            for each in (*given["steps"], None):
                for _ in range(AT_ONCE):
                    sending.sendto(b"x", (ADDRESSES[1], PORT))
                    sent += 1
                    time.sleep(GAP)
                if each:
                    step(*each)
            time.sleep(1)
        said = (HERE / "errors").read_text()
    results = {"sent": sent, "records": records, "said": said}
    Path(os.environ["VM_DIRECTORY"], "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
