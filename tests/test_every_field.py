# SPDX-License-Identifier: Apache-2.0
"""Generated traffic: every field of `vtap_flow` is what a capture of the same packets says.

trafgen (netsniff-ng) sends the shapes that testers send: a 32-bit number at an offset of the
payload, and behind a pattern; TCP; IPv4, IPv6, VLANs. scapy sends what trafgen has no words for:
options, extension headers, fragments, encapsulations, padding, and payloads beyond 5,000 bytes.
"""

from __future__ import annotations

import itertools
import random
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

import captured
import intervals
import pytest
import tap
from captured import NS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Padding
from traffic import Wire

from lab.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scapy.packet import Packet

ALL_KEYS = "src_ip,dst_ip,src_port,dst_port,protocol,vlan"
TAGS = {"device": "203.0.113.9", "direction": "ingress", "interface": "wire0"}
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")  # the latter is nobody's: nothing is answered
SOURCE, TARGET = "198.51.100.1", "198.51.100.2"
SOURCE6, TARGET6 = "2001:db8:1::1", "2001:db8:1::2"
PATTERN = 0x5EC70123
JUMBO = 9000
OFFSET = intervals.Choices(
    numbered=True,
    offset=3,
    threshold=2,
    stop_gap=NS // 4,
    expected_gap=NS // 50,
    smoothed=True,
)
BEHIND_PATTERN = intervals.Choices(
    numbered=True,
    offset=6,
    pattern=struct.pack(">I", PATTERN),
    stream=False,
    threshold=2,
    stop_gap=NS // 4,
    smoothed=True,
    bits=True,
)
STREAMS_BEHIND_PATTERN = BEHIND_PATTERN._replace(stream=True, threshold=100, bits=False)


def options(chosen: intervals.Choices) -> list[str]:
    """Those of vtap-stream that say what was chosen."""
    said = ["--sequence-offset", str(chosen.offset), "--stop-gap", str(chosen.stop_gap / NS)]
    said += ["--sequence-threshold", str(chosen.threshold), "--smoothed-jitter"]
    said += ["--tcp-sequence", "stream" if chosen.stream else "packet"]
    if chosen.pattern:
        said += ["--sequence-pattern", "0x" + chosen.pattern.hex()]
    if chosen.expected_gap:
        said += ["--expected-gap", str(chosen.expected_gap / 1e6)]
    return said + ["--bits"] * chosen.bits


def with_errors(count: int, chance: random.Random) -> list[int]:
    """Numbers around the wrap, some of them left out, doubled, or in the wrong place."""
    numbers = [(n - count // 2) & 0xFFFFFFFF for n in range(count)]
    for _ in range(count // 20):
        at = chance.randrange(2, len(numbers) - 5)
        numbers[at], numbers[at + 2] = numbers[at + 2], numbers[at]
        numbers.insert(at + 3, numbers[at + 3])
        del numbers[chance.randrange(2, len(numbers) - 2)]
    return numbers


def trafgen(wire: Wire, path: Path) -> None:
    """Some hundred packets of eight flows, twice, with a stop between."""
    chance = random.Random(7)  # noqa: S311 - traffic, not secrets
    ethernet = "eth(sa={}, da={})".format(*MACS)
    four = f"{ethernet}, ipv4(sa={SOURCE}, da={TARGET}, ttl=64)"
    six = f"{ethernet}, ipv6(sa={SOURCE6}, da={TARGET6}, hoplimit=64)"
    tagged = f"{ethernet}, vlan(1ad, id=7), vlan(1q, id=100), ipv6(sa={SOURCE6}, da={TARGET6})"
    flows = (
        f"{four}, udp(sp=1000, dp=2000)",
        f"{tagged}, udp(sp=1001, dp=2000)",
        f"{four}, icmp4(echorequest, id=5)",
        f"{six}, icmp6(echorequest), c32(0x76540001)",
    )
    lists = [with_errors(40, chance) for _ in range(len(flows) + 1)]
    packets = []
    for step, row in enumerate(zip(*lists, strict=False)):
        for flow, number in zip(flows, row, strict=False):
            pattern = f"drnd({1 + chance.randrange(1200)}), c32({PATTERN}), 0, 0, c32({number})"
            packets.append(f'{flow}, "abc", c32({number}), {pattern}, fill(0, {step})')
        place = row[-1] * 100 & 0xFFFFFFFF
        packets.append(f"{four}, tcp(sp=1002, dp=2000, seq={place}, ack), fill(0x41, 100)")
        # trafgen counts itself: in each packet from a start of its own, as many on as there are
        start = 70000 + step % 8
        counting = f"seq={start}, seq=dinc({start}, {start + 80}, 8)"
        packets.append(f"{six}, tcp(sp=1003, dp=2000, {counting}), fill(0x41, {1 + step % 2})")
        own = f"0, 0, 1, dinc({step % 8}, {step % 8 + 80}, 8)"
        packets.append(f"{four}, udp(sp=1004, dp=2000), 'abc', {own}, c32({PATTERN}), 0, 0, {own}")
        packets.append(f"{six}, udp(sp=1005, dp=2000), c16({step})")
    configuration = path / "trafgen.cfg"
    configuration.write_text(
        "".join(f"{{ {packet} }}\n" for packet in packets).replace("'abc'", '"abc"')
    )
    for _ in range(2):
        wire.sender.run(
            *("trafgen", "--out", "wire0", "--conf", str(configuration), "--cpus", "1"),
            *("--num", str(len(packets) * 3 // 2), "--gap", "1ms"),
            *("--no-sock-mem", "--no-cpu-stats"),
            timeout=tap.DEADLINE,  # it waits for ever for a worker that died
        )
        wire.settle()


def scapy_shapes(number: int, chance: random.Random) -> list[Packet]:
    """One packet, or its fragments, of each shape that is not in trafgen's language."""
    head = struct.pack(">IHI", PATTERN, 0, number)

    def payload(most: int) -> bytes:
        start = b"abc" + struct.pack(">I", number) + chance.randbytes(chance.randrange(most))
        return start + head + chance.randbytes(most // 9)

    ether, tags = Ether(src=MACS[0], dst=MACS[1]), Dot1AD(vlan=7) / Dot1Q(vlan=4094)
    four, six = IP(src=SOURCE, dst=TARGET), IPv6(src=SOURCE6, dst=TARGET6)
    options = IP(src=SOURCE, dst=TARGET, options=IPOption_RR(length=15, pointer=4))
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=[SOURCE6]) / IPv6ExtHdrDestOpt()
    times = [("NOP", None), ("NOP", None), ("Timestamp", (number, 0))]
    segment = TCP(sport=1003, dport=2000, seq=number * 100 & 0xFFFFFFFF, flags="A", options=times)
    inner = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    deep = bytes(4990 + chance.randrange(14))  # the pattern may end 4 bytes before 5,000, or behind
    short = IP(src=SOURCE, dst=TARGET, len=31) / UDP(sport=1010, dport=2000, len=11) / b"abc"
    fragmented = IP(src=SOURCE, dst=TARGET, id=number & 0xFFFF) / UDP(sport=1005, dport=2000)
    identified = IPv6ExtHdrFragment(id=number) / UDP(sport=1006, dport=2000)
    return [
        ether / options / UDP(sport=1001, dport=2000) / payload(900),
        ether / tags / options / ICMP(id=3) / payload(900),
        ether / six / chain / UDP(sport=1002, dport=2000) / payload(900),
        ether / four / segment / bytes(100),
        ether / tags / four / UDP(sport=1004, dport=4789) / VXLAN(vni=5) / inner / payload(900),
        *(ether / part for part in fragment(fragmented / payload(3000), fragsize=1480)),
        *(ether / part for part in fragment6(six / identified / payload(3000), 1280)),
        ether / four / SCTP(sport=1007, dport=2000) / SCTPChunkData(data=payload(300)),
        ether / IP(src=SOURCE, dst=TARGET, proto=253) / payload(300),
        ether / four / UDP(sport=1009, dport=2000) / (deep + head + bytes(3000)),
        ether / short / Padding(head + bytes(5)),
    ]


def scapy(wire: Wire, _: Path) -> None:
    """Each shape 40 times; a stop in the middle; TCP has a SYN, a FIN and a RST."""
    chance = random.Random(11)  # noqa: S311 - traffic, not secrets
    connection = Ether(src=MACS[0], dst=MACS[1]) / IP(src=SOURCE, dst=TARGET)
    numbers = with_errors(40, chance)
    first, last = numbers[0] * 100 & 0xFFFFFFFF, (numbers[-1] + 1) * 100 & 0xFFFFFFFF
    flags = [("S", first - 1), ("F", last), ("F", last), ("R", 5)]
    ends = [connection / TCP(sport=1003, dport=2000, seq=seq, flags=flag) for flag, seq in flags]
    frames = [bytes(ends.pop(0))]
    for number in numbers:
        frames += [bytes(packet) for packet in scapy_shapes(number, chance)]
    frames += [bytes(packet) for packet in ends]
    with wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("wire0", 0))
        for count, frame in enumerate(frames):
            time.sleep(chance.uniform(0, 0.002))
            sender.send(frame)
            if count == len(frames) // 2:
                wire.settle()
    wire.settle()


@pytest.mark.parametrize(
    ("send", "chosen"),
    [
        pytest.param(trafgen, OFFSET, id="trafgen, offset"),
        pytest.param(trafgen, BEHIND_PATTERN, id="trafgen, pattern"),
        pytest.param(scapy, STREAMS_BEHIND_PATTERN, id="scapy, pattern"),
        pytest.param(scapy, OFFSET, id="scapy, offset"),
    ],
)
def test_every_field(
    tmp_path: Path, send: Callable[[Wire, Path], None], chosen: intervals.Choices
) -> None:
    """Counts, rates, times, jitter of every kind, sequence numbers, and each error's event."""
    path = tmp_path / "in.pcap"
    with Wire() as wire:
        for namespace in (wire.sender, wire.receiver):
            namespace.run("ip", "link", "set", "wire0", "mtu", str(JUMBO))
        with (
            Capture(wire.receiver, "wire0", path, snaplen=65535) as capture,
            tap.Tap(
                wire.receiver,
                *("-i", "wire0", "-d", TAGS["device"], "--key", ALL_KEYS),
                *("--max-events", "100000", *options(chosen)),
            ) as tapped,
        ):
            tap.wait_past_line()
            send(wire, tmp_path)
            capture.stop()
            records = tapped.stop()
    found = captured.packets(path)
    expected = intervals.expect(found, chosen, by_vlan=True)
    # the traffic has what it is there for
    assert {"tcp", "udp", "icmp"} < {packet.flow.protocol for packet in found}
    for name in intervals.ERRORS:
        assert any(fields.get(f"seq_{name}") for fields in expected.fields.values()), name
    kinds = Counter(error.kind for errors in expected.events.values() for _, error in errors)
    if chosen.stream:
        assert {"hole", "out_of_order", "retransmission"} <= kinds.keys()
    assert any("seq_last" not in fields for fields in expected.fields.values())
    assert any(b.time - a.time > chosen.stop_gap for a, b in itertools.pairwise(found))
    intervals.agree(records, expected, chosen, TAGS)
    account = tap.agent(records, "wire0")
    assert account["seen_packets"] == account["counted_packets"] == len(found)
    assert account["seen_bytes"] == sum(packet.bytes for packet in found)
    assert account["events_handed"] == kinds.total()
