# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: round trips over a long way that the kernel itself makes (netem).

Given are seconds of delay, and how much is lost of what comes back, in percent. What comes back:
records, the capture of the same packets in base64, the address of the interface, and what the
kernel's own connection, the pinging program and the client of a DNS server have measured, in ms.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import threading
import time
from pathlib import Path

from farapart import NAME, answered, ask, connection, ping, push, settle
from guest_command import ADDRESSES, HERE, streaming
from relay import mac

from lab.capture import Capture
from lab.namespace import Namespace, veth

PORT = 9100
_RTT, _MIN_RTT = 68, 148  # of struct tcp_info, linux/tcp.h


class _Netem:
    """What NAMESPACE sends is late by DELAY seconds."""

    def __init__(self, namespace: Namespace, delay: float) -> None:
        self._namespace, self._delay = namespace, delay
        self._do("add", 0)

    def lose(self, percent: float) -> None:
        """So much of it is lost from now on."""
        self._do("change", percent)

    def _do(self, verb: str, percent: float) -> None:
        words = ("netem", "limit", "20000", "delay", f"{self._delay}s", "loss", f"{percent}%")
        self._namespace.run("tc", "qdisc", verb, "dev", NAME, "root", *words)


def estimate(connected: socket.socket) -> tuple[float, float]:
    """Smoothed and shortest round trip as `ss` shows them, ms."""
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return tuple(struct.unpack_from("=I", info, at)[0] / 1000 for at in (_RTT, _MIN_RTT))


def serve(taking: socket.socket) -> None:
    """Answer DNS queries."""
    with contextlib.suppress(OSError):
        while data := taking.recvfrom(512):
            taking.sendto(data[0][:2] + b"\x81\x80" + data[0][4:], data[1])


def queries(asking: socket.socket, times: int) -> list[float]:
    """How long each took, ms."""
    found = []
    for number in range(times):
        before = time.monotonic()
        asking.send(number.to_bytes(2, "big") + b"\1\0\0\1" + bytes(22))
        asking.recv(512)
        found.append((time.monotonic() - before) * 1000)
    return found


def main() -> None:
    """TCP that asks, TCP that sends much, with loss, ICMP and DNS, under one vtap-stream."""
    given = json.loads((HERE / "given.json").read_bytes())
    os.sched_setaffinity(
        0, {0}
    )  # packets that cross come to the program and the capture in one order
    here = Namespace.current()
    path = HERE / "capture.pcap"
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(Namespace())
        veth(here, NAME, there, NAME, ipv4=ADDRESSES, offload=True)
        netem = _Netem(there, given["delay"])
        own = mac(here, NAME)
        pinging = here.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        stack.enter_context(pinging).connect((ADDRESSES[1], 0))
        taking = stack.enter_context(there.socket(socket.AF_INET, socket.SOCK_DGRAM))
        taking.bind((ADDRESSES[1], 53))
        asking = stack.enter_context(here.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.connect((ADDRESSES[1], 53))
        threading.Thread(target=serve, args=(taking,), daemon=True).start()
        with (
            Capture(here, NAME, path),
            streaming("-i", NAME, "--probe", "rtt", "-t", "3600") as records,
        ):
            ours, theirs = connection(stack, here, there, ADDRESSES[1], PORT)
            with answered(theirs):
                ask(ours, given["times"], 0.0)
            asked = estimate(ours)
            netem.lose(given["loss"])
            push(*connection(stack, here, there, ADDRESSES[1], PORT + 1), 600_000, 1e6)
            settle(here, 1.5)
            netem.lose(0)
            pinged = ping(pinging, socket.AF_INET, given["times"], 0.01)
            answers = queries(asking, given["times"])
            settle(here, 1.5)
    results = {
        "records": records,
        "capture": base64.b64encode(path.read_bytes()).decode(),
        "mac": own,
        "kernel": asked,
        "icmp": pinged,
        "dns": answers,
    }
    Path(os.environ["VM_DIRECTORY"], "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
