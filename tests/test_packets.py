# SPDX-License-Identifier: Apache-2.0
"""What the kernel program makes of packets of every kind, one at a time."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from dissector import Not, Packet, dissect
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from packets import (
    COUNTED,
    DESTINATION,
    DST4,
    DST6,
    HOP,
    MALFORMED,
    NOT_IP,
    PACKETS,
    PORTS,
    REPRESENTATIVE,
    SRC4,
    SRC6,
    X11,
    Q,
    agrees,
    balanced,
    counted,
    ether,
    extension,
    flow_of,
    frames,
    icmp,
    ipv4,
    ipv6,
    properties,
    sctp,
    tcp,
    udp,
)
from program import LONGEST, LOOPBACK, NOT_LINEAR, Flow, FlowProgram, Wire, settings
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    MIP6MH_BE,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from lab.namespace import Namespace
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.bpf.spread import spread
from trapstream_vtap.clock import NS
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator


# Frames, field by field


# What to expect


@pytest.fixture(scope="module")
def program() -> Iterator[FlowProgram]:
    """All four programs, with every key field."""
    loaded = FlowProgram(settings())
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def outgoing(program: FlowProgram) -> Iterator[Wire]:
    """A real interface, seen at egress: frames as they were sent."""
    with Wire(program, Direction.EGRESS) as wire:
        yield wire


@pytest.fixture(scope="module")
def incoming(program: FlowProgram) -> Iterator[Wire]:
    """A real interface, seen at ingress: the outermost tag is off the frame."""
    with Wire(program, Direction.INGRESS) as wire:
        yield wire


# Examples


@pytest.mark.parametrize("name", COUNTED)
def test_counts(program: FlowProgram, outgoing: Wire, incoming: Wire, name: str) -> None:
    """A well-formed packet is counted into its flow, in both directions, wherever its tag is."""
    frame, flow = counted(name)
    assert program.run(frame, "vtap_ingress").flow == flow
    assert program.run(frame, "vtap_egress").flow == replace(flow, egress=True)
    assert incoming.send(frame).flow == flow
    assert outgoing.send(frame).flow == replace(flow, egress=True)


@pytest.mark.parametrize("name", COUNTED)
def test_counts_what_is_not_linear(outgoing: Wire, incoming: Wire, name: str) -> None:
    """Headers outside of linear memory are read as well, and padding is not payload."""
    frame, flow = counted(name)
    padded, flow = frame.ljust(NOT_LINEAR, b"\7"), replace(flow, bytes=NOT_LINEAR)
    assert outgoing.send(padded).flow == replace(flow, egress=True)
    assert incoming.send(padded).flow == flow


@pytest.mark.parametrize("name", NOT_IP)
def test_not_ip(outgoing: Wire, incoming: Wire, name: str) -> None:
    """What is not IP is counted as such."""
    for outcome in (outgoing.send(NOT_IP[name]), incoming.send(NOT_IP[name])):
        balanced(outcome)
        assert outcome.count("not_ip") == (1, len(NOT_IP[name]))


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(outgoing: Wire, name: str) -> None:
    """A packet that contradicts itself is counted as malformed."""
    outcome = outgoing.send(MALFORMED[name])
    balanced(outcome)
    assert outcome.count("malformed") == (1, len(MALFORMED[name]))


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_truncated_at_every_byte(outgoing: Wire, name: str) -> None:
    """A frame that ends within its headers is malformed; one that ends later is its flow's."""
    whole = REPRESENTATIVE[name]
    said = dissect(whole)
    assert isinstance(said, Packet)
    headers = len(whole) - len(said.payload)
    for length in range(14, len(whole)):
        outcome = outgoing.send(whole[:length])
        balanced(outcome)
        if length < headers:
            assert outcome.count("malformed") == (1, length)
        else:
            assert outcome.flow == flow_of(said, len(whole), egress=True)
            assert outcome.count("truncated") == (1, len(whole) - length)


@pytest.mark.parametrize(
    ("protocol", "segment", "header"),
    [
        (6, tcp(X11, bytes(8)), 28),
        (17, udp(X11), 8),
        (136, udp(X11), 8),
        (132, sctp(X11), 12),
        (1, icmp(X11), 8),
        (58, icmp(X11), 8),
        (47, X11, 0),
    ],
)
def test_short_packets(
    program: FlowProgram, outgoing: Wire, protocol: int, segment: bytes, header: int
) -> None:
    """A packet that says that it is short is malformed if its transport header is not whole."""
    for length in range(len(segment) + 1):
        if protocol == 17:
            segment = segment[:4] + struct.pack(">H", max(length, 8)) + segment[6:]
        for packet, ethertype in ((ipv4, 0x0800), (ipv6, 0x86DD)):
            frame = ether(packet(segment[:length], protocol), ethertype)
            for outcome in (program.run(frame), outgoing.send(frame + bytes(40))):
                if length < header:
                    assert outcome.reason == "malformed"
                else:
                    assert outcome.flow.payload_bytes == length - header


def test_longer_than_a_length_field(outgoing: Wire) -> None:
    """Where the length field cannot say the length and is 0, the frame's own counts."""
    v4 = outgoing.send(ether(ipv4(udp(bytes(65508)), total=0)))
    assert v4.flow == Flow(SRC4, DST4, 17, PORTS, 65550, 65508, egress=True)
    v6 = outgoing.send(ether(ipv6(udp(bytes(65528)), length=0), 0x86DD))
    assert v6.flow == Flow(SRC6, DST6, 17, PORTS, 65590, 65528, egress=True)
    jumbo = b"\x11\0\xc2\4\0\1\0\x10" + udp(bytes(65536 - 8))  # RFC 2675: an option of hop-by-hop
    v6 = outgoing.send(ether(ipv6(jumbo, HOP, length=0), 0x86DD))
    assert v6.flow == Flow(SRC6, DST6, 17, PORTS, 65598, 65528, egress=True)


def test_three_tags_one_of_them_off_the_frame(incoming: Wire) -> None:
    """A third tag is too much also where the first is not in the frame any more."""
    frame = MALFORMED["three tags"]
    assert incoming.send(frame).count("malformed") == (1, len(frame))


def test_tells_flows_apart(program: FlowProgram) -> None:
    """Packets that differ in any one part of the key are in different flows."""
    frames = [ether(ipv4(udp())), ether(ipv4(tcp(), 6)), ether(ipv4(udp()), tags=((Q, 0),))]
    frames += [ether(ipv4(udp()), tags=((Q, 1),)), ether(ipv4(udp()), tags=((Q, 1), (Q, 0)))]
    for at in (29, 33, 34, 35, 36, 37):
        frames.append(frames[0][:at] + b"\xaa" + frames[0][at + 1 :])
    flows = [program.run(frame).flow for frame in frames]
    keys = {(f.src, f.dst, f.protocol, f.ports, f.vlans) for f in flows}
    assert len(keys) == len(frames)


def test_interface_is_part_of_the_key() -> None:
    """Interfaces of any index have flows of their own; one that is not measured has none."""
    frame, flow = counted("UDP")
    indices = (77, 78, 77 + 64, 1_000_000, 0x7FFF_FFFF)
    plain = settings()
    others = tuple(replace(plain.interfaces[0], index=index) for index in (*indices, LOOPBACK))
    program = FlowProgram(replace(plain, interfaces=others))
    with Namespace() as namespace:
        for index in (*indices, 79):
            link = (f"w{index}", "index", str(index), "type", "veth", "peer", "name", f"p{index}")
            namespace.run("ip", "link", "add", "name", *link)
        with namespace.entered():
            for index in indices:
                outcome = program.run(frame, ifindex=index)
                balanced(outcome)
                assert outcome.flow == replace(flow, interface=index)
            program.show(frame, ifindex=79)
    assert program.watch(lambda: program.show(frame)).flow == flow
    program.close()


def test_places_of_interfaces_follow_their_number() -> None:
    """However large their indices are, a few interfaces take the room of a few."""
    plain = settings().interfaces[0]
    draw = random.Random(1).sample(range(1, 1 << 31), 600)  # noqa: S311
    for indices in (range(1, 601), range(10**6, 10**6 + 600), range(4096, 601 * 4096, 4096), draw):
        links, places = spread([replace(plain, index=i) for i in indices])
        assert sorted(places) == sorted(indices)
        assert len({*places.values()}) == 600
        assert max(places.values()) < links <= 8192
    assert spread([replace(plain, index=1 << 30)])[0] == 64


# Merged packets: frame, context, and packets, bytes, payload bytes on the wire
MERGED = {
    "TCP, 3 segments": (tcp(bytes(2500)), 6, {"gso_size": 1000, "gso_segs": 3}, 3, 2662, 2500),
    "TCP, uncounted": (tcp(bytes(2500)), 6, {"gso_size": 1000}, 3, 2662, 2500),
    "TCP, uncounted, exact": (tcp(bytes(2000)), 6, {"gso_size": 1000}, 2, 2108, 2000),
    "TCP, options": (tcp(bytes(20), bytes(12)), 6, {"gso_size": 10, "gso_segs": 2}, 2, 152, 20),
    "UDP, uncounted": (udp(bytes(2500)), 17, {"gso_size": 1000}, 3, 2626, 2500),
    "one segment": (tcp(bytes(9)), 6, {"gso_size": 1000, "gso_segs": 1}, 1, 63, 9),
    "one segment, uncounted": (tcp(bytes(9)), 6, {"gso_size": 1000}, 1, 63, 9),
    "no payload, uncounted": (tcp(), 6, {"gso_size": 1000}, 1, 54, 0),
    "not merged, segments said": (tcp(bytes(9)), 6, {"gso_segs": 5}, 1, 63, 9),
    "the kernel's length": (
        tcp(bytes(2500)), 6, {"gso_size": 1000, "gso_segs": 3, "wire_len": 2662}, 3, 2662, 2500,
    ),
    # 42 bytes of headers ahead of the inner ones, which are 50 bytes; all of them twice on the wire
    "tunnel": (
        udp(bytes(2050)), 17, {"gso_size": 1000, "gso_segs": 2, "wire_len": 2184}, 2, 2184, 2100,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MERGED)
def test_merged(program: FlowProgram, name: str) -> None:
    """A merged packet is counted as what is on the wire: every segment, each with all headers."""
    segment, protocol, context, packets, length, payload = MERGED[name]
    frame = ether(ipv4(segment, protocol))
    flow = Flow(SRC4, DST4, protocol, PORTS, length, payload, packets)
    assert program.run(frame, **context).flow == flow
    assert program.run(frame, "vtap_egress", **context).flow == replace(flow, egress=True)


def test_merged_behind_tag_and_extension(program: FlowProgram) -> None:
    """The headers of each segment include tags and extension headers."""
    packet = ipv6(extension(6, tcp(bytes(2500))), DESTINATION)
    outcome = program.run(ether(packet, 0x86DD, ((Q, 5),)), gso_size=1000, gso_segs=3)
    # 14 + 4 + 40 + 8 + 20 = 86 bytes of headers
    assert outcome.flow == Flow(SRC6, DST6, 6, PORTS, 2500 + 3 * 86, 2500, packets=3, vlans=(5,))


@pytest.mark.parametrize("name", ["ARP", "nine extension headers"])
def test_merged_but_not_counted(program: FlowProgram, name: str) -> None:
    """What is no flow's packet balances also if it says that it is merged."""
    frame = (NOT_IP | MALFORMED)[name]
    for segments, packets in ((7, 7), (0, 1)):
        outcome = program.run(frame, gso_size=10, gso_segs=segments)
        balanced(outcome)
        assert outcome.count("seen") == (packets, len(frame))


def fits_layer_3(name: str) -> bool:
    """Whether the kernel builds such a frame for a test run."""
    frame, flow = counted(name)
    least = 34 if flow.src == SRC4 else 54
    plain = frame[12:14] in (b"\x08\0", b"\x86\xdd")
    return plain and least <= len(frame) - 14 <= LONGEST and not flow.vlans


@pytest.mark.parametrize("name", [*filter(fits_layer_3, COUNTED)])
def test_layer_3(program: FlowProgram, name: str) -> None:
    """Frames without Ethernet header are counted with the length that they have."""
    frame, flow = counted(name)
    flow = replace(flow, bytes=flow.bytes - 14)
    assert program.run(frame[14:], "vtap_ingress_l3").flow == flow
    assert program.run(frame[14:], "vtap_egress_l3").flow == replace(flow, egress=True)


def test_layer_3_not_ip(program: FlowProgram) -> None:
    """On layer 3 the kernel says what is IP, whatever the bytes look like."""
    packet = bytearray(ipv4(udp(X11)))
    packet[12:14] = b"\x0a\0"
    assert program.run(bytes(packet), "vtap_ingress_l3").count("not_ip") == (1, 39)


# Properties


@properties
@given(frame=frames(), padded=st.booleans())
def test_reads_what_the_dissector_reads(outgoing: Wire, frame: bytes, padded: bool) -> None:  # noqa: FBT001 - pytest and Hypothesis pass it by name
    """Whatever a frame is, in linear memory or not, program and dissector agree."""
    if padded:
        frame = frame.ljust(NOT_LINEAR, b"\0")
    agrees(outgoing.send(frame), dissect(frame), len(frame), egress=True)


@properties
@given(frame=frames(least=20))  # the kernel itself drops a frame that ends within its tag
def test_reads_the_same_at_ingress(incoming: Wire, frame: bytes) -> None:
    """With the outermost tag taken off by the kernel, it is the same packet of the same length."""
    agrees(incoming.send(frame), dissect(frame), len(frame))


@properties
@given(packet=PACKETS, cut=st.integers(34, 200))
def test_reads_layer_3(program: FlowProgram, packet: tuple[bytes, int], cut: int) -> None:
    """Without an Ethernet header, program and dissector agree as well."""
    data, ethertype = packet
    least = 34 if ethertype == 0x0800 else 54
    frame = data[: max(cut, least)].ljust(least, b"\0")
    said = dissect(frame, ethertype=ethertype)
    agrees(program.run(frame, "vtap_ingress_l3"), said, len(frame))
    agrees(program.run(frame, "vtap_egress_l3"), said, len(frame), egress=True)


@properties
@given(
    packet=PACKETS,
    gso_size=st.integers(1, 100) | st.integers(1, 0xFFFF),
    gso_segs=st.integers(0, 5) | st.integers(0, 0xFFFF),
    beyond=st.none() | st.integers(0, 20_000),
)
def test_merged_packets_balance(
    program: FlowProgram,
    packet: tuple[bytes, int],
    gso_size: int,
    gso_segs: int,
    beyond: int | None,
) -> None:
    """However merged, each packet and byte seen is in one count; headers are not payload."""
    frame = ether(*packet)
    wire_len = 0 if beyond is None else len(frame) + beyond
    outcome = program.run(frame, gso_size=gso_size, gso_segs=gso_segs, wire_len=wire_len)
    balanced(outcome)
    said = dissect(frame)
    if isinstance(said, Not):
        assert outcome.reason == said.value
        assert outcome.count("seen") == (gso_segs or 1, len(frame))
        return
    if said.missing:  # no merged packet is cut off
        assert outcome.flow == flow_of(said, len(frame))
        return
    packets = gso_segs or max(1, -(-len(said.payload) // gso_size))
    assert outcome.flow.packets == packets
    data, ethertype = packet
    claimed = data[2:4] if ethertype == 0x0800 else data[4:6]
    claims = int.from_bytes(claimed, "big") + (0 if ethertype == 0x0800 else 40)
    # no padding, which no merged packet has, neither behind IP nor behind UDP
    if claims == len(data) and packets > 1 and said.protocol != 17:
        headers = len(frame) - len(said.payload)
        length = max(len(frame) + (packets - 1) * headers, wire_len)
        assert outcome.flow.bytes == length
        assert outcome.flow.payload_bytes == length - packets * headers


# The judge judged


ADDRESSES4 = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
ADDRESSES6 = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
TRANSPORTS = {
    "tcp": (6, lambda a, b: TCP(sport=a, dport=b, options=[("MSS", 1460), ("NOP", None)])),
    "udp": (17, lambda a, b: UDP(sport=a, dport=b)),
    "sctp": (132, lambda a, b: SCTP(sport=a, dport=b)),
}


@st.composite
def scapy_packets(draw: st.DrawFn) -> tuple[Ether, Packet]:
    """A well-formed packet as scapy builds it, and what it is."""
    payload = draw(st.binary(max_size=30))
    ports = draw(st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
    vlans = tuple(draw(st.lists(st.integers(0, 4095), max_size=2)))
    six = draw(st.booleans())
    if ports:
        protocol, make = TRANSPORTS[draw(st.sampled_from(sorted(TRANSPORTS)))]
        segment = make(*ports)
    elif draw(st.booleans()):
        protocol, segment = (58, ICMPv6EchoRequest()) if six else (1, ICMP())
    else:
        protocol, segment, payload = 47, GRE(proto=0x6558), b"\0\0\x65\x58" + payload
        segment = Raw()
    segment = segment / Raw(payload)
    if six:
        src, dst = draw(ADDRESSES6), draw(ADDRESSES6)
        network = IPv6(src=src, dst=dst)
        headers = [
            IPv6ExtHdrHopByHop(options=[PadN(optdata=b"abc")]),
            IPv6ExtHdrRouting(addresses=[src, dst]),
            IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]),
            IPv6ExtHdrFragment(m=1),
            MIP6MH_BE(nh=protocol),
        ]
        for header in draw(st.lists(st.sampled_from(headers[:4]), max_size=8)):
            network = network / header.copy()
        last = network.lastlayer()
        last.nh = protocol
        network = network / segment
    else:
        src, dst = draw(ADDRESSES4), draw(ADDRESSES4)
        options = [IPOption(b"\x83\x03\x10")] * draw(st.integers(0, 3))
        network = IP(src=src, dst=dst, proto=protocol, options=options) / segment
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for position, vlan in enumerate(vlans):
        frame = frame / (Dot1AD(vlan=vlan) if position < len(vlans) - 1 else Dot1Q(vlan=vlan))
    said = Packet(
        (IPv6Address if six else IPv4Address)(src),
        (IPv6Address if six else IPv4Address)(dst),
        protocol,
        ports,
        payload,
        vlans,
    )
    return frame / network, said


@hypothesis_settings(properties, max_examples=200)
@given(scapy_packets())
def test_dissector_reads_what_scapy_builds(built: tuple[Ether, Packet]) -> None:
    """The dissector finds what scapy was told to put into a packet."""
    frame, said = built
    assert dissect(bytes(frame)) == said


@pytest.mark.parametrize("name", COUNTED)
def test_dissector_knows_the_examples(name: str) -> None:
    """The dissector finds in the examples what was computed by hand."""
    frame, flow = counted(name)
    found = dissect(frame)
    assert isinstance(found, Packet)
    assert (found.src, found.dst, found.vlans) == (flow.src, flow.dst, flow.vlans)
    assert (found.protocol, found.ports, len(found.payload), len(frame)) == (
        *(flow.protocol, flow.ports, flow.payload_bytes),
        flow.bytes,
    )


def test_dissector_knows_the_exceptions() -> None:
    """The dissector finds nothing in what is not IP, nor in what is malformed."""
    assert {dissect(frame) for frame in NOT_IP.values()} == {Not.IP}
    assert {dissect(frame) for frame in MALFORMED.values()} == {Not.WELL_FORMED}
    assert dissect(bytes(Ether() / ARP())) == Not.IP


# The verifier

# Every field in and out, every direction, layer, and extremes of length and size, in a few programs
MASKS = (0b1111111, 0b000000, 0b011111, 0b100000, 0b010101, 0b101010, 0b001100, 0b110011)
INTERVALS = (NS // 10, NS, 3600 * NS)
SIZES = (64, 65536, 1 << 20)
DIRECTIONS = ("ingress", "egress", "both")
LAYERS = ((True,), (True, False), (False,))


def subset(mask: int) -> tuple[str, ...]:
    """The key fields whose bits are set."""
    return tuple(name for bit, name in enumerate(KEY_FIELDS) if mask >> bit & 1)


@pytest.mark.parametrize(
    ("mask", "interval", "size", "direction", "layers"),
    list(
        zip(
            MASKS,
            cycle(INTERVALS),
            cycle((*SIZES, SIZES[0])),
            cycle(DIRECTIONS),
            cycle((*LAYERS, LAYERS[0])),
            strict=False,
        )
    ),
)
def test_loads_with_any_key(
    mask: int, interval: int, size: int, direction: str, layers: tuple[bool, ...]
) -> None:
    """The verifier accepts what is generated, and what is not in the key tells no flows apart."""
    chosen = settings(subset(mask), direction, interval, size, layers)
    program = FlowProgram(chosen)
    try:
        name = next(name for name in program.objects.programs if name != "vtap_sweep")
        layer3 = name.endswith("_l3")
        frame, flow = counted("UDP" if layer3 else "QinQ, IPv6")
        found = program.run(frame[14 * layer3 :], name).flow
    finally:
        program.close()
    addresses = "src_ip" in chosen.key or "dst_ip" in chosen.key
    nowhere = type(flow.src)(0) if addresses else None
    ports = tuple(
        port if name in chosen.key else 0
        for name, port in zip(("src_port", "dst_port"), PORTS, strict=True)
    )
    assert found == replace(
        flow,
        bytes=flow.bytes - 14 * layer3,
        src=flow.src if "src_ip" in chosen.key else nowhere,
        dst=flow.dst if "dst_ip" in chosen.key else nowhere,
        ports=ports if "src_port" in chosen.key or "dst_port" in chosen.key else None,
        protocol=flow.protocol if "protocol" in chosen.key else 0,
        vlans=flow.vlans if "vlan" in chosen.key else (),
        egress="egress" in name,
    )
