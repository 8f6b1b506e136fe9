# SPDX-License-Identifier: Apache-2.0
"""Real collectors hold exactly what a capture of the same packets says.

Four commands measure one interface at the same time, each for another collector: InfluxDB over UDP,
VictoriaMetrics over TCP, and plain sockets for JSON.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import captured
import lastline
import pytest
from driving import ROUNDS, SOCKETS, V4, V6, drive
from waiting import wait_for

from lab.capture import Capture
from lab.command import VtapStream
from lab.namespace import Namespace, veth
from lab.servers import Influxd, VictoriaMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 20.0  # seconds
READ_BUFFER = 4 << 20
MAX_DATAGRAM = 1200

Amounts = dict[captured.Flow, tuple[int, int, int]]
"""Packets, bytes and payload bytes by flow."""


@dataclass
class Run:
    """What is left of the run: the capture's amounts, the summaries, and the collectors."""

    expected: Amounts
    summaries: dict[str, str]
    influxd: Influxd
    victoria: VictoriaMetrics
    lines: list[bytes]
    datagrams: list[bytes]

    def sent(self, name: str) -> int:
        """How many records that command says it has sent; none may be lost."""
        packets = sum(amount[0] for amount in self.expected.values())
        found = lastline.read(self.summaries[name])
        assert (packets, packets, 0) == (found.packets, found.delivered, found.lost)
        return found.records

    def check_account(self, account: dict[str, Any], name: str) -> None:
        """The last record of `vtap_agent` accounts for every packet of the capture."""
        packets = sum(amount[0] for amount in self.expected.values())
        octets = sum(amount[1] for amount in self.expected.values())
        whole = {"seen": (packets, octets), "counted": (packets, octets)}
        for counter in ("seen", "counted", "not_ip", "malformed", "filtered", "no_flow", "evicted"):
            found = (account[f"{counter}_packets"], account[f"{counter}_bytes"])
            assert whole.get(counter, (0, 0)) == found, counter
        assert packets == account["packets_handed"]
        assert self.sent(name) == account["summaries_handed"]

    def check_sink(self, account: dict[str, Any], name: str) -> None:
        """The last record of `vtap_agent` of the sink says that everything was delivered."""
        packets = sum(amount[0] for amount in self.expected.values())
        for unit, whole in (("records", self.sent(name)), ("packets", packets)):
            found = [
                account[f"{unit}_{fate}"] for fate in ("handed", "delivered", "queued", "lost")
            ]
            assert [whole, whole, 0, 0] == found
        assert account["records_retried"] == 0
        assert account["up"] == 1


def amounts(records: list[dict[str, Any]]) -> Amounts:
    """The sums of records, which may be those of JSON, or tags with values."""
    sums: dict[captured.Flow, Counter[str]] = {}
    for record in records:
        flow = captured.Flow.of({name: value or None for name, value in record.items()})
        counter = sums.setdefault(flow, Counter())
        for name in ("packets", "bytes", "payload_bytes"):
            counter[name] += record[name]
    return {flow: (c["packets"], c["bytes"], c["payload_bytes"]) for flow, c in sums.items()}


def read_lines(listener: socket.socket, lines: list[bytes]) -> None:
    """The lines of one connection, to its end; none when the listener is shut down before."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    with connection, connection.makefile("rb") as stream:
        lines.extend(stream)


def read_datagrams(bound: socket.socket, datagrams: list[bytes], ended: threading.Event) -> None:
    """Datagrams until ENDED is set and nothing waits any more."""
    bound.settimeout(0.05)
    while True:
        last = ended.is_set()
        try:
            while True:
                datagrams.append(bound.recv(1 << 16))
        except TimeoutError:
            if last:
                return


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Traffic, captured and measured, and streamed to four collectors, which are still there."""
    path = tmp_path_factory.mktemp("collectors") / "in.pcap"
    with ExitStack() as stack:
        sender, receiver = (stack.enter_context(Namespace()) for _ in range(2))
        veth(sender, "wire0", receiver, "wire0", ipv4=V4, ipv6=V6)
        influxd = stack.enter_context(Influxd(receiver, read_buffer=READ_BUFFER))
        victoria = stack.enter_context(VictoriaMetrics(receiver))
        listener = stack.enter_context(receiver.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        bound = stack.enter_context(receiver.socket(socket.AF_INET, socket.SOCK_DGRAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BUFFER)
        bound.bind(("127.0.0.1", 0))
        lines: list[bytes] = []
        datagrams: list[bytes] = []
        ended = threading.Event()
        readers = [
            threading.Thread(target=read_lines, args=(listener, lines)),
            threading.Thread(target=read_datagrams, args=(bound, datagrams, ended)),
        ]
        for reader in readers:
            reader.start()
            stack.callback(reader.join)
        stack.callback(ended.set)
        stack.callback(listener.shutdown, socket.SHUT_RD)
        wanted = {
            "influxd": ("--transport", "udp", "127.0.0.1", str(influxd.udp_port)),
            "victoria": ("127.0.0.1", str(victoria.tcp_port)),
            "json tcp": ("-f", "json", "127.0.0.1", str(listener.getsockname()[1])),
            "json udp": (
                *("-f", "json", "--transport", "udp", "--max-datagram", str(MAX_DATAGRAM)),
                *("127.0.0.1", str(bound.getsockname()[1])),
            ),
        }
        inbound = f"dst host {V4[1]} or dst host {V6[1]}"
        with Capture(receiver, "wire0", path, filter=inbound) as capture:
            commands = {
                name: stack.enter_context(VtapStream(receiver, "-i", "wire0", *arguments))
                for name, arguments in wanted.items()
            }
            for command in commands.values():
                command.wait_until_measuring()
            drive(sender, receiver)
            summaries = {name: command.stop() for name, command in commands.items()}
            capture.stop()
        ended.set()
        for reader in readers:
            reader.join(DEADLINE)
            assert not reader.is_alive()
        expected: dict[captured.Flow, list[int]] = {}
        for packet in captured.packets(path):
            amount = expected.setdefault(packet.flow, [0, 0, 0])
            for i, number in enumerate((1, packet.bytes, packet.payload)):
                amount[i] += number
        yield Run(
            {flow: (amount[0], amount[1], amount[2]) for flow, amount in expected.items()},
            summaries,
            influxd,
            victoria,
            lines,
            datagrams,
        )


def test_traffic(run: Run) -> None:
    """The traffic is what the tests below are about: hundreds of flows of every protocol."""
    assert Counter(flow.protocol for flow in run.expected) == {
        "udp": 2 * SOCKETS,
        "tcp": 2,
        "icmp": 1,
        "icmpv6": 1,
    }
    assert sum(amount[0] for amount in run.expected.values()) > 2 * SOCKETS * ROUNDS * 2


def test_influxd_over_udp(run: Run) -> None:
    """InfluxDB holds every record that was sent, and by flow exactly what the capture says."""
    select = "SELECT packets, bytes, payload_bytes FROM vtap_flow GROUP BY *"

    def points() -> list[dict[str, Any]]:
        return [
            series["tags"] | dict(zip(series["columns"], values, strict=True))
            for series in run.influxd.query(select)
            for values in series["values"]
        ]

    wait_for(lambda: len(points()) >= run.sent("influxd"))

    assert len(points()) == run.sent("influxd")
    assert run.expected == amounts(points())
    assert {(socket.gethostname(), "wire0", "ingress")} == {
        (point["device"], point["interface"], point["direction"]) for point in points()
    }
    assert run.influxd.udp_drops() == 0
    stats = run.influxd.udp_stats()
    assert (stats["pointsParseFail"], stats["batchesTxFail"]) == (0, 0)
    for last, check in (
        ("SELECT LAST(seen_packets), * FROM vtap_agent", run.check_account),
        ("SELECT LAST(records_handed), * FROM vtap_agent", run.check_sink),
    ):
        (account,) = run.influxd.query(last)
        (values,) = account["values"]
        check(dict(zip(account["columns"], values, strict=True)), "influxd")


def test_victoria_metrics_over_tcp(run: Run) -> None:
    """VictoriaMetrics holds every sample that was sent, by flow exactly what the capture says."""
    names = ("packets", "bytes", "payload_bytes")

    def samples(name: str) -> list[dict[str, Any]]:
        run.victoria.flush()
        return run.victoria.export(f'{{__name__="vtap_flow_{name}"}}')

    def count(name: str) -> int:
        return sum(len(series["values"]) for series in samples(name))

    wait_for(lambda: count("packets") >= run.sent("victoria"))

    assert [run.sent("victoria")] * 3 == [count(name) for name in names]
    sums: dict[captured.Flow, dict[str, Any]] = {}
    for name in names:
        for series in samples(name):
            flow = captured.Flow.of(series["metric"])
            record = sums.setdefault(flow, dict(series["metric"]))
            record[name] = record.get(name, 0) + int(sum(series["values"]))
    assert run.expected == amounts(list(sums.values()))
    run.victoria.flush()
    account = {
        series["metric"]["__name__"].removeprefix("vtap_agent_"): max(
            zip(series["timestamps"], series["values"], strict=True)
        )[1]
        for series in run.victoria.export('{__name__=~"vtap_agent_.*"}')
    }
    run.check_account(account, "victoria")
    run.check_sink(account, "victoria")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_json(run: Run, transport: str) -> None:
    """What a plain socket reads is arrays of flat objects, with the sums of the capture."""
    payloads = run.lines if transport == "tcp" else run.datagrams
    most = 60_000 if transport == "tcp" else MAX_DATAGRAM
    assert all(len(payload) <= most for payload in payloads)
    records = [record for payload in payloads for record in json.loads(payload)]

    flows = [record for record in records if record["name"] == "vtap_flow"]
    accounts = [record for record in records if record["name"] == "vtap_agent"]

    assert len(flows) == run.sent(f"json {transport}")
    assert run.expected == amounts(flows)
    assert len(flows) + len(accounts) == len(records)
    run.check_account([a for a in accounts if "interface" in a][-1], f"json {transport}")
    run.check_sink([a for a in accounts if "sink" in a][-1], f"json {transport}")
