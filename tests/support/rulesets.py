# SPDX-License-Identifier: Apache-2.0
"""Sets of rules, and packets that they match or do not."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_network

from matcher import NAMES, Packet

WITH_PORTS = (6, 17, 132, 136)


def inside(rule: str, chance: random.Random) -> Packet:
    """A packet that RULE matches: one value out of each word."""
    lists = [word.strip("[]").split(",") if word != "-" else [] for word in rule.split()]
    nets = [[ip_network(one) for one in some] for some in lists[:2]]
    version = next((net[0].version for net in nets if net), 4)
    kind, everything = {4: (IPv4Address, "0.0.0.0/0"), 6: (IPv6Address, "::/0")}[version]
    ends = [[n for n in net if n.version == version] or [ip_network(everything)] for net in nets]
    source, destination = (
        kind(chance.randint(int(net[0]), int(net[-1]))) for net in map(chance.choice, ends)
    )
    words = [chance.choice(some) if some else None for some in lists]
    ports = []
    for word in words[2:4]:
        first, _, last = (word or "0-65535").partition("-")
        ports.append(chance.randint(int(first), int(last or first)))
    protocol = words[4] or "udp"
    number = int(protocol) if protocol.isdecimal() else NAMES[protocol]
    return Packet(source, destination, tuple(ports) if number in WITH_PORTS else None, number)


def outside(packet: Packet, chance: random.Random) -> Packet:
    """PACKET with one thing changed by a little."""
    change = chance.randrange(4)
    step = chance.choice((-1, 1, 256, 1 << 16))
    src, dst, ports, protocol = packet.src, packet.dst, packet.ports, packet.protocol
    most = (1 << src.max_prefixlen) - 1
    if change == 0:
        src = type(src)((int(src) + step) & most)
    elif change == 1:
        dst = type(dst)((int(dst) + step) & most)
    elif change == 2 and ports:
        ports = (ports[0], (ports[1] + step) & 0xFFFF)
    elif ports:
        protocol = chance.choice(WITH_PORTS)
    return Packet(src, dst, ports, protocol)


def crowded(count: int, seed: int) -> list[str]:
    """COUNT rules of which each has a list or range in every word: the hardest for the verifier."""
    chance = random.Random(seed)  # noqa: S311 - rules, not secrets
    rules: list[str] = []
    while len(rules) < count:
        four = [f"{chance.randrange(1, 224)}.{chance.randrange(256)}.0.0/16" for _ in range(4)]
        six = [
            f"2001:db8:{chance.randrange(65536):x}:{chance.randrange(65536):x}::/64"
            for _ in range(4)
        ]
        ports = [sorted(chance.sample(range(65536), 2)) for _ in range(2)]
        rules.append(
            f"[{four[0]},{six[0]},{six[1]}] [{four[1]},{six[2]},{four[2]}] "
            f"{ports[0][0]}-{ports[0][1]} [{ports[1][0]},{ports[1][1]}] [tcp,udp]"
        )
    return rules
