# SPDX-License-Identifier: Apache-2.0
"""What real links carry: VLANs, fragments, merged packets, tunnels without Ethernet header."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import captured
import pytest
import tap
from scapy.layers.inet import IP, UDP
from traffic import INBOUND, V4, V6, Wire

from lab.capture import Capture

if TYPE_CHECKING:
    from pathlib import Path

ALL_KEYS = "src_ip,dst_ip,src_port,dst_port,protocol,vlan"
TUNSETIFF = 0x400454CA  # include/uapi/linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
UDP_SEGMENT = 103  # include/uapi/linux/udp.h


def totals(records: list[dict[str, object]]) -> Counter[tuple[object, ...]]:
    """Packets, bytes and payload by flow, VLAN and what is counted."""
    sums: Counter[tuple[object, ...]] = Counter()
    for record in tap.flows(records):
        for what in ("packets", "bytes", "payload_bytes"):
            sums[captured.Flow.of(record), record.get("vlan"), what] += record[what]
    return sums


def captured_totals(found: list[captured.Packet]) -> Counter[tuple[object, ...]]:
    """The same from a capture."""
    sums: Counter[tuple[object, ...]] = Counter()
    for packet in found:
        sums[packet.flow, packet.vlan, "packets"] += 1
        sums[packet.flow, packet.vlan, "bytes"] += packet.bytes
        sums[packet.flow, packet.vlan, "payload_bytes"] += packet.payload
    return sums


@pytest.mark.parametrize(
    "tags", [(), ((0x8100, 100),), ((0x88A8, 4094),), ((0x88A8, 7), (0x8100, 100)), ((0x8100, 0),)]
)
def test_vlan(tmp_path: Path, tags: tuple[tuple[int, int], ...]) -> None:
    """Tagged frames: ids in the tag `vlan`, tags in the bytes, as a capture has them.

    The kernel takes the outermost tag off the frame before the program sees it.
    """
    path = tmp_path / "vlan.pcap"
    header = bytes.fromhex("020000000002020000000001")
    for kind, number in tags:
        header += struct.pack(">HH", kind, number | 0x6000)  # priority 3
    with Wire() as wire:
        with (
            Capture(wire.receiver, "wire0", path) as capture,
            tap.Tap(wire.receiver, "-i", "wire0", "--key", ALL_KEYS) as tapped,
        ):
            with wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind(("wire0", 0))
                for size in range(50):
                    packet = IP(src="198.51.100.1", dst="198.51.100.2") / UDP(sport=7, dport=9)
                    sender.send(header + b"\x08\x00" + bytes(packet / bytes(size)))
            wire.settle()
            capture.stop()
            records = tapped.stop()
        found = captured.packets(path)
    assert len(found) == 50
    assert {packet.vlan for packet in found} == {".".join(str(n) for _, n in tags) or None}
    assert totals(records) == captured_totals(found)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_fragments(tmp_path: Path, family: int) -> None:
    """The first fragment counts to the datagram's flow, later ones to one without ports."""
    path = tmp_path / "fragments.pcap"
    with Wire() as wire:
        with (
            Capture(wire.receiver, "wire0", path, filter=INBOUND) as capture,
            tap.Tap(wire.receiver, "-i", "wire0") as tapped,
        ):
            sender = wire.udp(family, 7001)
            for size in (10, 1472, 3000, 8000):
                sender.send(bytes(size))
            wire.settle()
            capture.stop()
            records = tapped.stop()
        found = captured.packets(path)
    assert {packet.flow.dst_port for packet in found} == {"7001", None}
    assert totals(records) == captured_totals(found)


def tcp_info(connection: socket.socket) -> tuple[int, int]:
    """Segments and bytes of payload sent, the kernel's own count.

    See: struct tcp_info, include/uapi/linux/tcp.h
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    return struct.unpack_from("I", info, 136)[0], struct.unpack_from("Q", info, 200)[0]


@pytest.mark.parametrize(("family", "header"), [(socket.AF_INET, 66), (socket.AF_INET6, 86)])
def test_merged_tcp(family: int, header: int) -> None:
    """A merged segment of 64 KB is counted as what TCP itself says it sent on the wire."""
    with Wire(offload=True) as wire, tap.Tap(wire.receiver, "-i", "wire0") as tapped:
        ours, theirs = wire.tcp(family, 7002)
        received: list[int] = []

        def read() -> None:
            while part := theirs.recv(1 << 20):
                received.append(len(part))

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(20):
            ours.sendall(bytes(1 << 20))
        ours.shutdown(socket.SHUT_WR)
        reader.join()
        theirs.close()
        assert ours.recv(1) == b""
        wire.settle()
        segments, sent = tcp_info(ours)
        skbs = wire.receiver.counters("wire0").rx_packets
        records = tapped.stop()
    mine = [r for r in tap.flows(records) if r.get("dst_port") == "7002"]
    assert sum(received) == 20 << 20
    assert skbs * 2 < segments, "nothing was merged, nothing is shown"
    assert sum(r["packets"] for r in mine) == segments
    assert sum(r["payload_bytes"] for r in mine) == sent
    # with timestamps 32 bytes of TCP header, 40 in the SYN
    assert sum(r["bytes"] for r in mine) == sent + segments * header + 8


@pytest.mark.parametrize(("family", "header"), [(socket.AF_INET, 42), (socket.AF_INET6, 62)])
def test_merged_udp(family: int, header: int) -> None:
    """Datagrams that go to the device in one piece (UDP_SEGMENT) are counted one by one."""
    with Wire(offload=True) as wire, tap.Tap(wire.receiver, "-i", "wire0") as tapped:
        sender = wire.udp(family, 7001)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        for _ in range(10):
            sender.send(bytes(20_500))  # 20 of 1,000 bytes and one of 500
        wire.settle()
        skbs = wire.receiver.counters("wire0").rx_packets
        (record,) = [r for r in tap.flows(tapped.stop()) if r["protocol"] == "udp"]
    assert skbs < 50
    assert record["packets"] == 210
    assert record["payload_bytes"] == 205_000
    assert record["bytes"] == 205_000 + 210 * header


def test_tunnel_interface() -> None:
    """An interface whose frames have no Ethernet header: the bytes begin with the IP header."""
    with Wire() as wire:
        with wire.receiver.entered():
            tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
        wire.receiver.run("ip", "link", "set", "tun0", "up")
        with tap.Tap(wire.receiver, "-i", "tun0") as tapped:
            addresses = socket.inet_aton(V4[0]) + socket.inet_aton(V4[1])
            for size in range(10):
                head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 64, 17, 0)
                udp = struct.pack(">HHHH", 5000, 6000, 8 + size, 0)
                os.write(tun, head + addresses + udp + bytes(size))
            six = struct.pack(">IHBB", 6 << 28, 8, 17, 64)
            for address in V6:
                six += socket.inet_pton(socket.AF_INET6, address)
            os.write(tun, six + struct.pack(">HHHH", 5000, 6000, 8, 0))
            deadline = time.monotonic() + tap.DEADLINE
            while wire.receiver.counters("tun0").rx_packets < 11:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            records = tapped.stop()
        os.close(tun)
    got = {r["src_ip"]: (r["packets"], r["bytes"], r["payload_bytes"]) for r in tap.flows(records)}
    got = {source: counts for source, counts in got.items() if source in (V4[0], V6[0])}
    assert got == {V4[0]: (10, 28 * 10 + 45, 45), V6[0]: (1, 48, 0)}
