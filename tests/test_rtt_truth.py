# SPDX-License-Identifier: Apache-2.0
"""Round-trip times over a long way: what the packets, tshark, the kernel and the programs say."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import pytest
import tap
from exchanges import answer, by_tshark, segments
from farapart import NAME, FarApart, answered, ask, connection, ping, push, settle
from relay import Relay, Way, mac, one_cpu
from roundtrips import MS, RoundTrips, Sample, Segment
from rttrecords import CLOSE, LATE, about, counts, only, roundtrips, unlike
from sequences import signed
from traffic import V4, V6

from lab.capture import Capture
from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PORT = 9100
OPTIONS = ("-i", NAME, "--probe", "rtt", "-t", "3600")
DELAY = 0.01  # seconds, one way
SHORTEST = 2 * DELAY * 1000  # ms: no round trip over this way takes less


@dataclass(frozen=True)
class Run:
    """Records, and what was captured of the same packets at the same interface."""

    records: list[dict[str, Any]]
    segments: list[Segment]
    found: RoundTrips
    path: Path


def run(apart: FarApart, path: Path, drive: Callable[[], object], *options: str) -> Run:
    """Everything that DRIVE makes pass, measured here."""
    own = mac(apart.here, NAME)
    with Capture(apart.here, NAME, path), tap.Tap(apart.here, *(options or OPTIONS)) as tapped:
        with one_cpu():
            drive()
        records = tapped.stop()
    read = segments(path, own)
    return Run(records, read, RoundTrips().take(read), path)


def echo(apart: FarApart, addresses: tuple[str, str]) -> None:
    """A question every now and then, one connection after the other."""
    for number in range(3):
        ours, theirs = apart.tcp(addresses, PORT + number)
        with answered(theirs, pause=0.004 * number):
            ask(ours, 25, 0.01)
        ours.close()
        theirs.close()
    apart.settle()


def bulk(apart: FarApart, addresses: tuple[str, str]) -> None:
    """Two MB, as fast as a second allows."""
    ours, theirs = apart.tcp(addresses, PORT)
    push(ours, theirs, 2_000_000, 2e6)
    apart.settle(1.0)


PLAIN = Way(DELAY)
LOSSY = Way(DELAY, jitter=0.004, loss=20)
CASES: dict[str, tuple[Callable[[FarApart, tuple[str, str]], None], Way, dict[str, bool]]] = {
    "questions": (echo, PLAIN, {}),
    "questions without timestamps": (echo, PLAIN, {"timestamps": False}),
    "much": (bulk, PLAIN, {}),
    "much, cut late (GSO, GRO)": (bulk, PLAIN, {"offload": True}),
    "with loss": (bulk, LOSSY, {}),
    "with loss, without timestamps": (bulk, LOSSY, {"timestamps": False}),
    "with loss, cut late": (bulk, LOSSY, {"offload": True}),
    "late ones overtaken": (
        bulk,
        Way(DELAY, hold=tuple((number, 0.006) for number in range(20, 1500, 20))),
        {},
    ),
}


SIDES = ("remote", "local")
QUIET = 3
"""So often it is tried whether the machine does not stand still for once."""


def differences(ran: Run, side: str) -> dict[str, tuple[float, float]]:
    """Times in the record of that SIDE that are not the capture's."""
    return unlike(only(ran.records, side=side, protocol="tcp"), ran.found.fields(side))


@pytest.fixture(scope="module", params=CASES)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Real TCP, of IPv4 and IPv6 in turn."""
    drive, way, options = CASES[request.param]
    addresses = (V4, V6)[list(CASES).index(request.param) % 2]
    for _ in range(QUIET):
        path = tmp_path_factory.mktemp("ran") / "tcp.pcap"
        with FarApart(way, **options) as apart:
            ran = run(apart, path, lambda apart=apart: drive(apart, addresses))
        for side in SIDES:
            counts(only(ran.records, side=side, protocol="tcp"), ran.found.fields(side))
        if not any(differences(ran, side) for side in SIDES):
            break
    return ran


def test_records_say_what_the_packets_say(ran: Run) -> None:
    """Count, shortest, mean, longest and the rest, on both sides, by the rule packet by packet."""
    for side in SIDES:
        expected = ran.found.fields(side)
        assert expected["rtt_count"] > 0
        counts(only(ran.records, side=side, protocol="tcp"), expected)
        assert not differences(ran, side)


def times_sent(segments: Sequence[Segment], sample: Sample) -> int:
    """How often the last byte had gone out that SAMPLE's acknowledgement covers, by its time."""
    return sum(
        segment.source == sample.source
        and segment.target == sample.target
        and segment.time <= sample.time
        and signed(sample.number - segment.sequence) > 0
        and signed(segment.sequence + segment.numbers - sample.number) >= 0
        for segment in segments
    )


def test_no_sample_is_of_what_was_sent_again(ran: Run) -> None:
    """What each acknowledges had gone out once by then, and none is shorter than the way."""
    for sample in ran.found.samples:
        assert times_sent(ran.segments, sample) == 1
    assert only(ran.records, side="remote", protocol="tcp")["rtt_min_ms"] >= SHORTEST


def test_the_judge_agrees_with_tshark(ran: Run) -> None:
    """The same time for the same acknowledgement, wherever both have one."""
    theirs = by_tshark(ran.path)
    both = [sample for sample in ran.found.samples if answer(sample) in theirs]
    assert len(both) > 0.9 * len(ran.found.samples)
    for sample in both:
        assert min(abs(ns - sample.rtt) for ns in theirs[answer(sample)]) <= CLOSE * MS


INTERVAL = 0.1  # seconds


def test_each_sample_is_the_time_that_tshark_has(tmp_path: Path) -> None:
    """One question in each interval, so that a record is of one sample."""
    with FarApart(PLAIN) as apart:

        def drive() -> None:
            ours, theirs = apart.tcp(V4, PORT)
            with answered(theirs):
                for _ in range(25):
                    tap.wait_past_line(0.03, INTERVAL)
                    ask(ours, 1, INTERVAL / 2)
            apart.settle()

        options = ("-i", NAME, "--probe", "rtt", "-t", str(INTERVAL))
        ran = run(apart, tmp_path / "tcp.pcap", drive, *options)
    theirs, length = by_tshark(ran.path), round(INTERVAL * 10**9)
    compared = late = 0
    for side in ("remote", "local"):
        for record in roundtrips(ran.records, side=side, protocol="tcp"):
            end = record["timestamp"]
            there = [s for s in ran.found.samples if end - length <= s.time < end]
            there = [s for s in there if s.side == side]
            if record["rtt_count"] == len(there) == 1:
                ns = min(theirs[answer(there[0])], key=lambda ns: abs(ns - there[0].rtt))
                compared += 1
                late += abs(record["rtt_mean_ms"] - ns / MS) > CLOSE
        whole = sum(r["rtt_count"] for r in roundtrips(ran.records, side=side))
        assert whole == ran.found.fields(side)["rtt_count"]
    assert compared > 30
    assert late < 0.05 * compared  # where the machine stood still between a program and a capture


def smoothed(samples: Sequence[Sample]) -> float:
    """As a TCP sender does it, in ms: RFC 6298, section 2."""
    found = samples[0].rtt / MS
    for sample in samples[1:]:
        found += (sample.rtt / MS - found) / 8
    return found


def test_the_kernel_of_the_end_has_the_same(tmp_path: Path) -> None:
    """Shortest round trip, and all of them smoothed, as `ss` shows them.

    What waits for the processor is in the kernel's, and not in ours, which end when the
    acknowledgement came; so it is tried again where the machine was busy.
    """
    for _ in range(QUIET):
        said: list[tuple[float, float]] = []
        with FarApart(PLAIN) as apart:

            def drive(apart: FarApart = apart, said: list[Any] = said) -> None:
                ours, theirs = apart.tcp(V4, PORT)
                with answered(theirs):
                    for _ in range(40):
                        ask(ours, 1, 0.005)
                        said.append(apart.estimate())
                apart.settle()

            ran = run(apart, tmp_path / "tcp.pcap", drive)
        record = only(ran.records, side="remote", protocol="tcp")
        about(record, ran.found.fields("remote"))
        mine = smoothed([sample for sample in ran.found.samples if sample.side == "remote"])
        smooth, shortest = said[-1]
        if abs(smooth - mine) < LATE and abs(shortest - record["rtt_min_ms"]) < 2 * CLOSE:
            return
    assert record["rtt_min_ms"] == pytest.approx(shortest, abs=2 * CLOSE)
    assert smooth == pytest.approx(mine, abs=LATE)


def own_times(record: dict[str, Any], own: list[float]) -> None:
    """RECORD has as many as the program, which sees each a bit later, and never sooner."""
    assert record["rtt_count"] == len(own)
    assert 0 <= min(own) - record["rtt_min_ms"] < LATE
    assert 0 <= mean(own) - record["rtt_mean_ms"] < LATE
    assert record["rtt_min_ms"] >= SHORTEST


@pytest.mark.parametrize("addresses", [V4, V6], ids=["IPv4", "IPv6"])
def test_icmp_is_what_the_pinging_program_measures(
    tmp_path: Path, addresses: tuple[str, str]
) -> None:
    """Many echo requests under way at the same time, each with its own answer."""
    family = socket.AF_INET if addresses == V4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if addresses == V4 else socket.IPPROTO_ICMPV6
    with FarApart(PLAIN) as apart:
        pinging = apart.open.enter_context(apart.here.socket(family, socket.SOCK_RAW, protocol))
        pinging.connect((addresses[1], 0))
        own: list[float] = []
        drive = lambda: own.extend(ping(pinging, family, 100, 0.002))  # noqa: E731
        ran = run(apart, tmp_path / "icmp.pcap", drive)
    record = only(ran.records, protocol="icmp")
    assert (record["side"], record["dst_ip"]) == ("remote", addresses[1])
    own_times(record, own)


def test_dns_is_what_the_client_measures(tmp_path: Path) -> None:
    """From query to answer: the way, and the time that the server takes."""
    own: list[float] = []
    thinks = 0.005
    with FarApart(PLAIN) as apart:
        asking, taking = apart.udp(53)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while data := taking.recvfrom(512):
                    time.sleep(thinks)
                    taking.sendto(data[0][:2] + b"\x81\x80" + data[0][4:], data[1])

        def drive() -> None:
            for number in range(40):
                before = time.monotonic()
                asking.send(number.to_bytes(2, "big") + b"\1\0\0\1" + bytes(22))
                asking.recv(512)
                own.append((time.monotonic() - before) * 1000)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        ran = run(apart, tmp_path / "dns.pcap", drive)
    record = only(ran.records, protocol="dns")
    assert (record["side"], record["dst_ip"]) == ("remote", V4[1])
    assert record["rtt_min_ms"] >= SHORTEST + thinks * 1000
    own_times(record, own)


def test_who_answers_is_local(tmp_path: Path) -> None:
    """Where the answers come from, the time is that until this machine has answered."""
    thinks = 0.007
    with FarApart(PLAIN) as apart:
        apart.here, apart.there = apart.there, apart.here

        def drive() -> None:
            ours, theirs = connection(apart.open, apart.there, apart.here, V4[1], PORT)
            with answered(theirs, thinks):
                ask(ours, 20, 0.0)
            raw = apart.there.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            pinging = apart.open.enter_context(raw)
            pinging.connect((V4[1], 0))
            ping(pinging, socket.AF_INET, 20, 0.001)
            apart.settle()

        ran = run(apart, tmp_path / "local.pcap", drive)
    for side in ("local", "remote"):
        about(only(ran.records, side=side, protocol="tcp"), ran.found.fields(side))
    local = only(ran.records, side="local", protocol="tcp")
    assert local["rtt_p50_ms"] >= 0.9 * thinks * 1000
    assert local["rtt_count"] >= 20
    pinged = only(ran.records, protocol="icmp")
    assert (pinged["side"], pinged["rtt_count"]) == ("local", 20)
    assert pinged["rtt_min_ms"] < SHORTEST / 4


A, B = "192.0.2.1", "198.51.100.1"


def route(
    a: Namespace, middle: Namespace, b: Namespace, ways: tuple[Way, Way]
) -> contextlib.ExitStack:
    """A router in the MIDDLE, a long way from either; its interfaces are `left` and `right`."""
    stack = contextlib.ExitStack()
    left, right = "192.0.2.254", "198.51.100.254"
    stack.enter_context(Relay(a, NAME, middle, "left", ways[0], ipv4=(A, left)))
    stack.enter_context(Relay(middle, "right", b, NAME, ways[1], ipv4=(right, B)))
    a.run("ip", "route", "add", B, "via", left, "dev", NAME)
    b.run("ip", "route", "add", A, "via", right, "dev", NAME)
    with middle.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    return stack


def test_in_the_middle_both_sides_add_up(tmp_path: Path) -> None:
    """At a router: the time to either end and back; their sum is what the asking end measures."""
    with Namespace() as a, Namespace() as middle, Namespace() as b:
        with route(a, middle, b, (Way(0.006), Way(0.011))), contextlib.ExitStack() as stack:
            options = ("-i", "left", "--probe", "rtt", "-t", "3600")
            path, own = tmp_path / "middle.pcap", mac(middle, "left")
            with Capture(middle, "left", path), tap.Tap(middle, *options) as tapped:
                with one_cpu():
                    ours, theirs = connection(stack, a, b, B, PORT)
                    with answered(theirs):
                        took = ask(ours, 40, 0.0)
                settle(middle, 0.5, "left")
                records = tapped.stop()
        found = RoundTrips().take(segments(path, own))
    to_b = only(records, side="local", protocol="tcp", dst_ip=B)
    to_a = only(records, side="remote", protocol="tcp", dst_ip=A)
    about(to_b, found.fields("local"))
    about(to_a, found.fields("remote"))
    assert to_b["rtt_min_ms"] >= 2 * 11
    assert to_a["rtt_min_ms"] >= 2 * 6
    assert -CLOSE < min(took) - (to_a["rtt_min_ms"] + to_b["rtt_min_ms"]) < 2 * LATE
    whole = to_a["rtt_mean_ms"] + to_b["rtt_mean_ms"]
    assert whole == pytest.approx(mean(took), rel=0.15)  # theirs have a handshake in them, too
    handshake = to_a["rtt_handshake_ms"] + to_b["rtt_handshake_ms"]
    assert handshake >= 2 * (11 + 6)


def test_a_lost_syn_gives_no_sample(tmp_path: Path) -> None:
    """It is sent again a second later, and what its answer answers is not known."""
    with FarApart(Way(DELAY, drop=(0,)), Way(DELAY)) as apart:

        def drive() -> None:
            ours, theirs = apart.tcp(V4, PORT)
            with answered(theirs):
                ask(ours, 3, 0.0)
            apart.settle()

        ran = run(apart, tmp_path / "syn.pcap", drive)
    record = only(ran.records, side="remote", protocol="tcp")
    about(record, ran.found.fields("remote"))
    assert "rtt_handshake_ms" not in record
    assert record["rtt_invalidated"] == 1
    assert record["rtt_max_ms"] < 1000
    assert only(ran.records, side="local", protocol="tcp")["rtt_handshake_ms"] < SHORTEST
