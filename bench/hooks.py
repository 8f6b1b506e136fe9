# SPDX-License-Identifier: Apache-2.0
"""What a packet costs at each hook, and what it costs to look into a tunnel."""

from __future__ import annotations

import os
import statistics

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from bench import testrun
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.table import FlowTable

TITLE = "(f) The cost of a packet by hook, and of a tunnel"
ROUNDS, REPEAT = 15, 300_000

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PLAIN = ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=7, dport=9) / bytes(100)
TUNNEL = ETHER / IP(src="192.0.2.7", dst="192.0.2.8") / UDP(sport=9) / VXLAN(vni=5) / PLAIN

ROWS = (
    ("tc", (), PLAIN, "TCP over IPv4"),
    ("xdp", (), PLAIN, "TCP over IPv4"),
    ("socket", (), PLAIN, "TCP over IPv4"),
    ("tc", (), TUNNEL, "the same in VXLAN, as its outer flow"),
    ("tc", ("vxlan",), PLAIN, "TCP over IPv4, `--decapsulate vxlan`"),
    ("tc", ("vxlan",), TUNNEL, "the same in VXLAN, `--decapsulate vxlan`"),
    ("xdp", ("vxlan",), TUNNEL, "the same in VXLAN, `--decapsulate vxlan`"),
    ("socket", ("vxlan",), TUNNEL, "the same in VXLAN, `--decapsulate vxlan`"),
)


def main() -> None:
    """Print the table."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    loaded = []
    for hook, tunnels, packet, name in ROWS:
        chosen = testrun.settings(hook=hook, decapsulate=tunnels)
        objects = testrun.load(chosen)
        FlowTable(chosen, objects, SystemClock())  # it tells the program the time
        # the first header is not shown to a socket filter
        frame = bytes(14 * (hook == "socket")) + bytes(packet)
        loaded.append((objects, frame, name, hook))
    taken: list[tuple[list[int], list[int]]] = [([], []) for _ in loaded]
    for _ in range(ROUNDS):  # in turns, so that a busy moment hits all
        for (objects, frame, _, hook), times in zip(loaded, taken, strict=True):
            program = "vtap_socket" if hook == "socket" else "vtap_ingress"
            for at, which in enumerate(("empty", program)):
                times[at].append(testrun.run(objects.programs[which], frame, REPEAT))
    print("| hook | packet | empty program, ns | above it |\n|---|---|---|---|")
    for (objects, _, name, hook), (empty, ours) in zip(loaded, taken, strict=True):
        base = statistics.median(empty)
        print(f"| {hook} | {name} | {base} | **{statistics.median(ours) - base}** |")
        objects.close()
    os.sched_setaffinity(0, before)
