# SPDX-License-Identifier: Apache-2.0
"""What a rule means, word by word in plain Python: the judge of the rule compiler.

Written from the description of a rule, not from the product: a packet is compared with the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

NAMES = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "sctp": 132, "udplite": 136}


@dataclass(frozen=True)
class Packet:
    """What a rule looks at; `ports` is None where the packet has none."""

    src: IPv4Address | IPv6Address
    dst: IPv4Address | IPv6Address
    ports: tuple[int, int] | None
    protocol: int


def first_match(rules: list[str], packet: Packet) -> int | None:
    """The position of the first rule that matches PACKET, None if there is none."""
    for position, rule in enumerate(rules):
        if matches(rule, packet):
            return position
    return None


def matches(rule: str, packet: Packet) -> bool:
    """Whether RULE matches PACKET."""
    source, destination, source_port, destination_port, protocol = (
        [] if word == "-" else word.strip("[]").split(",") for word in rule.split(" ")
    )
    for wanted, address in ((source, packet.src), (destination, packet.dst)):
        if wanted and not any(address in ip_network(one) for one in wanted):
            return False
    for wanted, end in ((source_port, 0), (destination_port, 1)):
        if wanted and not (packet.ports and any(_in(one, packet.ports[end]) for one in wanted)):
            return False
    return not protocol or any(
        packet.protocol == (int(one) if one.isdecimal() else NAMES[one]) for one in protocol
    )


def _in(text: str, port: int) -> bool:
    if "-" in text:
        low, high = text.split("-")
        return port in range(int(low), int(high) + 1)
    return port == int(text)
