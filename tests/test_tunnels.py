# SPDX-License-Identifier: Apache-2.0
"""Packets inside tunnels: what the kernel program makes of them, one at a time and for real."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import captured
import pytest
import tap
from dissector import Packet, dissect
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from packets import (
    DST4,
    DST6,
    PACKETS,
    PORTS,
    SRC4,
    SRC6,
    Q,
    agrees,
    balanced,
    ether,
    frames,
    ipv4,
    ipv6,
    properties,
    tcp,
)
from program import LONGEST, NOT_LINEAR, Flow, FlowProgram, Wire, settings
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE, GeneveOptions
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from traffic import V4
from traffic import Wire as Joined
from tunnelling import (
    BRIDGED,
    BROKEN,
    CUT,
    DECAPSULATED,
    ERSPAN,
    ERSPAN3,
    FRAME4,
    GTPU_PORT,
    IN4,
    OUTER,
    VXLAN_PORT,
    erspan2,
    erspan3,
    framed,
    geneve,
    gre,
    gtpu,
    inner,
    outer,
    vxlan,
)

from lab.capture import Capture
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.probes.flows.settings import HOOKS, TUNNELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.namespace import Namespace


# Tunnel headers, field by field


PROGRAM = {"tc": "vtap_ingress", "xdp": "vtap_ingress", "socket": "vtap_socket"}


@pytest.fixture(scope="module", params=HOOKS)
def program(request: pytest.FixtureRequest) -> Iterator[FlowProgram]:
    """The programs of each hook, with every key field and every tunnel."""
    chosen = settings(direction="ingress", hook=request.param, decapsulate=TUNNELS)
    loaded = FlowProgram(chosen)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def wired() -> Iterator[tuple[FlowProgram, Wire]]:
    """A real interface, seen at egress."""
    loaded = FlowProgram(settings(decapsulate=TUNNELS))
    with Wire(loaded, Direction.EGRESS) as wire:
        yield loaded, wire
    loaded.close()


# Examples


@pytest.mark.parametrize("name", DECAPSULATED)
def test_counts_what_is_inside(
    program: FlowProgram, wired: tuple[FlowProgram, Wire], name: str
) -> None:
    """The flow is that of the inner packet; bytes are those on the wire, in memory as it may be."""
    frame, flow = inner(name)
    assert program.run(frame, PROGRAM[program.hook]).flow == flow
    assert wired[1].send(frame).flow == replace(flow, egress=True)
    padded = frame.ljust(NOT_LINEAR, b"\7")
    assert wired[1].send(padded).flow == replace(flow, egress=True, bytes=NOT_LINEAR)


@pytest.mark.parametrize("name", DECAPSULATED)
def test_outer_tags_are_not_inner_ones(program: FlowProgram, name: str) -> None:
    """The VLAN of a flow is the inner frame's, whatever the tunnel itself goes through."""
    _, flow = inner(name)
    frame = framed(DECAPSULATED[name][0], ((Q, 500), (Q, 501)))
    expected = replace(flow, bytes=len(frame))
    assert program.run(frame, PROGRAM[program.hook]).flow == expected


@pytest.mark.parametrize("name", OUTER)
def test_stays_outside(program: FlowProgram, name: str) -> None:
    """A packet that carries no packet we were to look into is one of the outer flow."""
    packet, protocol, ports = OUTER[name]
    found = program.run(framed(packet), PROGRAM[program.hook]).flow
    assert found == outer(packet, protocol, ports)


@pytest.mark.parametrize("name", BROKEN)
def test_broken(program: FlowProgram, wired: tuple[FlowProgram, Wire], name: str) -> None:
    """What cannot be a tunnel's packet, whatever port it goes to, is one of the outer flow."""
    frame = framed(BROKEN[name])
    said = dissect(frame)
    assert isinstance(said, Packet)
    agrees(program.run(frame, PROGRAM[program.hook]), said, len(frame))
    agrees(wired[1].send(frame), said, len(frame), egress=True)


@pytest.mark.parametrize("name", CUT)
def test_cut_off_inside(program: FlowProgram, wired: tuple[FlowProgram, Wire], name: str) -> None:
    """A packet that a mirror has cut is of its flow, with the lengths that its headers say."""
    packet, missing = CUT[name]
    frame = framed(packet)
    six = name.startswith("IPv6")
    src, dst = (SRC6, DST6) if six else (SRC4, DST4)
    length = missing + len(frame)
    for outcome in (program.run(frame, PROGRAM[program.hook]), wired[1].send(frame + bytes(60))):
        balanced(outcome)
        assert outcome.count("truncated") == (1, missing)
        found = outcome.flow
        payload = 20 if "longer" in name else 11
        assert (found.src, found.dst, found.protocol, found.ports) == (src, dst, 6, PORTS)
        assert found.payload_bytes == payload
        assert found.bytes == length + (60 if found.egress else 0)


@pytest.mark.parametrize("name", DECAPSULATED)
def test_truncated_at_every_byte(
    program: FlowProgram, wired: tuple[FlowProgram, Wire], name: str
) -> None:
    """Cut anywhere, by the frame's end or by the outer length, it is what the dissector says."""
    packet, six, *_ = DECAPSULATED[name]
    for length in range(20 if not six else 40, len(packet)):
        cut = bytearray(packet[:length])
        frame = framed(bytes(cut))
        agrees(wired[1].send(frame), dissect(frame, tunnels=TUNNELS), len(frame), egress=True)
        struct.pack_into(">H", cut, *((4, length - 40) if six else (2, length)))
        frame = framed(bytes(cut)) + bytes(40)
        said = dissect(frame, tunnels=TUNNELS)
        agrees(program.run(frame, PROGRAM[program.hook]), said, len(frame))


def test_one_level(program: FlowProgram) -> None:
    """A tunnel inside a tunnel is a flow of the first tunnel."""
    frame = framed(ipv4(vxlan(ether(ipv4(vxlan(FRAME4, 6))))))
    length = len(vxlan(FRAME4)) - 8
    expected = Flow(SRC4, DST4, 17, (50000, 4789), len(frame), length, tunnel=5)
    assert program.run(frame, PROGRAM[program.hook]).flow == expected


@pytest.mark.parametrize("asked", TUNNELS)
def test_only_what_was_asked_for(asked: str) -> None:
    """Of all kinds of tunnel only the one that was asked for is looked into."""
    program = FlowProgram(settings(direction="ingress", layers=(True,), decapsulate=(asked,)))
    try:
        for name, (packet, *_) in DECAPSULATED.items():
            frame, flow = inner(name)
            found = program.run(frame).flow
            said = dissect(frame, tunnels=(asked,))
            assert isinstance(said, Packet)
            ours = {"gtpu": "GTP-U", "ipip": ("IPV4 ", "IPV6 ")}.get(asked, asked.upper())
            if name.upper().startswith(ours) or (asked == "vxlan" and "atomic" in name):
                assert found == flow
            else:
                assert found == outer(packet, said.protocol, said.ports)
    finally:
        program.close()


def test_none_asked_for() -> None:
    """Unless asked to, nothing is looked into, and no flow has a tunnel id."""
    program = FlowProgram(settings(direction="ingress", layers=(True,)))
    try:
        for name, (packet, *_) in DECAPSULATED.items():
            said = dissect(framed(packet))
            assert isinstance(said, Packet), name
            assert program.run(framed(packet)).flow == outer(packet, said.protocol, said.ports)
    finally:
        program.close()


def test_tunnel_id_tells_flows_apart(program: FlowProgram) -> None:
    """The same inner packet in two tunnels, and in one without id, makes three flows."""
    packets = (ipv4(vxlan(FRAME4, 0)), ipv4(vxlan(FRAME4, 1)), ipv4(IN4, 4))
    flows = [program.run(framed(p), PROGRAM[program.hook]).flow for p in packets]
    assert [flow.tunnel for flow in flows] == [0, 1, None]
    assert len({(flow.src, flow.ports, flow.tunnel) for flow in flows}) == 3


@pytest.mark.parametrize(
    ("name", "headers"), [("VXLAN", 14 + 20 + 8 + 8 + 14), ("GRE, key", 14 + 20 + 8)]
)
def test_merged(wired: tuple[FlowProgram, Wire], name: str, headers: int) -> None:
    """Each segment of a merged packet has all headers on the wire, those of the tunnel included."""
    packet = ipv4(tcp(bytes(2500)), 6)
    whole = vxlan(ether(packet)) if name == "VXLAN" else gre(packet, 0x0800, 0x2000)
    frame = ether(ipv4(whole, 17 if name == "VXLAN" else 47))
    for segments in ({"gso_segs": 3}, {}):
        flow = wired[0].run(frame, gso_size=1000, **segments).flow
        assert flow.packets == 3
        assert flow.payload_bytes == 2500
        assert flow.bytes == 2500 + 3 * (headers + 20 + 20)


# Properties


INNER_FRAMES = frames()
INNER_PACKETS = PACKETS.map(lambda packet: packet[0])
ANYTHING = INNER_PACKETS | INNER_FRAMES


@st.composite
def tunnelled(draw: st.DrawFn) -> bytes:
    """A tunnel packet, mostly well-formed, with anything inside."""
    kind = draw(st.sampled_from(("vxlan", "geneve", "gre", "erspan2", "erspan3", "gtpu", "ipip")))
    packet = draw(ANYTHING)
    protocol = 17
    if kind == "vxlan":
        data = vxlan(packet, draw(st.integers(0, 2**24 - 1)), draw(st.sampled_from((8, 8, 8, 0))))
    elif kind == "geneve":
        data = geneve(
            packet,
            draw(st.sampled_from((BRIDGED, BRIDGED, 0x0800, 0x86DD, 0x0806, 0))),
            options=bytes(4 * draw(st.sampled_from((0, 0, 1, 5, 63)))),
            flags=draw(st.sampled_from((0, 0, 0, 0x40, 0x80))),
        )
    elif kind == "gre":
        flags = draw(st.sampled_from((0, 0x2000, 0x1000, 0x8000, 0xB000)) | st.integers(0, 65535))
        carried = draw(st.sampled_from((BRIDGED, 0x0800, 0x86DD, ERSPAN, ERSPAN3, 0, 1)))
        protocol, data = 47, gre(packet, carried, flags)
    elif kind == "erspan2":
        bits = draw(st.integers(0, 31))
        version = draw(st.sampled_from((1, 1, 1, 1, 2)))
        protocol, data = 47, erspan2(packet, draw(st.integers(0, 1023)), version, bits)
    elif kind == "erspan3":
        frame = draw(st.sampled_from((0, 0, 2, 1)))
        protocol, data = 47, erspan3(packet, frame=frame, more=draw(st.integers(0, 1)))
    elif kind == "gtpu":
        flags = draw(st.sampled_from((0x30, 0x30, 0x32, 0x34, 0x37, 0x20)))
        count = draw(st.integers(0, 5)) if flags & 4 else 0
        extensions = (b"\1\0\0\x20" * count)[:-1] + b"\0" if count else b""
        fields = b"\0\0\0" + (b"\x20" if count else b"\0") + extensions if flags & 7 else b""
        wrong = draw(st.sampled_from((0, 0, 0, 0, 1, -1)))
        data = gtpu(fields + packet, flags=flags, extra=wrong)
    else:
        protocol, data = draw(st.sampled_from((4, 41))), packet
    if draw(st.booleans()):
        return framed(ipv4(data, protocol, fragment=draw(st.sampled_from((0,) * 9 + (0x2000,)))))
    return framed(ipv6(data, protocol))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Tunnel packets, sometimes with bytes changed, cut or padded."""
    frame = bytearray(draw(tunnelled()))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        frame[draw(st.integers(14, min(len(frame) - 1, 120)))] = draw(st.integers(0, 255))
    if draw(st.sampled_from((False,) * 5 + (True,))):
        frame = frame[: draw(st.integers(min(54, len(frame)), len(frame)))]
    return bytes(frame) + bytes(draw(st.sampled_from((0, 0, 0, 6, 46))))


@properties
@given(frame=damaged(), padded=st.booleans())
def test_reads_what_the_dissector_reads(
    program: FlowProgram,
    wired: tuple[FlowProgram, Wire],
    frame: bytes,
    padded: bool,  # noqa: FBT001 - Hypothesis passes it by name
) -> None:
    """Whatever is in a tunnel, and whatever the tunnel is, program and dissector agree."""
    said = dissect(frame, tunnels=TUNNELS)
    if len(frame) < LONGEST:
        agrees(program.run(frame, PROGRAM[program.hook]), said, len(frame))
    if padded and program.hook == "tc":
        frame = frame.ljust(NOT_LINEAR, b"\0")
        agrees(wired[1].send(frame), dissect(frame, tunnels=TUNNELS), len(frame), egress=True)


# The judge judged


V4S = st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
V6S = st.integers(0, 2**128 - 1).map(lambda n: str(IPv6Address(n)))
ETHERS = Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04")


@st.composite
def scapy_tunnels(draw: st.DrawFn) -> tuple[Ether, Packet]:
    """A tunnel packet as scapy builds it, and what is inside."""
    six = draw(st.booleans())
    src, dst = (draw(V6S), draw(V6S)) if six else (draw(V4S), draw(V4S))
    payload = draw(st.binary(max_size=20))
    ports = draw(st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
    packet = (IPv6 if six else IP)(src=src, dst=dst)
    packet = packet / UDP(sport=ports[0], dport=ports[1]) / Raw(payload)
    vlans = tuple(draw(st.lists(st.integers(0, 4095), max_size=1)))
    frame = ETHERS / Dot1Q(vlan=vlans[0]) / packet if vlans else ETHERS / packet
    number = draw(st.integers(0, 1023))
    kind = draw(st.sampled_from(("vxlan", "geneve", "gre", "tap", "II", "III", "gtpu", "ipip")))
    over = IPv6(src="2001:db8::7") if draw(st.booleans()) else IP(src="192.0.2.7")
    ethertype = 0x86DD if six else 0x0800
    tunnel: int | None = number
    if kind == "vxlan":
        whole = over / UDP(sport=9) / VXLAN(vni=number) / frame
    elif kind == "geneve":
        options = [GeneveOptions(classid=1, type=2, data=b"abcd")] * draw(st.integers(0, 3))
        whole = over / UDP(sport=9) / GENEVE(vni=number, options=options, proto=BRIDGED) / frame
    elif kind == "gre":
        whole = over / GRE(key_present=1, key=number, seqnum_present=1, proto=ethertype) / packet
    elif kind == "tap":
        whole, tunnel = over / GRE(proto=BRIDGED, chksum_present=1) / frame, None
    elif kind == "II":
        whole = over / GRE(seqnum_present=1, proto=ERSPAN) / ERSPAN_II(session_id=number) / frame
    elif kind == "III":
        whole = over / GRE(seqnum_present=1, proto=ERSPAN3) / ERSPAN_III(session_id=number) / frame
    elif kind == "gtpu":
        header = GTP_U_Header(teid=number, gtp_type=255)
        if draw(st.booleans()):
            header = GTP_U_Header(teid=number, gtp_type=255, E=1, next_ex=0x85)
            header = header / GTPPDUSessionContainer(type=1, QFI=3)
        whole = over / UDP(sport=9, dport=GTPU_PORT) / header / packet
    else:
        whole, tunnel = over / packet, None
    bridged = kind in ("vxlan", "geneve", "tap", "II", "III")
    address = IPv6Address if six else IPv4Address
    said = Packet(address(src), address(dst), 17, ports, payload, vlans if bridged else (), tunnel)
    return ETHERS / whole, said


@hypothesis_settings(properties, max_examples=200)
@given(scapy_tunnels())
def test_dissector_reads_what_scapy_builds(built: tuple[Ether, Packet]) -> None:
    """The dissector finds what scapy was told to put into a tunnel."""
    frame, said = built
    assert dissect(bytes(frame), tunnels=TUNNELS) == said


def test_dissector_knows_the_examples() -> None:
    """The dissector finds in the examples what was written down by hand."""
    for name in DECAPSULATED:
        frame, flow = inner(name)
        said = dissect(frame, tunnels=TUNNELS)
        assert isinstance(said, Packet), name
        found = (said.src, said.dst, said.protocol, said.ports, said.vlans, said.tunnel)
        assert found == (flow.src, flow.dst, flow.protocol, flow.ports, flow.vlans, flow.tunnel)
        assert len(said.payload) == flow.payload_bytes
    for name, (packet, protocol, ports) in OUTER.items():
        said = dissect(framed(packet), tunnels=TUNNELS)
        assert said == dissect(framed(packet)), name
        assert isinstance(said, Packet)
        assert (said.protocol, said.ports) == (protocol, ports)
    for name, packet in BROKEN.items():
        said = dissect(framed(packet), tunnels=TUNNELS)
        assert said == dissect(framed(packet)), name
        assert isinstance(said, Packet), name
    for name, (packet, missing) in CUT.items():
        said = dissect(framed(packet), tunnels=TUNNELS)
        assert isinstance(said, Packet), name
        assert said.missing == missing, name


# Real traffic


KEY = "src_ip,dst_ip,src_port,dst_port,protocol,tunnel_id"


def vxlan_device(namespace: Namespace, ours: str, theirs: str, address: str) -> None:
    """A VXLAN device of the kernel in NAMESPACE."""
    ends = ("local", ours, "remote", theirs, "dstport", str(VXLAN_PORT))
    namespace.run("ip", "link", "add", "vx0", "type", "vxlan", "id", "5", *ends)
    namespace.run("ip", "link", "set", "vx0", "addrgenmode", "none", "mtu", "1400")
    namespace.run("ip", "link", "set", "vx0", "up")
    namespace.run("ip", "addr", "add", address, "dev", "vx0")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("offload", [False, True])
def test_kernel_vxlan(tmp_path: Path, hook: str, offload: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    """What comes through a VXLAN of the kernel is measured as what comes out of it."""
    path = tmp_path / "outside.pcap"
    only_tcp = f"dst host {V4[1]} and udp dst port {VXLAN_PORT} and greater 100"  # ARP has 92 bytes
    options = ("-i", "wire0", "--hook", hook, "--decapsulate", "vxlan", "--key", KEY)
    with Joined(offload=offload) as wire:
        vxlan_device(wire.sender, V4[0], V4[1], "198.51.100.1/24")
        vxlan_device(wire.receiver, V4[1], V4[0], "198.51.100.2/24")
        with (
            Capture(wire.receiver, "wire0", path, filter=only_tcp) as capture,
            tap.Tap(wire.receiver, *options) as tapped,
            wire.receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
            wire.sender.socket(socket.AF_INET, socket.SOCK_STREAM) as ours,
        ):
            listener.bind(("198.51.100.2", 7001))
            listener.listen()
            ours.connect(("198.51.100.2", 7001))
            theirs, _ = listener.accept()
            with theirs:
                ours.sendall(bytes(30_000))
                left = 30_000
                while left:
                    left -= len(theirs.recv(left))
                wire.settle()
                capture.stop()
                records = tapped.stop()
    found = captured.packets(path)
    flows = [r for r in tap.flows(records) if r["protocol"] == "tcp"]
    assert {(r["dst_ip"], r["dst_port"], r["tunnel_id"]) for r in flows} == {
        ("198.51.100.2", "7001", "5")
    }
    payload = sum(r["payload_bytes"] for r in flows)
    packets = sum(r["packets"] for r in flows)
    assert payload == 30_000
    if not offload:  # with it the capture holds merged packets
        assert packets == len(found)
        assert sum(r["bytes"] for r in flows) == sum(packet.bytes for packet in found)
    headers = 14 + 20 + 8 + 8  # of the tunnel, in front of each
    inside = 14 + 20 + 32
    syn = 8  # longer options
    assert sum(r["bytes"] for r in flows) == payload + packets * (headers + inside) + syn
