# SPDX-License-Identifier: Apache-2.0
"""The hooks beside one another: the same traffic, the same counts."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import captured
import pytest
import tap
from dissector import dissect
from hypothesis import given
from packets import COUNTED, MALFORMED, NOT_IP, agrees, balanced, counted, frames, properties
from program import LONGEST, NOT_LINEAR, Flow, FlowProgram, settings
from traffic import V4, V6, Wire, echo_request, together
from waiting import wait_for

from lab.capture import Capture
from trapstream_vtap.bpf.attach import PacketSocket, xdp
from trapstream_vtap.bpf.attach.promiscuous import promiscuous
from trapstream_vtap.errors import RunError
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.flows.settings import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.namespace import Namespace

PROGRAMS = {"xdp": "vtap_ingress", "socket": "vtap_socket"}


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads: what passes is what was sent."""
    with Wire() as wire:
        yield wire


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Iterator[FlowProgram]:
    """The programs of the other two hooks, with every key field."""
    direction = "ingress" if request.param == "xdp" else "both"
    loaded = FlowProgram(settings(direction=direction, hook=request.param))
    yield loaded
    loaded.close()


# The programs by themselves


@pytest.mark.parametrize("name", COUNTED)
def test_counts(program: FlowProgram, name: str) -> None:
    """A well-formed packet is counted into its flow, from every hook."""
    frame, flow = counted(name)
    assert program.run(frame, PROGRAMS[program.hook]).flow == flow


def plainly_ip(name: str) -> bool:
    """Whether the frame's first ethertype is IP."""
    return COUNTED[name][0][12:14] in (b"\x08\0", b"\x86\xdd")


@pytest.mark.parametrize("program", ["xdp"], indirect=True)
@pytest.mark.parametrize("name", [name for name in COUNTED if plainly_ip(name)])
def test_counts_layer_3(program: FlowProgram, name: str) -> None:
    """Without an Ethernet header, XDP takes from the IP version what no ethertype says."""
    frame, flow = counted(name)
    frame = frame[14:].ljust(14, b"\0")
    expected = Flow(**{**vars(flow), "bytes": len(frame)})
    assert program.run(frame, f"{PROGRAMS[program.hook]}_l3").flow == expected


@pytest.mark.parametrize(
    "name", [n for n, frame in {**NOT_IP, **MALFORMED}.items() if len(frame) < LONGEST]
)
def test_counts_no_flow(program: FlowProgram, name: str) -> None:
    """What is no flow's packet is counted under the same reason from every hook."""
    frame = {**NOT_IP, **MALFORMED}[name]
    outcome = program.run(frame, PROGRAMS[program.hook])
    balanced(outcome)
    assert outcome.count("not_ip" if name in NOT_IP else "malformed") == (1, len(frame))


@properties
@given(frame=frames())
def test_reads_what_the_dissector_reads(program: FlowProgram, frame: bytes) -> None:
    """Whatever a frame is, the program of either hook and the dissector agree."""
    agrees(program.run(frame, PROGRAMS[program.hook]), dissect(frame), len(frame))


@pytest.mark.parametrize("program", ["xdp"], indirect=True)
@pytest.mark.parametrize("name", COUNTED)
def test_xdp_of_several_buffers(program: FlowProgram, name: str) -> None:
    """XDP counts a packet whole that does not fit into one buffer."""
    frame, flow = counted(name)
    frame = frame.ljust(NOT_LINEAR, b"\7")
    expected = Flow(**{**vars(flow), "bytes": NOT_LINEAR})
    assert program.run(frame, PROGRAMS[program.hook]).flow == expected


# Real traffic


def totals(records: list[dict[str, Any]], *, vlan: bool = True) -> dict[Any, list[int]]:
    """Packets, bytes and payload bytes by flow and direction."""
    found: dict[Any, list[int]] = {}
    for r in tap.flows(records):
        key = (captured.Flow.of(r), r.get("vlan") if vlan else None, r["direction"])
        sums = found.setdefault(key, [0, 0, 0])
        for at, name in enumerate(("packets", "bytes", "payload_bytes")):
            sums[at] += r[name]
    return found


def expected(found: list[captured.Packet], address: tuple[str, ...]) -> dict[Any, list[int]]:
    """The same of a capture; ADDRESS: those of the side that was measured."""
    result: dict[Any, list[int]] = {}
    for packet in found:
        side = "egress" if packet.flow.src_ip in address else "ingress"
        sums = result.setdefault((packet.flow, packet.vlan, side), [0, 0, 0])
        for at, value in enumerate((1, packet.bytes, packet.payload)):
            sums[at] += value
    return result


def tagged(frame: bytes, vlan: int) -> bytes:
    """FRAME in a VLAN."""
    return frame[:12] + b"\x81\0" + vlan.to_bytes(2) + frame[12:]


def drive(wire: Wire) -> None:
    """UDP, TCP and ICMP over IPv4 and IPv6, fragments, and crafted frames in VLANs."""
    drives = []
    for family in (socket.AF_INET, socket.AF_INET6):
        datagrams, (ours, theirs), ping = (
            wire.udp(family, 7001), wire.tcp(family, 7002), wire.ping(family)
        )  # fmt: skip
        drives += [
            lambda s=datagrams: [s.send(bytes(n * 37 % 4000)) for n in range(200)],
            lambda s=ours: [s.sendall(bytes(1 + n * 31 % 1300)) for n in range(40)],
            lambda s=theirs: [s.sendall(bytes(1 + n)) for n in range(50)],
            lambda s=ping, f=family: [s.send(echo_request(f, n, n)) for n in range(60)],
        ]
    together(*drives)
    with wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("wire0", 0))
        for name in ("UDP", "IPv6 UDP", "QinQ", "QinQ, IPv6", "TCP with options", "ICMP"):
            raw.send(counted(name)[0])
            raw.send(tagged(counted("UDP")[0], 77))
    wire.settle()


KEY = "src_ip,dst_ip,src_port,dst_port,protocol,vlan"


@pytest.mark.parametrize("direction", ["ingress", "both"])
def test_same_counts(wire: Wire, tmp_path: Path, direction: str) -> None:
    """All hooks, on one interface at the same time, count exactly what a capture has."""
    hooks = HOOKS if direction == "ingress" else ("tc", "socket")
    wire.sender.run("ethtool", "-K", "wire0", "txvlan", "off", check=False)
    path = tmp_path / "all.pcap"
    options = ("-i", "wire0", "--direction", direction, "--key", KEY)
    with Capture(wire.receiver, "wire0", path) as capture:
        taps = [tap.Tap(wire.receiver, *options, "--hook", hook) for hook in hooks]
        for tapped in taps:
            tapped.__enter__()
        try:
            drive(wire)
            capture.stop()
            counts = [totals(tapped.stop()) for tapped in taps]
        finally:
            for tapped in taps:
                tapped.__exit__()
    found = expected(captured.packets(path), (V4[1], V6[1]))
    if direction == "ingress":
        found = {key: sums for key, sums in found.items() if key[2] == "ingress"}
    for hook, seen in zip(hooks, counts, strict=True):
        assert seen == found, hook


def test_socket_egress_only(wire: Wire) -> None:
    """A socket filter that is to see egress counts nothing of what comes in."""
    options = ("-i", "wire0", "--direction", "egress", "--hook", "socket")
    with tap.Tap(wire.receiver, *options) as tapped:
        ping = wire.ping(socket.AF_INET)
        for number in range(20):
            ping.send(echo_request(socket.AF_INET, number, 5))
        wire.settle()
        records = tapped.stop()
    assert {(r["direction"], r["src_ip"]) for r in tap.flows(records)} == {("egress", V4[1])}
    assert tap.agent(records, "wire0")["seen_packets"] == 20


# Attaching and letting go


def xdp_program(namespace: Namespace) -> Any:
    """What `ip link` says of XDP on wire0."""
    link = json.loads(namespace.run("ip", "-j", "link", "show", "dev", "wire0").stdout)[0]
    return link.get("xdp")


def test_xdp_goes_with_the_process(wire: Wire) -> None:
    """XDP is native on a veth, and nothing is left of a process that was killed."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--hook", "xdp") as tapped:
        assert xdp_program(wire.receiver)["mode"] == 1  # XDP_ATTACHED_DRV
        assert not any("generic" in line for line in tapped.said)
        tapped.process.kill()
        tapped.process.wait()
        wait_for(lambda: xdp_program(wire.receiver) is None)


def test_generic_xdp(wire: Wire) -> None:
    """Where the driver has no XDP the generic one counts, and the person is told."""
    with (
        wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        tap.Tap(wire.receiver, "-i", "lo", "--hook", "xdp") as tapped,
    ):
        there.bind(("127.0.0.1", 7001))
        for number in range(20):
            here.sendto(bytes(number * 100), ("127.0.0.1", 7001))
        records = [r for r in tap.flows(tapped.stop()) if r.get("dst_port") == "7001"]
    assert any("lo has no XDP of its own" in line for line in tapped.said)
    assert sum(r["packets"] for r in records) == 20
    assert sum(r["payload_bytes"] for r in records) == sum(range(0, 2000, 100))


def test_generic_xdp_leaves_traffic_control_alone(wire: Wire, tmp_path: Path) -> None:
    """Behind generic XDP, also reloaded, traffic control sees packets as they are."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    with (
        wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
        wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        tap.Tap(wire.receiver, "-i", "lo") as control,
        tap.Tap(wire.receiver, "-i", "lo", "--hook", "xdp", "-c", str(path)) as tapped,
    ):
        there.bind(("127.0.0.1", 7001))
        for _ in range(2):
            for number in range(20):
                here.sendto(bytes(number * 100), ("127.0.0.1", 7001))
            tapped.process.send_signal(signal.SIGHUP)
            wait_for(lambda: any("was read again" in line for line in tapped.said))
        for records in (control.stop(), tapped.stop()):
            mine = [r for r in tap.flows(records) if r.get("dst_port") == "7001"]
            assert sum(r["packets"] for r in mine) == 40
            assert tap.agent(records, "lo")["not_ip_packets"] == 0
            assert tap.agent(records, "lo")["malformed_packets"] == 0


def test_another_xdp_program(wire: Wire) -> None:
    """Where XDP is taken, one sentence says so, and the other program stays."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--hook", "xdp") as first:
        failed = wire.receiver.run(
            str(tap.COMMAND), "-i", "wire0", "--hook", "xdp", "127.0.0.1", "9", check=False
        )
        assert failed.returncode == 1
        assert "Cannot attach to XDP of wire0: another XDP program is there" in failed.stderr
        assert xdp_program(wire.receiver)["mode"] == 1
        first.stop()
    assert xdp_program(wire.receiver) is None


def test_refused_by_the_kernel(wire: Wire) -> None:
    """An interface that is gone, or a program of another kind: one sentence each."""
    with wire.receiver.entered():
        (chosen,) = choose(("wire0",))[0]
        wire.receiver.run("ip", "link", "del", "wire0")
        for refused in (
            lambda: PacketSocket(0, chosen, ()),
            lambda: promiscuous((chosen,)),
            lambda: xdp.attach(0, 0, chosen),
        ):
            with pytest.raises(RunError, match="wire0"):
                refused()


def promiscuity(namespace: Namespace) -> int:
    """How often wire0 was asked to be promiscuous and still is."""
    (link,) = json.loads(namespace.run("ip", "-d", "-j", "link", "show", "dev", "wire0").stdout)
    return int(link["promiscuity"])


@pytest.mark.parametrize("killed", [False, True])
def test_promiscuous(wire: Wire, killed: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    """The interface is promiscuous while it runs, and not after exit or SIGKILL."""
    assert promiscuity(wire.receiver) == 0
    with tap.Tap(wire.receiver, "-i", "wire0", "--promiscuous") as tapped:
        assert promiscuity(wire.receiver) == 1
        if killed:
            tapped.process.kill()
            tapped.process.wait()
        else:
            tapped.stop()
    wait_for(lambda: promiscuity(wire.receiver) == 0)


def test_not_promiscuous(wire: Wire) -> None:
    """Unless asked to it leaves the interface as it is."""
    for hook in HOOKS:
        with tap.Tap(wire.receiver, "-i", "wire0", "--hook", hook) as tapped:
            assert promiscuity(wire.receiver) == 0
            tapped.stop()


@pytest.mark.parametrize("direction", ["egress", "both"])
def test_xdp_sees_ingress_only(direction: str) -> None:
    """Asking XDP for what leaves is a usage error."""
    refused = subprocess.run(
        [tap.COMMAND, "-i", "lo", "--hook", "xdp", "--direction", direction, "127.0.0.1", "9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "--hook xdp sees only what comes in" in refused.stderr


def test_nothing_is_queued(wire: Wire) -> None:
    """The packet socket of the socket hook holds no packet: its filter takes none."""
    options = ("-i", "wire0", "--hook", "socket")
    with tap.Tap(wire.receiver, *options) as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        for _ in range(50):
            sender.send(bytes(1000))
        wire.settle()
        table = wire.receiver.run("cat", "/proc/thread-self/net/packet").stdout.splitlines()
        waiting = [int(line.split()[6]) for line in table[1:]]
        records = tapped.stop()
    assert tap.agent(records, "wire0")["counted_packets"] == 50
    assert waiting == [0]
