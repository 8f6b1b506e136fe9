# SPDX-License-Identifier: Apache-2.0
"""Packets that the kernel drops for known reasons, and what is told of each."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from tap import Tap
from waiting import wait_for

from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator

A4, B4, A6, B6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
BEHIND, NOWHERE = "198.51.100.9", "203.0.113.9"
CLOSED, OPEN, FILTERED, SMALL = 9, 7001, 7002, 7003
TOS = 0xB8  # of what the program at traffic control drops
DATA = Raw(b"drop" * 10)
UDP_TO = {port: UDP(sport=4000 + port % 1000, dport=port) / DATA for port in (9, 7001, 7002, 7003)}
LONG = Raw(b"x" * 1000)

TC_PROGRAM = """
#include <uapi/linux/bpf.h>
int drop_some(struct __sk_buff *skb)
{
	u8 tos = 0;

	bpf_skb_load_bytes(skb, 15, &tos, 1);
	return skb->vlan_present || tos == 0xB8 ? 2 : -1; /* TC_ACT_SHOT, or what is next */
}
"""


@dataclass(frozen=True)
class Case:
    """A frame that is sent COUNT times, all dropped for REASON."""

    reason: str
    frame: Packet
    count: int = 3


TO4 = IP(src=A4, dst=B4)
TO6 = IPv6(src=A6, dst=B6)
CASES = {
    "closed port": Case("NO_SOCKET", TO4 / UDP_TO[CLOSED], 5),
    "closed port, IPv6": Case("NO_SOCKET", TO6 / UDP_TO[CLOSED]),
    "closed port, IPv6 options": Case(
        "NO_SOCKET", IPv6(src=A6, dst=B6, tc=0x28, hlim=7) / IPv6ExtHdrHopByHop() / UDP_TO[CLOSED]
    ),
    "closed port, TCP": Case("NO_SOCKET", TO4 / TCP(sport=4100, dport=CLOSED, flags="S")),
    "UDP checksum": Case("UDP_CSUM", TO4 / UDP(sport=4200, dport=OPEN, chksum=0x1234) / DATA),
    "TCP checksum": Case("TCP_CSUM", TO4 / TCP(sport=4201, dport=CLOSED, chksum=0x1234)),
    "ICMP checksum": Case("ICMP_CSUM", TO4 / ICMP(type=8, code=0, chksum=0x1234) / DATA),
    "IP checksum": Case("IP_CSUM", IP(src=A4, dst=B4, chksum=0x1234) / UDP_TO[OPEN]),
    "time to live": Case("IP_INHDR", IP(src=A4, dst=BEHIND, ttl=1, tos=0x20) / UDP_TO[OPEN]),
    "no route": Case("IP_INNOROUTES", IP(src=A4, dst=NOWHERE) / UDP_TO[OPEN]),
    "from our own address": Case("IP_LOCAL_SOURCE", IP(src=B4, dst=B4) / UDP_TO[OPEN]),
    "martian": Case("IP_INVALID_SOURCE", IP(src="255.255.255.255", dst=B4) / UDP_TO[OPEN]),
    "reverse path": Case("IP_RPFILTER", IP(src=NOWHERE, dst=B4) / UDP_TO[OPEN]),
    "netfilter": Case("NETFILTER_DROP", TO4 / UDP_TO[FILTERED], 4),
    "traffic control": Case("TC_INGRESS", IP(src=A4, dst=B4, tos=TOS) / UDP_TO[OPEN], 6),
    "one VLAN": Case("TC_INGRESS", Dot1Q(vlan=100, prio=5) / TO4 / UDP_TO[OPEN]),
    "two VLANs": Case(
        "TC_INGRESS", Dot1AD(vlan=200, prio=3) / Dot1Q(vlan=300, prio=6) / TO6 / UDP_TO[OPEN]
    ),
    "TCP flags": Case("TCP_FLAGS", TO4 / TCP(sport=4300, dport=OPEN, flags="SF")),
    "protocol": Case("IP_NOPROTO", IP(src=A4, dst=B4, proto=253) / DATA),
    "IP in IP": Case(
        "IP_NOPROTO", TO4 / IP(src="10.1.0.1", dst="10.1.0.2", tos=8, ttl=9) / UDP_TO[SMALL]
    ),
    "IPv6 in IP": Case("IP_NOPROTO", TO4 / IPv6(src="fd00::1", dst="fd00::2") / UDP_TO[SMALL]),
    "GRE": Case(
        "IP_NOPROTO", TO4 / GRE(key_present=1, key=7) / IP(src="10.2.0.1", dst="10.2.0.2") / TCP()
    ),
    "GRE with Ethernet": Case(
        "IP_NOPROTO",
        TO4 / GRE(proto=0x6558) / Ether() / Dot1Q(vlan=9) / TO6 / UDP_TO[CLOSED],
    ),
    "ethertype": Case("UNHANDLED_PROTO", Ether(type=0x88B5) / DATA),
}


def mac_of(number: int) -> str:
    """The source address by which the frames of case NUMBER are known."""
    return f"02:00:00:00:00:{number:02x}"


def _build(destination: str) -> dict[str, bytes]:
    frames = {}
    for number, (name, case) in enumerate(CASES.items()):
        inner = case.frame
        if isinstance(inner, Ether):
            whole = Ether(src=mac_of(number), dst=destination, type=inner.type) / inner.payload
        else:
            whole = Ether(src=mac_of(number), dst=destination) / inner
        frames[name] = bytes(whole)
    return frames


@dataclass(frozen=True)
class Run:
    """What was sent, and what was told of it."""

    frames: dict[str, bytes]
    told: dict[str, list[dict[str, Any]]]  # events by case
    full: tuple[int, list[dict[str, Any]]]  # packets that the socket had no room for, and told
    leaving: tuple[int, list[dict[str, Any]]]  # likewise packets that the queue had no room for
    account: dict[str, Any]


@contextlib.contextmanager
def provoking(b: Namespace) -> Iterator[None]:
    """In B, what drops packets."""
    with b.entered():
        for setting, value in (("ip_forward", "1"), ("conf/in0/rp_filter", "1")):
            Path("/proc/sys/net/ipv4", setting).write_text(value)
    b.run("ip", "route", "add", "198.51.100.0/24", "dev", "in0")
    b.run(
        "nft",
        "add table inet t; add chain inet t i { type filter hook input priority 0; }; "
        f"add rule inet t i udp dport {FILTERED} drop",
    )
    source = compiler.Source(TC_PROGRAM, (compiler.Program("drop_some", "SCHED_CLS"),), ())
    loaded = compiler.load(source)
    with b.entered():
        detach = attach.attach(
            loaded.programs["drop_some"], interfaces()["in0"], attach.Direction.INGRESS
        )
    try:
        yield
    finally:
        detach()
        loaded.close()


def mac(namespace: Namespace, name: str) -> str:
    """The address of an interface."""
    return str(json.loads(namespace.run("ip", "-j", "link", "show", name).stdout)[0]["address"])


def by_mac(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records of dropped packets by their source address."""
    found = defaultdict(list)
    for record in records:
        if record["name"] == "DroppedPackets":
            found[record["packet"].get("ETHERNET", {}).get("srcMac", "")].append(record)
    return found


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """All cases, one after the other, under one vtap-stream."""
    with Namespace() as a, Namespace() as b, contextlib.ExitStack() as stack:
        veth(a, "out0", b, "in0", ipv4=(A4, B4), ipv6=(A6, B6))
        stack.enter_context(provoking(b))
        to, own = mac(b, "in0"), mac(a, "out0")
        frames = _build(to)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            server = stack.enter_context(b.socket(socket.AF_INET, kind))
            server.bind((B4, OPEN))
            if kind == socket.SOCK_STREAM:
                server.listen()
        small = stack.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        small.bind((B4, SMALL))
        small.settimeout(0)
        tap = stack.enter_context(Tap(b, "--probe", "drops", "-i", "in0"))
        with a.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
            sending.bind(("out0", 0))
            for name, frame in frames.items():
                for _ in range(CASES[name].count):
                    sending.send(frame)
            full = bytes(Ether(src=own, dst=to) / TO4 / UDP(sport=4400, dport=SMALL) / LONG)
            for _ in range(40):
                sending.send(full)
        received = 0
        with contextlib.suppress(BlockingIOError):
            while small.recv(2000):
                received += 1
        leaving = stack.enter_context(b.socket(socket.AF_INET, socket.SOCK_DGRAM))
        leaving.bind((B4, 4500))
        b.run("tc", "qdisc", "replace", "dev", "in0", "root", "bfifo", "limit", "100")
        for _ in range(7):
            with contextlib.suppress(OSError):  # ENOBUFS says it, too
                leaving.sendto(b"x" * 500, (A4, 4600))
        wanted = sum(case.count for case in CASES.values()) + 40 - received + 7
        with contextlib.suppress(AssertionError):  # the tests say what is missing
            wait_for(lambda: tap.payload.count(b'"recordKind":"event"') >= wanted, 20)
        records = tap.stop()
    found = by_mac(records)
    accounts = [r for r in records if r["name"] == "vtap_agent" and r.get("probe") == "drops"]
    yield Run(
        frames,
        {name: found[mac_of(number)] for number, name in enumerate(CASES)},
        (40 - received, found[own]),
        (7, found[to]),
        accounts[-1],
    )


def expected(frame: bytes) -> dict[str, Any]:
    """What the record of FRAME says of the packet, by scapy."""
    packet = Ether(frame)
    layers = [packet.getlayer(i) for i in range(len(packet.layers()))]
    tags = [layer for layer in layers if isinstance(layer, (Dot1Q, Dot1AD))]
    inside = next((i for i, layer in enumerate(layers) if isinstance(layer, GRE)), len(layers))
    tags = [tag for tag in tags if layers.index(tag) < inside]  # a tunnel's are not noted
    kind = tags[-1].type if tags else packet.type
    ethernet = {
        "etherTypeName": f"{kind:#x}",
        "etherType": kind,
        "srcMac": packet.src,
        "dstMac": packet.dst,
    }
    if tags:
        ethernet |= {"vlanId": tags[-1].vlan, "pcp": tags[-1].prio}
    if len(tags) > 1:
        ethernet |= {"outerVlanId": tags[0].vlan, "outerPcp": tags[0].prio}
    found: dict[str, Any] = {"ETHERNET": ethernet}
    ips = [layer for layer in layers if isinstance(layer, (IP, IPv6))]
    if ips:
        ip = ips[-1]
        found["IP"] = {"srcIp": ip.src, "dstIp": ip.dst}
        if isinstance(ip, IP):
            rest = {"protocol": ip.proto, "length": ip.len, "tos": ip.tos, "ttl": ip.ttl}
        else:
            protocol = ip.payload.nh if isinstance(ip.payload, IPv6ExtHdrHopByHop) else ip.nh
            rest = {"protocol": protocol, "length": ip.plen + 40, "tos": ip.tc, "ttl": ip.hlim}
        found["IP"] |= rest
    if len(ips) > 1:
        around = "gre" if inside < len(layers) else "ipip"
        found["OUTER_IP"] = {
            "encapsulation": around,
            "srcIp": ips[0].src,
            "dstIp": ips[0].dst,
        }
    if isinstance(last := packet.getlayer(TCP) or packet.getlayer(UDP), (TCP, UDP)):
        found["TRANSPORT"] = {"srcPort": last.sport, "dstPort": last.dport}
        if isinstance(last, TCP):
            found["TRANSPORT"]["tcpFlags"] = int(last.flags)
    if icmp := packet.getlayer(ICMP):
        found["ICMP"] = {"type": icmp.type, "code": icmp.code}
    return found


@pytest.mark.parametrize("name", CASES)
def test_reason(run: Run, name: str) -> None:
    """As many events as packets were sent, with the reason, and all that the packet says."""
    events = run.told[name]
    case, frame = CASES[name], run.frames[name]
    assert [event["trapName"] for event in events] == [case.reason] * case.count
    wanted = expected(frame)
    for event in events:
        packet = event["packet"]
        packet.pop("packetType")
        packet.get("IP", {}).pop("protocolName", None)
        assert packet == wanted
        assert event["bytes"] == len(frame)
        assert (event["count"], event["recordKind"]) == (1, "event")
        assert event["ingressPort"] == "in0"


def test_full_socket(run: Run) -> None:
    """What a socket has no room for is told, packet by packet, at the interface it came in by."""
    count, events = run.full
    assert count > 0
    assert [e["trapName"] for e in events] == ["SOCKET_RCVBUFF"] * count
    assert {e["packet"]["TRANSPORT"]["dstPort"] for e in events} == {SMALL}
    assert {e["ingressPort"] for e in events} == {"in0"}
    assert {e["bytes"] for e in events} == {14 + 20 + 8 + 1000}


def test_full_queue(run: Run) -> None:
    """What does not leave is told, too, at the interface that it should have left by."""
    count, events = run.leaving
    assert len(events) == count
    assert {e["trapName"] for e in events} <= {"QDISC_DROP", "QDISC_OVERLIMIT"}
    assert {e["ingressPort"] for e in events} == {"in0"}
    assert {e["packet"]["TRANSPORT"]["srcPort"] for e in events} == {4500}
    assert {e["packet"]["IP"]["dstIp"] for e in events} == {A4}
    assert {e["bytes"] for e in events} == {14 + 20 + 8 + 500}


def test_account(run: Run) -> None:
    """Every packet that the kernel reported is in exactly one count."""
    account = dict(run.account)
    told = sum(map(len, run.told.values())) + len(run.full[1]) + len(run.leaving[1])
    assert account["events_packets"] >= told
    assert account["packets_handed"] == account["events_packets"]
    parts = ("events", "aggregated", "suppressed", "left_out", "elsewhere", "no_packet", "missed")
    assert account["seen_packets"] == sum(account[f"{part}_packets"] for part in parts)
