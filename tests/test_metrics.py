# SPDX-License-Identifier: Apache-2.0
"""What Prometheus scrapes of the real command, against a capture or the sender."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import struct
import time
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import captured
import pytest
import scraping
from driving import drive
from prometheus_client.openmetrics import parser
from waiting import wait_for

from lab import everything, reference
from lab.capture import Capture
from lab.command import VtapStream
from lab.namespace import Namespace, veth
from lab.servers import Prometheus, promtool
from trapstream_vtap.ledger import LOSSES, SINK_ROWS
from trapstream_vtap.probes.flows import families
from trapstream_vtap.probes.flows.layouts import GAP_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = 'w"\\{}=é'
"""Of the interface: what a kernel allows, and a format may stumble over."""

SHOWN = NAME.replace("\\", "%5C")
TOP = 20
COUNTED = {"packets": 0, "bytes": 1, "payload_bytes": 2}
V4 = ("192.0.2.1", "192.0.2.2")
V6 = ("2001:db8::1", "2001:db8::2")


def link(sender: Namespace, tap: Namespace) -> None:
    """Connect them."""
    veth(sender, "wire", tap, NAME, ipv4=V4, ipv6=V6)


def sums(expected: list[captured.Packet]) -> dict[str, tuple[int, int, int]]:
    """Packets, bytes and payload bytes by protocol."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for packet in expected:
        found[packet.flow.protocol].update({0: 1, 1: packet.bytes, 2: packet.payload})
    return {name: (counts[0], counts[1], counts[2]) for name, counts in found.items()}


class Run:
    """What is left of one run: the capture, Prometheus, and the last scrape."""

    def __init__(
        self, packets: list[captured.Packet], prometheus: Prometheus, tap: Namespace, port: int
    ) -> None:
        self.tap, self.port = tap, port
        self.packets = packets
        self.prometheus = prometheus
        self.last: scraping.Samples = {}
        self.answers: dict[str, scraping.Answer] = {}

    def of_prometheus(self, query: str) -> float:
        """The one number that QUERY yields."""
        (found,) = self.prometheus.query(query)
        return float(found["value"][1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Some hundred flows of all protocols, scraped by a real Prometheus all the while."""
    path = tmp_path_factory.mktemp("metrics") / "capture.pcap"
    with Namespace() as sender, Namespace() as tap:
        link(sender, tap)
        options = ("-i", NAME, "-t", "0.2", "--sequence", "--metrics-flows", str(TOP))
        with VtapStream(tap, *options, "--metrics", "127.0.0.1:0") as command:
            command.wait_until_measuring()
            port = scraping.port_of(command)
            with Prometheus([f"127.0.0.1:{port}"], tap, interval=0.2) as prometheus:
                wait_for(lambda: [t for t in prometheus.targets() if t["health"] == "up"])
                with Capture(tap, NAME, path, filter="ip or ip6") as capture:
                    drive(sender, tap)
                    sent = sender.counters("wire").tx_packets
                    wait_for(lambda: tap.counters(NAME).rx_packets == sent)
                    capture.stop()
                inbound = [p for p in captured.packets(path) if p.flow.src_ip in (V4[0], V6[0])]
                found = Run(inbound, prometheus, tap, port)
                query = "sum(vtap_protocol_packets_total)"
                wait_for(lambda: found.of_prometheus(query) >= len(inbound))
                found.last = scraping.scrape(tap, port)
                for name in (scraping.OPENMETRICS, scraping.CLASSIC):
                    found.answers[name] = scraping.get(tap, port, Accept=name)
                yield found
            command.stop()


def test_protocols(run: Run) -> None:
    """Each protocol's packets, bytes and payload are those of the capture, exactly."""
    expected = sums(run.packets)
    assert {"udp", "tcp", "icmp", "icmpv6"} <= expected.keys()
    for name, place in COUNTED.items():
        query = f"sum by (interface, direction, protocol) (vtap_protocol_{name}_total)"
        found = {
            tuple(sorted(series["metric"].items())): int(series["value"][1])
            for series in run.prometheus.query(query)
        }
        assert found == {
            (("direction", "ingress"), ("interface", SHOWN), ("protocol", protocol)): counts[place]
            for protocol, counts in expected.items()
        }


def test_flows(run: Run) -> None:
    """Top flows, the rest, and what is no longer shown are the whole, at every scrape."""
    for name, place in COUNTED.items():
        whole = sum(counts[place] for counts in sums(run.packets).values())
        parts = [f"vtap_flow_{name}_total", f"vtap_flow_departed_{name}_total"]
        assert sum(scraping.total(run.last, part) for part in parts) == whole
        assert scraping.total(run.last, f"vtap_protocol_{name}_total") == whole
        same = f"sum({parts[0]}) + sum({parts[1]}) == sum(vtap_protocol_{name}_total)"
        assert run.of_prometheus(f"count_over_time(({same})[5m:200ms])") > 3
        other = same.replace("==", "!=")
        assert run.prometheus.query(f"count_over_time(({other})[5m:200ms])") == []
    shown = [labels for name, labels in run.last if name == "vtap_flow_bytes_total"]
    assert len(shown) == TOP + 1
    flows = {packet.flow for packet in run.packets}
    for labels in shown:
        if dict(labels) != {"flow": "rest"}:
            assert captured.Flow.of(dict(labels)) in flows
            assert dict(labels)["interface"] == SHOWN


def test_no_series_of_what_never_happened(run: Run) -> None:
    """Flows have no series of sequence errors that they have not had; protocols have them all."""
    scraping.scrape(run.tap, run.port)
    found = scraping.scrape(run.tap, run.port)
    of_flows = {
        labels: value
        for (name, labels), value in found.items()
        if name == "vtap_flow_sequence_errors_total" and ("flow", "rest") not in labels
    }
    assert 0.0 not in of_flows.values()
    for kind in families.SEQUENCE_KINDS:
        names = ("protocol_sequence", "flow_sequence", "flow_departed_sequence")
        whole, *parts = (scraping.total(found, f"vtap_{n}_errors_total", kind=kind) for n in names)
        assert whole == sum(parts)
        series = [dict(s) for n, s in found if n == "vtap_protocol_sequence_errors_total"]
        assert [s["protocol"] for s in series if s["kind"] == kind].count("tcp") == 1


def test_increases(run: Run) -> None:
    """Increases of flows and of the rest, as Prometheus sees them, add up to the whole."""

    def increase(name: str) -> float:
        moved = 0.0
        for series in run.prometheus.query(f"{name}[10m]"):
            values = [float(value) for _, value in series["values"]]
            for before, after in pairwise(values):
                moved += after - before if after >= before else after
        return moved

    flows = increase("vtap_flow_bytes_total")
    # a protocol's series begins with what it had at its first scrape
    begun = sum(
        float(series["values"][0][1])
        for series in run.prometheus.query("vtap_protocol_bytes_total[10m]")
    )
    whole = sum(counts[1] for counts in sums(run.packets).values())
    assert increase("vtap_protocol_bytes_total") == whole - begun
    assert flows == whole


def test_interarrival_times(run: Run) -> None:
    """The histogram holds each gap between two packets of a flow in the capture, by protocol."""
    last: dict[captured.Flow, int] = {}
    expected: Counter[str] = Counter()
    took: Counter[str] = Counter()
    for packet in run.packets:
        if packet.flow in last:
            expected[packet.flow.protocol] += 1
            took[packet.flow.protocol] += packet.time - last[packet.flow]
        last[packet.flow] = packet.time
    for protocol, count in expected.items():
        query = f'vtap_interarrival_seconds_count{{protocol="{protocol}"}}'
        assert run.of_prometheus(query) == count
        summed = run.of_prometheus(query.replace("_count", "_sum"))
        assert summed == pytest.approx(took[protocol] / 1e9, abs=1e-3)
    quantile = "histogram_quantile(1, sum by (le) (vtap_interarrival_seconds_bucket))"
    assert 0 < run.of_prometheus(quantile) <= 2
    bounds = {
        float(dict(labels)["le"])
        for name, labels in run.last
        if name == "vtap_interarrival_seconds_bucket"
    }
    assert bounds == {*(bound / 1e9 for bound in GAP_BOUNDS), float("inf")}


def test_account(run: Run) -> None:
    """What was seen is what was counted, and the rest by reason."""
    whole = sums(run.packets)
    for name, place in (("packets", 0), ("bytes", 1)):
        counted = sum(counts[place] for counts in whole.values())
        query = f"vtap_agent_counted_{name}_total"
        assert run.of_prometheus(query) == counted
        uncounted = f"sum(vtap_agent_uncounted_{name}_total)"
        assert run.of_prometheus(f"sum(vtap_agent_seen_{name}_total) - {uncounted}") == counted
    assert run.of_prometheus("vtap_sink_up or vector(7)") == 7  # there is no sink


def test_connection_is_kept(run: Run) -> None:
    """Prometheus scrapes over one connection, which is one flow."""

    def clients() -> list[str]:
        rows = run.tap.run("cat", "/proc/net/tcp").stdout.splitlines()[1:]
        columns = [row.split()[1:4] for row in rows]
        ours = f":{run.port:04X}"
        return [theirs for here, theirs, state in columns if here.endswith(ours) and state == "01"]

    before = clients()
    scrapes: set[str] = set()
    wait_for(lambda: scrapes.add(run.prometheus.targets()[0]["lastScrape"]) or len(scrapes) > 5)
    assert len(before) == 1
    assert clients() == before


def test_best_format(run: Run) -> None:
    """The format is the one that the client weighs more; in doubt the classic one."""
    both = "application/openmetrics-text;version=1.0.0"
    wanted = {
        f"{both};q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;q=0.3": True,
        f"{both};q=0.2,text/plain;q=0.3,*/*;q=0.1": False,
        f"{both};q=0": False,
        f"{both};q=0.0, */*": False,
        "text/plain;q=0, */*;q=0.1": True,
        "*/*": False,
        "application/json": False,
        f"{both}, text/plain": True,
        f"{both};version=nonsense": True,
    }
    for header, modern in wanted.items():
        answer = scraping.get(run.tap, run.port, Accept=header)
        kind = (
            "application/openmetrics-text; version=1.0.0" if modern else "text/plain; version=0.0.4"
        )
        assert answer.headers["Content-Type"].startswith(kind), header


def test_format(run: Run) -> None:
    """Both formats are what the judges of each want; names, types and units are the described."""
    classic, modern = run.answers[scraping.CLASSIC], run.answers[scraping.OPENMETRICS]
    assert classic.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert promtool("check", "metrics", text=classic.body) == ""
    assert promtool("check", "metrics", text=b"a 1\n") != ""
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    found = {}
    for metric in parser.text_string_to_metric_families(modern.body.decode()):
        found[metric.name] = (metric.type, metric.unit, metric.documentation)
        for sample in metric.samples:
            unknown = sample.labels.keys() - {"le"} - labels_of(metric.name)
            assert not unknown, (sample, unknown)
    ours = {name: about for name, about in found.items() if not name.startswith("process_")}
    there = [
        f
        for f in reference.all_families()
        if not f.name.startswith("vtap_sink_") and "--probe" not in f.when
    ]
    assert ours == {f.name: (f.kind, f.unit, f.doc) for f in there}
    metadata = run.prometheus.http("GET", "/api/v1/targets/metadata?metric=vtap_flow_bytes")
    (about,) = json.loads(metadata)["data"]
    assert (about["type"], about["unit"]) == ("counter", "bytes")


def labels_of(name: str) -> set[str]:
    """The labels that a family may have, by its description."""
    found = next((set(f.labels) for f in reference.all_families() if f.name == name), set())
    if families.KEY in found:
        found |= {*captured.Flow._fields, "flow"}
    return found


def test_every_count_of_the_agent_is_exported() -> None:
    """Each count is in a family, or the sum of those that are; the parts of a count add up."""
    accounts = (*everything.accounts(), SINK_ROWS)
    alone = {c.name for one in accounts for c in one.counts if not c.family}
    assert alone == {"records_lost"}
    for one in accounts:
        names = {count.name for count in one.counts}
        assert {count.part_of for count in one.counts} <= names | {""}


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """A sender and a tap."""
    with Namespace() as sender, Namespace() as tap:
        link(sender, tap)
        yield sender, tap


def send(sender: Namespace, packets: int, flows: int) -> None:
    """So many packets of 100 bytes of payload in each of so many flows."""
    with sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        source.bind((V4[0], 5000))
        for _ in range(packets):
            for port in range(flows):
                source.sendto(bytes(100), (V4[1], 10_000 + port))


def test_thousand_flows(pair: tuple[Namespace, Namespace]) -> None:
    """While 1,500 flows come, a scrape of 1,000 of them is complete, and takes less than 100 ms."""
    sender, tap = pair
    options = ("-i", NAME, "-t", "0.1", "--metrics", "127.0.0.1:0", "--metrics-flows", "1000")
    with VtapStream(tap, *options) as command:
        command.wait_until_measuring()
        port = scraping.port_of(command)
        taken, sent = [], 0
        for _ in range(20):
            send(sender, 1, 1500)
            sent += 1500
            begin = time.perf_counter()
            answer = scraping.get(tap, port, Accept=scraping.OPENMETRICS)
            taken.append(time.perf_counter() - begin)
        assert min(taken) < 0.1  # the machine may have other things to do now and then
        assert answer.body.endswith(b"# EOF\n")
        wait_for(
            lambda: (
                scraping.total(scraping.scrape(tap, port), "vtap_protocol_packets_total") == sent
            )
        )
        found = scraping.scrape(tap, port)
        shown = [labels for name, labels in found if name == "vtap_flow_packets_total"]
        assert len(shown) == 1001
        assert (
            scraping.total(found, "vtap_flow_packets_total")
            + scraping.total(found, "vtap_flow_departed_packets_total")
            == sent
        )
        packed = scraping.get(tap, port, Accept_Encoding="gzip")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert b"vtap_flow_packets_total{" in gzip.decompress(packed.body)
        command.stop()


def test_reload(pair: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    """SIGHUP, also with another key, lets no counter fall, and sums stay exact."""
    sender, tap = pair
    path = tmp_path / "vtap.json"
    path.write_text('{"interval": 0.1}')
    options = ("-c", str(path), "-i", NAME, "--metrics", "127.0.0.1:0")
    with VtapStream(tap, *options) as command:
        command.wait_until_measuring()
        port = scraping.port_of(command)
        packets = "vtap_protocol_packets_total"
        found: dict[str, Any] = {}

        def arrived(count: int) -> bool:
            found["now"] = scraping.scrape_classic(tap, port)
            return scraping.total(found["now"], packets) == count

        send(sender, 5, 5)
        wait_for(lambda: arrived(25))
        send(sender, 5, 5)
        wait_for(lambda: arrived(50))
        rest = found["now"]["vtap_flow_packets_total", frozenset({("flow", "rest")})]
        assert rest <= 25
        wait_for(lambda: scraping.total(scraping.scrape(tap, port), GAPS) == 45)
        path.write_text('{"interval": 0.1, "key": "src_ip", "sequence": true}')
        os.kill(command.pid, signal.SIGHUP)
        wait_for(lambda: "the configuration was read again" in command.said)
        send(sender, 10, 5)
        wait_for(lambda: arrived(100))
        now = found["now"]
        assert scraping.total(now, packets, protocol="udp") == 50
        assert scraping.total(now, "vtap_flow_departed_packets_total") == 50 - rest
        assert scraping.total(now, "vtap_flow_packets_total") == 50 + rest
        wait_for(lambda: scraping.total(scraping.scrape(tap, port), GAPS) == 45 + 49)
        found["now"] = scraping.scrape(tap, port)
        assert scraping.total(found["now"], GAPS, protocol="udp") == 45
        assert scraping.total(found["now"], "vtap_agent_counted_packets_total") == 100
        command.stop()


GAPS = "vtap_interarrival_seconds_count"


def test_one_server(pair: tuple[Namespace, Namespace]) -> None:
    """--health and --metrics may share an address; Prometheus alone makes it ready."""
    _, tap = pair
    with tap.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{holder.getsockname()[1]}"
    with VtapStream(tap, "-i", "lo", "--health", where, "--metrics", where) as command:
        command.wait_until_measuring()
        port = scraping.port_of(command)
        assert scraping.get(tap, port, "/readyz").status == 200
        assert scraping.get(tap, port).status == 200
        missing = scraping.get(tap, port, "/x")
        assert (missing.status, b"/metrics" in missing.body) == (404, True)
        for _ in range(20):  # somebody who does not wait for the answer
            with tap.socket(socket.AF_INET, socket.SOCK_STREAM) as hasty:
                hasty.connect(("127.0.0.1", port))
                hasty.send(b"GET /metrics HTTP/1.0\r\n\r\n")
                hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert scraping.get(tap, port).status == 200
        assert "Traceback" not in command.said
        assert command.stop().endswith(" measured")


def test_sinks(pair: tuple[Namespace, Namespace]) -> None:
    """A sink's account is there beside it: up, what it has got, and losses by reason."""
    _, tap = pair
    with tap.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sink = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        options = ("-i", "lo", "-t", "0.1", "--sink", sink, "--metrics", "127.0.0.1:0")
        with VtapStream(tap, *options) as command:
            command.wait_until_measuring()
            port = scraping.port_of(command)
            wait_for(
                lambda: scraping.total(scraping.scrape(tap, port), "vtap_sink_up", sink=sink) == 1
            )
            wait_for(  # scrapes themselves are traffic on the loopback
                lambda: (
                    scraping.total(
                        scraping.scrape(tap, port), "vtap_sink_delivered_records_total", sink=sink
                    )
                    > 0
                )
            )
            found = scraping.scrape(tap, port)
            for reason in LOSSES:
                series = {("sink", sink), ("reason", reason)}
                assert found["vtap_sink_lost_records_total", frozenset(series)] == 0
            command.stop()
