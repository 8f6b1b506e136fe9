# SPDX-License-Identifier: Apache-2.0
"""Round-trip times by other ways: loopback, two interfaces of a router, TCP's timestamps, flows."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tap
from exchanges import segments
from farapart import NAME, FarApart, answered, ask, connection, push, settle
from relay import Relay, Way, mac, one_cpu
from roundtrips import EchoedTimes, RoundTrips
from rttrecords import CLOSE, LATE, about, account, only, roundtrips
from traffic import V4, V6

from lab.capture import Capture
from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from roundtrips import End

PORT = 9100
DELAY = 0.01  # seconds, one way
FAR = Way(DELAY)
LOSSY = Way(DELAY, jitter=0.004, loss=20)
QUESTIONS = 20


def questions(apart: FarApart, addresses: tuple[str, str], thinks: float = 0.0) -> None:
    """Some, over a connection."""
    ours, theirs = apart.tcp(addresses, PORT)
    with answered(theirs, thinks):
        ask(ours, QUESTIONS, 0.005)
    apart.settle()


def much(apart: FarApart, addresses: tuple[str, str]) -> None:
    """Half a second of it."""
    ours, theirs = apart.tcp(addresses, PORT)
    push(ours, theirs, 1_000_000, 2e6)
    apart.settle(1.0)


@pytest.mark.parametrize("way", [FAR, LOSSY], ids=["nothing lost", "with loss"])
def test_timestamps_tell_answers_too(tmp_path: Path, way: Way) -> None:
    """Whatever the numbers are: by what was echoed; what is sent again has a newer one."""
    path, options = (
        tmp_path / "tcp.pcap",
        ("--probe", "rtt", "--rtt-tcp", "timestamp", "-t", "3600"),
    )
    with FarApart(way, offload=True) as apart:
        own = mac(apart.here, NAME)
        with (
            Capture(apart.here, NAME, path),
            tap.Tap(apart.here, "-i", NAME, *options) as tapped,
        ):
            with one_cpu():
                questions(apart, V4)
                much(apart, V6)
            records = tapped.stop()
    read = segments(path, own)
    found = EchoedTimes().take(read)
    for addresses in (V4, V6):

        def of(source: End, _: End, ends: tuple[str, str] = addresses) -> bool:
            return source.address == ends[0]

        record = only(records, side="remote", protocol="tcp", dst_ip=addresses[1])
        expected = found.fields("remote", of)
        assert expected["rtt_count"] > 10
        about(record, expected)
        assert record["rtt_min_ms"] >= 2 * DELAY * 1000
    assert account(records)["samples"] == len(found.samples)


def test_on_loopback_each_packet_is_seen_leaving_and_arriving() -> None:
    """From leaving to the answer's arrival is remote, from arrival to its leaving is local."""
    # what vtap-stream itself sends there is on other ports
    options = ("-i", "lo", "--probe", "rtt", "--rtt-key", "src_port,dst_port", "-t", "3600")
    with (
        Namespace() as alone,
        contextlib.ExitStack() as stack,
        tap.Tap(alone, *options) as tapped,
    ):
        ours, theirs = connection(stack, alone, alone, "127.0.0.1", PORT)
        with answered(theirs, 0.003):
            took = ask(ours, QUESTIONS, 0.002)
        settle(alone, 0.5, "lo")
        port = str(ours.getsockname()[1])
        records = tapped.stop()
    for ports in ((port, str(PORT)), (str(PORT), port)):
        tags = dict(zip(("src_port", "dst_port"), ports, strict=True))
        remote, local = (only(records, side=side, **tags) for side in ("remote", "local"))
        for record in (remote, local):
            assert record["rtt_count"] == 1 + QUESTIONS  # a SYN, and each message
            assert record["rtt_invalidated"] == 0
        assert local["rtt_mean_ms"] < remote["rtt_mean_ms"]
        assert local["rtt_handshake_ms"] < remote["rtt_handshake_ms"]
    asked = only(records, side="remote", dst_port=str(PORT))
    assert asked["rtt_max_ms"] <= max(took) + LATE


A, B = "192.0.2.1", "198.51.100.1"
LEFT, RIGHT = "192.0.2.254", "198.51.100.254"


@contextlib.contextmanager
def routed(ways: tuple[Way, Way]) -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Two ends, and a router between, a long way from either; it has `left` and `right`."""
    with (
        Namespace() as a,
        Namespace() as middle,
        Namespace() as b,
        Relay(a, NAME, middle, "left", ways[0], ipv4=(A, LEFT)),
        Relay(middle, "right", b, NAME, ways[1], ipv4=(RIGHT, B)),
    ):
        a.run("ip", "route", "add", B, "via", LEFT, "dev", NAME)
        b.run("ip", "route", "add", A, "via", RIGHT, "dev", NAME)
        with middle.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield a, middle, b


def test_in_a_router_each_interface_has_its_own(tmp_path: Path) -> None:
    """Packets that are forwarded come by at two: no sample is of both, each has both sides."""
    paths = {name: tmp_path / f"{name}.pcap" for name in ("left", "right")}
    with (
        routed((Way(0.004), Way(0.009))) as (a, middle, b),
        contextlib.ExitStack() as stack,
        Capture(middle, "left", paths["left"]),
        Capture(middle, "right", paths["right"]),
        tap.Tap(middle, "-i", "left", "-i", "right", "--probe", "rtt", "-t", "3600") as tapped,
    ):
        with one_cpu():
            ours, theirs = connection(stack, a, b, B, PORT)
            with answered(theirs):
                ask(ours, QUESTIONS, 0.0)
        settle(middle, 0.5, "left")
        records = tapped.stop()
        own = {name: mac(middle, name) for name in paths}
    whole = {}
    for name, path in paths.items():
        found = RoundTrips().take(segments(path, own[name]))
        sides = {side: only(records, interface=name, side=side) for side in ("remote", "local")}
        for side, record in sides.items():
            about(record, found.fields(side))
        assert sides["remote"]["dst_ip"] != sides["local"]["dst_ip"]
        whole[name] = sum(record["rtt_mean_ms"] for record in sides.values())
    assert whole["left"] == pytest.approx(whole["right"], abs=2 * LATE)
    assert account(records)["evicted"] == 0


def flows(records: list[dict[str, Any]], **tags: str) -> list[dict[str, Any]]:
    """The records of `vtap_flow` with these TAGS."""
    return [
        record
        for record in records
        if record["name"] == "vtap_flow" and all(record.get(t) == v for t, v in tags.items())
    ]


@pytest.mark.parametrize("way", [FAR, LOSSY], ids=["nothing lost", "with loss"])
def test_in_records_of_flows_they_are_the_same(tmp_path: Path, way: Way) -> None:
    """In the record of the direction that was answered, of the same packets as the judge has."""
    path = tmp_path / "tcp.pcap"
    options = ("-i", NAME, "--probe", "flows,rtt", "--direction", "both", "-t", "3600")
    with FarApart(way, offload=True) as apart:
        own = mac(apart.here, NAME)
        with Capture(apart.here, NAME, path), tap.Tap(apart.here, *options) as tapped:
            with one_cpu():
                questions(apart, V6, 0.003)
                much(apart, V4)
            records = tapped.stop()
    found = RoundTrips().take(segments(path, own))
    assert not roundtrips(records)
    compared = 0
    for ends in {(sample.source, sample.target) for sample in found.samples}:
        (record,) = flows(
            records,
            src_ip=ends[0].address,
            dst_ip=ends[1].address,
            src_port=str(ends[0].port),
            dst_port=str(ends[1].port),
        )
        side = "remote" if record["direction"] == "egress" else "local"
        expected = found.fields(side, lambda *e, own=ends: e == own)
        dropped = expected["rtt_invalidated"] + expected["rtt_stretched"]
        assert record["rtt_count"] == expected["rtt_count"] > 0
        assert record.get("rtt_invalidated", 0) == dropped
        assert record["rtt_min_ms"] == pytest.approx(expected["rtt_min_ms"], abs=CLOSE)
        assert record["rtt_mean_ms"] == pytest.approx(expected["rtt_mean_ms"], abs=LATE)
        assert record["rtt_handshake_ms"] == pytest.approx(expected["rtt_handshake_ms"], abs=LATE)
        compared += 1
    assert compared == 4
