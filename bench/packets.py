# SPDX-License-Identifier: Apache-2.0
"""What a packet costs: in the program alone, and on its way through a veth pair."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import time

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import testrun
from lab.namespace import Namespace, veth
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.table import FlowTable

TITLE = "(a) The cost of a packet"
ROUNDS, REPEAT = 15, 300_000
UDP_SEGMENT = 103  # include/uapi/linux/udp.h
SECONDS = 3.0

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
FRAMES = {
    "UDP over IPv4": ETHER
    / IP(src="192.0.2.1", dst="192.0.2.2")
    / UDP(sport=7, dport=9)
    / bytes(100),
    "TCP over IPv4": ETHER
    / IP(src="192.0.2.1", dst="192.0.2.2")
    / TCP(sport=7, dport=9)
    / bytes(100),
    "UDP over IPv6": ETHER
    / IPv6(src="2001:db8::1", dst="2001:db8::2")
    / UDP(sport=7, dport=9)
    / bytes(100),
}


def main() -> None:
    """Print both tables."""
    _in_the_program()
    print()
    _on_the_wire()


def _in_the_program() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    objects = testrun.load(testrun.settings())
    FlowTable(testrun.settings(), objects, SystemClock())  # it tells the program the time
    empty, program = objects.programs["empty"], objects.programs["vtap_ingress"]
    print(
        "| packet | empty program, ns | above it, with a receive timestamp | without |\n"
        "|---|---|---|---|"
    )
    for name, packet in FRAMES.items():
        frame = bytes(packet)
        taken: list[list[int]] = [[], [], []]
        for _ in range(ROUNDS):  # in turns, so that a busy moment hits all
            taken[0].append(testrun.run(empty, frame, REPEAT))
            taken[1].append(testrun.run(program, frame, REPEAT, tstamp=time.time_ns()))
            taken[2].append(testrun.run(program, frame, REPEAT))
        base, stamped, unstamped = (min(times) for times in taken)
        print(f"| {name} | {base} | **{stamped - base}** | **{unstamped - base}** |")
    objects.close()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _on_the_wire() -> None:
    """UDP segmented by the kernel: sending costs little, and the veth sees single packets."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(3):
        for tapped, seen in rates.items():
            seen.append(_rate(tapped=tapped))
    without, with_tap = (statistics.median(seen) for seen in rates.values())
    print("| veth, one sender | packets/s | ratio |")
    print("|---|---|---|")
    print(f"| without vtap-stream | {without:,.0f} | 1 |")
    print(f"| with vtap-stream | {with_tap:,.0f} | {with_tap / without:.2f} |")


def _rate(*, tapped: bool) -> float:
    with Namespace() as sender, Namespace() as receiver:
        addresses = ("192.0.2.1", "192.0.2.2")
        veth(sender, "bench0", receiver, "bench0", ipv4=addresses)
        tap = None
        if tapped:
            tap = receiver.popen(
                *(".venv/bin/vtap-stream", "--transport", "udp", "-i", "bench0", "127.0.0.1", "9"),
                stderr=subprocess.PIPE,
                text=True,
            )
            while "measuring" not in tap.stderr.readline():
                pass
        with sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
            out.connect((addresses[1], 9))
            data = bytes(6000)  # 60 packets
            before, start = receiver.counters("bench0").rx_packets, time.monotonic()
            while time.monotonic() - start < SECONDS:
                for _ in range(100):
                    try:
                        out.send(data)
                    except ConnectionRefusedError:  # nobody listens there
                        continue
            taken = time.monotonic() - start
            received = receiver.counters("bench0").rx_packets - before
        if tap:
            tap.kill()
            tap.wait()
            tap.stderr.close()
        return received / taken
