# SPDX-License-Identifier: Apache-2.0
"""Whatever the packets are, a drop is told once, in its schema, and what is told of it is true."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING, Any

import dissector
from dropcases import build
from dropevents import mac
from recordschema import VALIDATOR
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import LLC, SNAP, Dot3, Ether
from scapy.packet import Raw
from tap import Tap
from waiting import wait_for

from lab.loading import load
from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterable

FRAMES = 4000
REASON = "TC_INGRESS"
INSIDE = (4, 41, 47)  # protocols behind which the program for drops looks on its own
DROP_ALL = Source(
    "#include <uapi/linux/bpf.h>\nint drop_all(struct __sk_buff *skb)\n{\n\treturn 2;\n}\n",
    (Program("drop_all", "SCHED_CLS"),),
    (),
)
UDP_PACKET = UDP(sport=5, dport=6) / b"0123456789"
AH = bytes.fromhex("11040000 00000001 00000001 000102030405060708090a0b")  # behind it UDP
MORE = (
    Ether() / IP(src="192.0.2.1", dst="192.0.2.2", proto=51) / Raw(AH + bytes(UDP_PACKET)),
    Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2", nh=51) / Raw(AH + bytes(UDP_PACKET)),
    Ether() / IPv6(nh=135) / Raw(bytes.fromhex("3b00000000000000")),  # mobility, nothing behind it
    Dot3() / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x800) / IP() / UDP_PACKET,
)


def mutated(chance: random.Random, to: str) -> Iterable[bytes]:
    """Frames of all kinds, changed at random behind the addresses; each from an own address."""
    known = [*build(to).values(), *map(bytes, MORE)]
    for number in range(FRAMES):
        frame = bytearray(chance.choice(known))
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            at = chance.randrange(12, len(frame))
            if chance.random() < 0.7:
                frame[at] = chance.choice((0, 1, 4, 6, 8, 0xFF, chance.randrange(256)))
            else:
                del frame[max(at, 20) :]
        frame[:12] = bytes.fromhex(to.replace(":", "")) + b"\x02\x01" + number.to_bytes(4, "big")
        yield bytes(frame)


def agrees(packet: dict[str, Any], frame: bytes) -> bool:
    """Whether what is told is what a reader of the RFCs finds, where both find an IP packet."""
    found = dissector.dissect(frame)
    told = packet.get("IP")
    if isinstance(found, dissector.Not) or found.protocol in INSIDE or not told:
        return True
    ports = packet.get("TRANSPORT")
    return (
        (told["srcIp"], told["dstIp"]) == (str(found.src), str(found.dst))
        and told["protocol"] == found.protocol
        and (not found.ports or (ports["srcPort"], ports["dstPort"]) == found.ports)
    )


def test_any_packet() -> None:
    """Thousands of mutated frames, all of which are dropped at one place."""
    chance = random.Random(12)  # noqa: S311 - traffic, not secrets
    with Namespace() as a, Namespace() as b:
        veth(a, "out0", b, "in0")
        to = mac(b, "in0")
        frames = {frame[6:12].hex(":"): frame for frame in mutated(chance, to)}
        loaded = load(DROP_ALL)
        with b.entered():
            first = attach.Direction.INGRESS
            held = attach.attach(loaded.programs["drop_all"], interfaces()["in0"], first)
        options = ("--probe", "drops", "-i", "in0", "--max-events", "1000000")
        with Tap(b, *options) as tapped, a.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("out0", 0))
            before = b.counters("in0").rx_packets
            for frame in frames.values():
                sender.send(frame)
            wait_for(lambda: b.counters("in0").rx_packets >= before + len(frames))
            records = tapped.stop()
        held.detach()
        loaded.close()
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["name"] == "DroppedPackets" and record["trapName"] == REASON:
            VALIDATOR.validate(record)
            source = record["packet"].get("ETHERNET", {}).get("srcMac", "")
            assert source not in found
            found[source] = record
    (account,) = [r for r in records if r.get("probe") == "drops"][-1:]
    assert len(found) + account["missed_packets"] >= len(frames)
    wrong = [s for s, r in found.items() if s in frames and not agrees(r["packet"], frames[s])]
    assert not wrong, [(frames[s].hex(), found[s]["packet"]) for s in wrong[:3]]
    compared = [s for s in found if s in frames and "IP" in found[s]["packet"]]
    assert len(compared) > FRAMES / 2
