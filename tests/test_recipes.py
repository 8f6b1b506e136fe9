# SPDX-License-Identifier: Apache-2.0
"""docs/recipes.md: what each generator sends is missed, number by number, as a capture says it."""

from __future__ import annotations

import json
import random
import re
import shlex
import socket
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import captured
import loss
import pytest
import tap
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from traffic import V4, Wire

from lab.capture import Capture
from lab.loading import load
from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()
EVERY = 37
END = re.compile(r" measured, (\d+) numbers? missing \(loss (\S+) %\), (\d+) late, (\d+) twice")


MIRROR = """
#include <uapi/linux/bpf.h>
int mirror(struct __sk_buff *skb)
{
	bpf_clone_redirect(skb, %d, 0);
	return -1;
}
"""


class Number(NamedTuple):
    """Where a generator's packets carry their number, by its own documents."""

    at: int
    size: int
    port: int
    before: bytes = b""  # what stands ahead of it

    def of(self, data: bytes) -> int | None:
        """The number in a payload."""
        at = data.find(self.before) + self.at
        found = data[at : at + self.size]
        return int.from_bytes(found) if self.before in data and len(found) == self.size else None


def recipe(name: str) -> tuple[str, list[str]]:
    """The generator's line, if there is one, and the options of vtap-stream, by the page."""
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    *sender, ours = section.split("```")[1].strip().splitlines()
    command, *options = shlex.split(ours)
    assert command == "vtap-stream"
    return "\n".join(sender), ["wire0" if word == "eth0" else word for word in options]


def iperf3(wire: Wire, line: str, _: Path) -> None:
    """Its server on the other side."""
    server = wire.receiver.popen("iperf3", "-s", "-1", "--forceflush", stdout=subprocess.PIPE)
    assert b"-----" in server.stdout.readline()
    assert b"listening" in server.stdout.readline()
    wire.sender.run(*shlex.split(line), timeout=tap.DEADLINE)
    server.communicate(timeout=tap.DEADLINE)


def iperf2(wire: Wire, line: str, _: Path) -> None:
    """Likewise."""
    server = wire.receiver.popen("iperf", "-s", "-u", stdout=subprocess.PIPE)
    assert b"-----" in server.stdout.readline()
    assert b"listening" in server.stdout.readline()
    wire.sender.run(*shlex.split(line), timeout=tap.DEADLINE)
    server.kill()
    server.communicate(timeout=tap.DEADLINE)


def trafgen(wire: Wire, line: str, path: Path) -> None:
    """From the file that the page's loop makes."""
    loop = PAGE.split("\n## trafgen\n")[1].split("```")[3].strip()
    subprocess.run(["bash", "-c", loop], cwd=path, check=True)
    words = shlex.split(line.replace("eth0", "wire0").replace("numbered", f"{path}/numbered"))
    wire.sender.run(*words, timeout=tap.DEADLINE)


def mgen(wire: Wire, line: str, _: Path) -> None:
    """It ends when its last event is over."""
    process = wire.sender.popen(
        *shlex.split(line), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    process.wait(tap.DEADLINE)


def crafted(number: Callable[[int], bytes], port: int) -> Callable[[Wire, str, Path], None]:
    """500 datagrams whose payload begins with NUMBER; some swapped, some twice."""

    def send(wire: Wire, _: str, __: Path) -> None:
        chance = random.Random(3)  # noqa: S311 - traffic, not secrets
        order = list(range(500))
        for at in range(20, 480, 40):
            order[at], order[at + 7] = order[at + 7], order[at]
            order.insert(at + 12, order[at + 9])
        sender = wire.udp(socket.AF_INET, port)
        for n in order:
            sender.send(number(n) + chance.randbytes(1100))
            time.sleep(0.0005)

    return send


def pktgen(number: int) -> bytes:
    """By struct pktgen_hdr: magic, number, time."""
    return struct.pack(">IIII", 0xBE9BE955, number, 0, 0)


def rtp(number: int) -> bytes:
    """RFC 3550 section 5.1: version, payload type, number; over its wrap."""
    return struct.pack(">BBHII", 0x80, 0, (number + 65300) % 65536, number * 160, 7)


RECIPES = {
    "iperf3": (iperf3, Number(8, 8, 5201)),
    "iperf 2": (iperf2, Number(0, 4, 5001)),
    "trafgen": (trafgen, Number(4, 4, 2000)),
    "pktgen": (crafted(pktgen, 9), Number(4, 4, 9, struct.pack(">I", 0xBE9BE955))),
    "MGEN": (mgen, Number(8, 4, 5000)),
    "TWAMP and STAMP": (crafted(lambda n: struct.pack(">I", n), 862), Number(0, 4, 862)),
    "RTP": (crafted(rtp, 16384), Number(2, 2, 16384)),
}
FILES = {
    "twamp.json": {"RULES": ["- - - 862 udp"]},
    "rtp.json": {"RULES": ["- - - [16384,16386] udp"]},
}


def expected(path: Path, number: Number) -> tuple[int, int, int]:
    """Of the numbers in a capture: how many came, how many never, how many twice."""
    found = [
        value
        for packet in captured.packets(path)
        if packet.flow.dst_port == str(number.port)
        and packet.flow.protocol == "udp"
        and (value := number.of(packet.data)) is not None
    ]
    end = 1 << 8 * number.size
    # close to the first one, whichever way round; a negative number, as at iperf's end, is none
    places = [(n - found[0] + end // 2) % end - end // 2 for n in found]
    places = [place for place in places if place > -1000]
    counts = Counter(places)
    return len(found), max(places) - min(places) + 1 - len(counts), len(places) - len(counts)


def told(said: list[str]) -> tuple[int, ...]:
    """Missing, late and twice, as the last line says it."""
    (match,) = filter(None, map(END.search, said))
    return int(match[1]), int(match[3]), int(match[4])


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(tmp_path: Path, name: str) -> None:
    """Every number that is missing behind real loss is missed, and nothing else is."""
    send, number = RECIPES[name]
    line, options = recipe(name)
    for file, content in FILES.items():
        (tmp_path / file).write_text(json.dumps(content))
    options = [str(tmp_path / word) if word in FILES else word for word in options]
    path = tmp_path / "in.pcap"
    with (
        Wire() as wire,
        loss.ahead(wire.receiver, "wire0", EVERY),
        Capture(wire.receiver, "wire0", path, snaplen=2000, filter="udp") as capture,
        tap.Tap(wire.receiver, *options) as tapped,
    ):
        send(wire, line, tmp_path)
        wire.settle()
        capture.stop()
        records = tapped.stop()
        said = list(tapped.said)
    came, missing, twice = expected(path, number)
    assert came > 200
    assert missing > 5
    found_missing, late, found_twice = told(said)
    assert (found_missing, found_twice) == (missing, twice)
    assert bool(late) == bool(twice)  # where they were swapped, some were doubled
    ratios = [r["loss_ratio"] for r in tap.flows(records) if "loss_ratio" in r]
    assert 0 < max(ratios) < 0.2
    assert not any("right?" in line for line in said)


@pytest.mark.parametrize("name", ["iperf3", "RTP"])
def test_mirror_port(tmp_path: Path, name: str) -> None:
    """The same on a third machine, to which the packets are mirrored."""
    send, number = RECIPES[name]
    line, options = recipe(name)
    for file, content in FILES.items():
        (tmp_path / file).write_text(json.dumps(content))
    options = [str(tmp_path / word) if word in FILES else word for word in options]
    path = tmp_path / "in.pcap"
    with Wire() as wire, Namespace() as observer, loss.ahead(wire.receiver, "wire0", EVERY):
        veth(wire.receiver, "mirror0", observer, "wire0")
        with wire.receiver.entered():
            there = interfaces()
            program = Program("mirror", "SCHED_CLS")
            objects = load(Source(MIRROR % there["mirror0"].index, (program,), ()))
            attached = attach.attach(
                objects.programs["mirror"], there["wire0"], attach.Direction.INGRESS
            )
        with (
            Capture(wire.receiver, "wire0", path, snaplen=2000, filter="udp") as capture,
            tap.Tap(observer, *options, "--promiscuous") as tapped,
        ):
            send(wire, line, tmp_path)
            wire.settle()
            capture.stop()
            tapped.end()
        attached.detach()
        objects.close()
    came, missing, twice = expected(path, number)
    assert came > 200
    found_missing, _, found_twice = told(tapped.said)
    assert (found_missing, found_twice) == (missing, twice)


def frames(payloads: list[bytes], port: int) -> list[bytes]:
    """Ethernet frames for the wire's receiver."""
    ip = IP(src=V4[0], dst=V4[1])
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    return [bytes(ether / ip / UDP(sport=7, dport=port) / data) for data in payloads]


DOUBTS: dict[str, tuple[tuple[str, ...], Callable[[int], bytes], str]] = {
    "the same word each time": (
        ("--sequence-offset", "4"),
        lambda n: struct.pack(">II", n, 7),
        r"39 of 40 numbers equal the one before: are --sequence-offset and --sequence-bits right\?",
    ),
    "the other byte order": (
        ("--sequence-offset", "0"),
        lambda n: struct.pack("<I", n + 1),
        r"\d+ of 40 numbers are far from the one before: are --sequence-offset, .* right\?",
    ),
    "a time in µs, for a number": (
        ("--sequence-offset", "4"),
        lambda n: struct.pack(">III", 5, 1000 + 480 * n, n),
        r"39 of 40 numbers are far from the one before: are --sequence-offset, .* right\?",
    ),
    "a pattern that is not there": (
        ("--sequence-offset", "4", "--sequence-pattern", "12345678"),
        lambda n: struct.pack(">II", n, 7),
        r"the pattern was in none of 40 packets: is --sequence-pattern right\?",
    ),
    "an offset behind the end": (
        ("--sequence-offset", "400"),
        lambda n: struct.pack(">II", n, 7),
        r"none of 40 packets was long enough: is --sequence-offset right\?",
    ),
    "all is well": (("--sequence-offset", "0"), lambda n: struct.pack(">I", n * 2), ""),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_doubts(name: str) -> None:
    """What is no sequence number is called so, once; what is one is not, with half of them lost."""
    options, payload, wanted = DOUBTS[name]
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0", "-t", "0.2", *options) as tapped,
        wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind(("wire0", 0))
        numbered = frames([payload(n) for n in range(40)], 2000)
        time.sleep(0.2 - time.time() % 0.2)  # all of them in one interval
        for frame in numbered:
            sender.send(frame)
        wire.settle()
        time.sleep(0.5)  # intervals in which it could be said again
        tapped.end()
    doubts = [line for line in tapped.said if "right?" in line]
    assert len(doubts) == bool(wanted), tapped.said
    assert not wanted or re.search(wanted, doubts[0]), doubts
    assert any("loss by number not known" in line for line in tapped.said) == bool(wanted)


def chosen_file(name: str) -> str:
    """The path of an example in conf/."""
    return str(ROOT / "conf" / name)


def test_voice(tmp_path: Path) -> None:
    """conf/voice.json: RTP is checked over its wrap, RTCP beside it and SIP are left alone."""
    file = json.loads(re.sub(r"//.*", "", (ROOT / "conf" / "voice.json").read_text()))
    (rule,) = file["RULES"]
    mine = {**file, "RULES": [rule.replace("10.20.0.0/16", "192.0.2.0/24")]}
    path = tmp_path / "voice.json"
    path.write_text(json.dumps(mine))
    records = _through(path, [(16384, rtp(n) + bytes(160)) for n in range(400) if n % 50 != 7])
    numbered = [r for r in records if r.get("dst_port") == "16384" and "seq_missing" in r]
    assert numbered[-1]["seq_missing"] == 8
    assert sum(r["seq_small"] for r in numbered) == 8  # an interval may end between them
    others = [(16385, bytes.fromhex("80c80006") + bytes(24))] * 5 + [(5060, b"INVITE sip:a")] * 5
    assert not [r for r in _through(path, others) if r.get("seq_received")]


def test_test_traffic() -> None:
    """conf/test-traffic.json: a 32-bit number ahead of everything; other ports are left alone."""
    path = ROOT / "conf" / "test-traffic.json"
    sent = [(9000, struct.pack(">I", n) + bytes(30)) for n in range(300) if n % 60 != 9]
    records = _through(path, sent + [(9101, bytes(30))] * 9)
    (flow,) = [r for r in records if r.get("dst_port") == "9000"][-1:]
    assert (flow["seq_missing"], flow["seq_received"]) == (5, 295)
    assert not [r for r in records if r.get("dst_port") == "9101"]


def _through(file: Path, sent: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
    """What is streamed, by the configuration FILE, of payloads to ports."""
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0", "-c", str(file)) as tapped,
        wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind(("wire0", 0))
        for port, payload in sent:
            sender.send(frames([payload], port)[0])
        wire.settle()
        return tap.flows(tapped.stop())
