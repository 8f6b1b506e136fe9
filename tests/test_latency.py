# SPDX-License-Identifier: Apache-2.0
"""Receive latency, held against what an application measures of itself, packet by packet."""

from __future__ import annotations

import bisect
import math
import re
import socket
import struct
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
import scraping
import tap
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from latencies import Application, one_in_each_interval, ways_back
from traffic import V4, Wire
from waiting import wait_for

from lab import testrun
from lab.loading import load
from lab.servers import promtool
from trapstream_vtap.bpf import btf
from trapstream_vtap.bpf.histogram import ERROR
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.errors import RunError
from trapstream_vtap.probes.latency import hooks, program
from trapstream_vtap.probes.latency.layouts import HISTOGRAM
from trapstream_vtap.probes.latency.records import PERCENTILES
from trapstream_vtap.probes.latency.settings import STAGES, LatencySettings

if TYPE_CHECKING:
    from collections.abc import Iterator

MS = 10**6  # ns
PORT = 7001
INTERVAL = 0.25  # seconds; a packet in each, so that a record is of one packet
PACKETS = 12
ECHO = bytes.fromhex("0800f7ff00000000")  # RFC 792, with its checksum
WITHOUT_UDP_READ = "read (UDP: this kernel lets no program trace its functions)"
BUCKET = """
#include <uapi/linux/bpf.h>
%s#include "lib/histogram.h"
int bucket(struct __sk_buff *skb)
{
	u64 time = 0;

	bpf_skb_load_bytes(skb, 14, &time, 8);
	return bucket_of(time);
}
"""


@pytest.fixture(scope="module")
def bucket_program() -> Iterator[int]:
    """The kernel's function, of a number in a packet."""
    constants = "".join(
        f"#define {name} {value}ULL\n" for name, value in HISTOGRAM.constants.items()
    )
    objects = load(Source(BUCKET % constants, (Program("bucket", "SCHED_CLS"),), ()))
    yield objects.programs["bucket"]
    objects.close()


EDGES = [round(bound) + more for bound in HISTOGRAM.bounds for more in (-1, 0, 1)]


@hypothesis_settings(max_examples=500, deadline=None)
@given(time=st.integers(0, 1 << 62) | st.sampled_from(EDGES) | st.integers(0, 1 << 36))
def test_buckets_are_what_their_bounds_say(bucket_program: int, time: int) -> None:
    """The first bucket whose bound is not exceeded, in exact arithmetic."""
    exact = [2 ** (4 * 8 + k) for k in range(len(HISTOGRAM.bounds))]  # bounds, to the fourth power
    expected = bisect.bisect_left(exact, time**4)
    frame = bytes(14) + struct.pack("<Q", time) + bytes(40)
    assert testrun.run(bucket_program, frame).returned == expected
    assert expected < HISTOGRAM.buckets


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 1 << 30) | st.integers(0, 2000), min_size=1, max_size=300))
def test_percentiles_are_off_by_no_more_than_is_said(times: list[int]) -> None:
    """Of the nearest rank in the sorted times; exact at the ends."""
    buckets = [0] * HISTOGRAM.buckets
    for when in times:
        buckets[bisect.bisect_left(HISTOGRAM.bounds, when)] += 1
    found = HISTOGRAM.percentiles(PERCENTILES, buckets, min(times), max(times))
    ordered = sorted(times)
    for name, share in (("p50", 500), ("p90", 900), ("p99", 990), ("p999", 999)):
        exact = ordered[max(1, -(-share * len(times) // 1000)) - 1]
        tolerance = ERROR * exact + 1 if exact > HISTOGRAM.bounds[0] else HISTOGRAM.bounds[0]
        assert abs(found[name] - exact) <= tolerance, (name, exact)
        assert min(times) <= found[name] <= max(times)


def measured(wire: Wire, family: int, protocol: str, pause: float) -> tuple[list[Any], Application]:
    """Records of a run, in order, and the application that read meanwhile."""
    stages = ",".join(STAGES)
    options = ("-i", "wire0", "--probe", "latency", "-t", str(INTERVAL), "--latency-stages", stages)
    with tap.Tap(wire.receiver, *options) as tapped:
        if protocol == "udp":
            sender = wire.udp(family, PORT)
            taking = wire._open[-2]
        else:
            sender, taking = wire.tcp(family, PORT)
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        taking.settimeout(None)
        application = Application(taking, pause)
        one_in_each_interval(sender, PACKETS, INTERVAL)
        wait_for(lambda: len(application.found) >= PACKETS)
        wire.settle()
        records = tapped.stop()
        taking.shutdown(socket.SHUT_RDWR) if protocol == "tcp" else None
    found = [r for r in records if r["name"] == "vtap_latency" and r["protocol"] == protocol]
    return found, application


@pytest.mark.parametrize("pause", [0.0, 0.03])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_latency_and_the_way_back_are_what_the_application_measures(
    protocol: str, family: int, pause: float
) -> None:
    """Each packet at each stage: in order, and never longer than the application says.

    The way back to the application after the last stage takes some µs, whether it sleeps or not.
    """
    with Wire() as wire:
        records, application = measured(wire, family, protocol, pause)
    # what this kernel has not is said, by another test
    stages = [stage for stage in STAGES if protocol == "tcp" or stage != "read"]
    gaps = ways_back(records, application.found[:PACKETS], stages, INTERVAL)
    last = "read" if protocol == "tcp" else "queued"
    assert len(gaps[last]) > PACKETS // 2
    if protocol == "tcp" or not pause:
        assert min(gaps[last]) < 3 * MS  # others have to wait, where the machine has much to do
    if pause:
        assert median(gaps["queued"]) > 0.2 * pause * 10**9


def totals(said: Any) -> dict[str, dict[str, int]]:
    """The last account of each stage."""
    return {r["stage"]: r for r in said if r["name"] == "vtap_agent" and "stage" in r}


def test_all_that_came_by_has_one_fate() -> None:
    """Of a machine's own TCP, of ICMP, of other interfaces: each packet is in one count."""
    with Wire() as wire:
        options = ("-i", "wire0", "--probe", "latency", "--latency-stages", "stack,queued")
        with tap.Tap(wire.receiver, *options) as tapped:
            sender = wire.udp(socket.AF_INET, PORT)
            for _ in range(100):
                sender.send(b"x")
            for namespace, count in ((wire.receiver, 20), (wire.sender, 30)):  # one over lo
                with namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as echo:
                    for _ in range(count):
                        echo.sendto(ECHO, (V4[1], 0))
            with wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                for _ in range(40):
                    own.sendto(b"x", (V4[1], PORT))
            wire.settle()
            records = tapped.stop()
    stack, queued = totals(records)["stack"], totals(records)["queued"]
    for row in (stack, queued):
        parts = ("measured", "unstamped", "delivery", "negative", "other", "missed")
        assert row["seen_packets"] == sum(row[f"{part}_packets"] for part in parts)
        assert row["packets_handed"] == row["measured_packets"]
        assert row["negative_packets"] == 0
    assert stack["measured_packets"] == 100
    assert stack["other_packets"] >= 30 + 2 * 20 + 40  # ICMP, and all of lo
    assert queued["measured_packets"] == 100
    assert queued["other_packets"] >= 40


def test_tcp_of_the_same_machine_is_told_by_its_delivery_time() -> None:
    """Where no wire is between, a segment has the time at which it is to go out."""
    with Wire() as wire:
        wire._forget.detach()
        options = ("-i", "wire0", "--probe", "latency")
        with tap.Tap(wire.receiver, *options) as tapped:
            sender, taking = wire.tcp(socket.AF_INET, PORT)
            for _ in range(50):
                sender.send(b"x")
                taking.recv(10)
            wire.settle()
            records = tapped.stop()
            said = list(tapped.said)
        wire._forget = type("Gone", (), {"detach": lambda _: None})()
    rows = totals(records)
    assert rows["stack"]["delivery_packets"] >= 50
    assert rows["stack"]["measured_packets"] == 0
    assert rows["read"]["measured_packets"] >= 50  # the kernel stamps them at local delivery
    assert any("with a delivery time" in line for line in said)


RULES = 400


def test_rules_take_their_time_between_two_stages() -> None:
    """With 400 rules of nftables what lies between the two stages of IP grows, and nothing else."""
    table = "table ip t { chain c { type filter hook prerouting priority 0; %s }; }"
    rules = "".join(f"ip saddr 10.{n // 250}.{n % 250}.1 counter; " for n in range(RULES))
    shares = {}
    for name, text in (("none", ""), ("many", rules)):
        with Wire() as wire:
            wire.receiver.run("nft", table % text)
            stages = ("--latency-stages", "stack,ip,rules,local")
            with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "latency", *stages) as tapped:
                sender = wire.udp(socket.AF_INET, PORT)
                for _ in range(300):
                    sender.send(b"x")
                    time.sleep(0.001)
                wire.settle()
                records = tapped.stop()
        means = {
            stage: sum(
                r["mean_ms"] * r["count"]
                for r in records
                if r.get("stage") == stage and "count" in r
            )
            / 300
            for stage in ("stack", "ip", "rules", "local")
        }
        shares[name] = {
            "before": means["ip"] - means["stack"],
            "rules": means["rules"] - means["ip"],
            "behind": means["local"] - means["rules"],
        }
    grown = {part: shares["many"][part] - shares["none"][part] for part in shares["none"]}
    assert shares["many"]["rules"] > 2 * shares["none"]["rules"]
    assert grown["rules"] > 2 * max(grown["before"], grown["behind"])


def test_values_without_room_are_counted_together() -> None:
    """Ports beyond the table's size are `other`; the parts add up."""
    ports = range(PORT, PORT + 6)
    options = (
        "--latency-by",
        "dst_port",
        "--latency-table-size",
        "4",
        "--latency-stages",
        "queued",
    )
    with (
        Wire() as wire,
        tap.Tap(wire.receiver, "-i", "wire0", "--probe", "latency", *options) as tapped,
    ):
        for number, port in enumerate(ports, 1):
            sender = wire.udp(socket.AF_INET, port)
            for _ in range(10 * number):
                sender.send(b"x")
            wire.settle()
        records = tapped.stop()
    counts: dict[str, int] = defaultdict(int)
    for record in records:
        if record["name"] == "vtap_latency":
            counts[record["dst_port"]] += record["count"]
    assert counts == {**{str(PORT + n): 10 * (n + 1) for n in range(4)}, "other": 50 + 60}


@pytest.mark.parametrize("by", ["netns", "cgroup"])
def test_values_have_names(by: str) -> None:
    """The namespace's inode, or the control group's path, of the socket that got the packet."""
    options = ("--latency-by", by, "--latency-stages", "queued")
    with Wire() as wire:
        with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "latency", *options) as tapped:
            sender = wire.udp(socket.AF_INET6, PORT)
            for _ in range(30):
                sender.send(b"x")
            wire.settle()
            records = tapped.stop()
        inode = wire.receiver.run("stat", "-L", "-c", "%i", "/proc/self/ns/net").stdout.strip()
    ours = [r for r in records if r["name"] == "vtap_latency" and r["interface"] == "wire0"]
    found = {r[by]: r["count"] for r in ours}
    assert sum(found.values()) == 30
    (name,) = found
    assert name == inode if by == "netns" else name.startswith("/")


def test_other_namespaces_are_measured_where_they_are_told_apart() -> None:
    """Under an interface that is none of ours; else they are not asked for."""
    options = ("-i", "wire0", "--probe", "latency", "--latency-stages", "queued")
    inode = "stat", "-L", "-c", "%i", "/proc/self/ns/net"
    with Wire() as wire, wire.sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind((V4[0], PORT + 1))
        for by, wanted in (((), 0), (("--latency-by", "netns"), 20)):
            with tap.Tap(wire.receiver, *options, *by) as tapped:
                with wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                    for _ in range(20):
                        sending.sendto(b"x", (V4[0], PORT + 1))
                wire.settle()
                records = tapped.stop()
            there = wire.sender.run(*inode).stdout.strip()
            found = [r for r in records if r["name"] == "vtap_latency"]
            assert sum(r["count"] for r in found if r.get("netns") == there) == wanted
            assert all(r["interface"] == "other" for r in found if r.get("netns") == there)
            assert totals(records)["queued"]["negative_packets"] == 0


def test_scraped_histogram_is_what_was_streamed() -> None:
    """Buckets, sum and count over all intervals; Prometheus' own judge has nothing to say."""
    with Wire() as wire:
        options = ("-i", "wire0", "--probe", "latency", "-t", "0.2", "--metrics", "127.0.0.1:0")
        with tap.Tap(wire.receiver, *options) as tapped:
            sender = wire.udp(socket.AF_INET, PORT)
            for _ in range(200):
                sender.send(b"x")
            pattern = re.compile(r"metrics at http://\S+:(\d+)/")
            wait_for(lambda: pattern.search("".join(tapped.said)))
            port = int(pattern.search("".join(tapped.said))[1])
            name = "vtap_receive_latency_seconds"

            def scraped() -> Any:
                return scraping.scrape(wire.receiver, port)

            wait_for(lambda: scraping.total(scraped(), f"{name}_count", stage="queued") == 200)
            found = scraped()
            text = scraping.get(wire.receiver, port).body
            records = tapped.stop()
    mine = [r for r in records if r["name"] == "vtap_latency" and r["stage"] == "queued"]
    total = sum(r["mean_ms"] * r["count"] for r in mine) / 1000
    assert math.isclose(scraping.total(found, f"{name}_sum", stage="queued"), total, rel_tol=1e-6)
    assert scraping.total(found, f"{name}_bucket", stage="queued", le="+Inf") == 200
    assert promtool("check", "metrics", text=text) == ""


def test_what_a_kernel_has_not_is_said() -> None:
    """At the start; the other stages are measured."""
    with Wire() as wire:
        with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "latency") as tapped:
            tapped.end()
        here = hooks.Kernel(btf.read())
    missing = here.find("read").missing
    said = [line for line in tapped.said if "latency is not measured at" in line]
    assert bool(said) == bool(missing)
    assert not missing or WITHOUT_UDP_READ in said[0]


def test_a_kernel_that_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused in a sentence that names each stage."""
    monkeypatch.setattr(hooks, "_loads", lambda _: False)
    monkeypatch.setattr(hooks, "_traces_functions", lambda _: False)
    monkeypatch.setattr(hooks, "cgroups", lambda: "")
    with pytest.raises(RunError, match=r"^Latency cannot be measured here: ip \(.*; socket \(no "):
        program.to_load(LatencySettings(latency_stages=("ip", "rules", "socket")))


def test_every_stage_is_seen_or_said() -> None:
    """Each has programs of the C text, or a reason."""
    here = hooks.Kernel(btf.read())
    text = program_text("latency/latency.c")
    for stage in STAGES:
        found = here.find(stage)
        assert found.hooks or found.missing
        for hook in found.hooks:
            assert f"#ifdef LOAD_{hook.text}\n" in text
            assert f"int {hook.program.code}(" in text


def test_ipv6_too() -> None:
    """Stack entry of IPv6, with its own header."""
    with Wire() as wire:
        options = ("--latency-stages", "stack,ip,rules,local", "--latency-by", "dst_port")
        with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "latency", *options) as tapped:
            sender = wire.udp(socket.AF_INET6, PORT)
            for _ in range(25):
                sender.send(b"x")
            wire.settle()
            records = tapped.stop()
    counts: dict[str, int] = defaultdict(int)
    for r in records:
        if r["name"] == "vtap_latency" and r["dst_port"] == str(PORT):
            counts[r["stage"]] += r["count"]
    assert counts == dict.fromkeys(("stack", "ip", "rules", "local"), 25)
