# SPDX-License-Identifier: Apache-2.0
"""What rules cost: ns per packet with 0, 16 and 256 of them, matched at the end, or by none."""

from __future__ import annotations

import os
import random
import statistics

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import testrun
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.rules import parse_rules
from trapstream_vtap.probes.flows.table import FlowTable

TITLE = "(d) The cost of rules"
ROUNDS, REPEAT = 15, 200_000
COUNTS = (0, 16, 256)
FRAMES = {
    "IPv4, the last rule matches": IP(src="192.0.2.1", dst="198.51.100.7"),
    "IPv6, the rule before": IPv6(src="2001:db8::1", dst="2001:db8:ffff::7"),
    "IPv4, none matches": IP(src="192.0.2.1", dst="203.0.113.9"),
}


def texts(count: int, seed: int = 1) -> list[str]:
    """COUNT rules with prefixes of both IP versions, lists and ranges; the last two match."""
    chance = random.Random(seed)  # noqa: S311 - rules, not secrets
    rules: list[str] = []
    while len(rules) < count - 2:
        octet, port = chance.randrange(256), chance.randrange(1024, 60000)
        net = f"10.{len(rules) % 256}.{octet}.0/24"
        rules.append(
            chance.choice(
                (
                    f"{net} - - {port} tcp",
                    f"- [{net},172.16.{len(rules) % 256}.0/26] - [{port},{port + 7}] [tcp,udp]",
                    f"- {net} - {port}-{port + 100} udp",
                    f"2001:db8:{len(rules):x}::/48 - - - udp",
                    f"- 2001:db8:{len(rules):x}:{octet:x}::/64 {port}-{port + 9} - tcp",
                    f"{net} 198.51.{octet}.0/24 - - icmp",
                )
            )
        )
    return (
        [*rules, "- 2001:db8:ffff::/48 - 9 udp", "192.0.2.0/24 198.51.100.0/24 - 9 udp"]
        if count
        else []
    )


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    programs = {}
    for count in COUNTS:
        chosen = testrun.settings(rules=parse_rules(texts(count)))
        programs[count] = testrun.load(chosen)
        FlowTable(chosen, programs[count], SystemClock())  # it tells the program the time
    print("| packet | " + " | ".join(f"{count} rules, ns" for count in COUNTS) + " | 256 : 16 |")
    print("|---|" + "---|" * (len(COUNTS) + 1))
    for name, packet in FRAMES.items():
        ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
        frame = bytes(ether / packet / UDP(sport=7, dport=9) / bytes(100))
        taken: dict[int, list[int]] = {count: [] for count in COUNTS}
        for _ in range(ROUNDS):  # in turns, so that a busy moment hits all
            for count, objects in programs.items():
                taken[count].append(
                    testrun.run(objects.programs["vtap_ingress"], frame, REPEAT)
                    - testrun.run(objects.programs["empty"], frame, REPEAT)
                )
        cost = {count: statistics.median(times) for count, times in taken.items()}
        columns = " | ".join(f"{cost[count]:.0f}" for count in COUNTS)
        print(f"| {name} | {columns} | **{cost[256] / cost[16]:.2f}** |")
    for objects in programs.values():
        objects.close()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
