# SPDX-License-Identifier: Apache-2.0
"""Kafka as a sink, against librdkafka's mock cluster: what arrives, as what, and what does not."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import flowlines
import pytest
import tap
from confluent_kafka import KafkaError, KafkaException
from flowlines import Handing, booked, number_of
from mockbroker import Cluster
from traffic import Wire
from waiting import halt, wait_for

from lab.namespace import Namespace
from trapstream_vtap.errors import UsageError
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import kafka
from trapstream_vtap.sinks.kafka import KafkaSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = {7001: 150, 7002: 40, 7003: 1}
"""Packets by destination port."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One broker where the test is."""
    with Cluster(Namespace.current()) as made:
        yield made


def sink(cluster: Cluster, tmp_path: Path, *properties: str) -> KafkaSink:
    """To CLUSTER, with PROPERTIES of librdkafka in a file."""
    path = tmp_path / "kafka.properties"
    path.write_text("# of a test\n\n" + "\n".join(properties))
    return KafkaSink(parse(f"kafka://{cluster.hosts}"), str(path))


@pytest.mark.parametrize("form", ["influx", "json"])
def test_all_records_arrive(form: str) -> None:
    """Three brokers have every record once, by measurement.

    A flow has one key, the same in both formats; a message's time is the record's.
    """
    with Wire() as wire, Cluster(wire.receiver, brokers=3) as cluster:
        where = f"kafka://{cluster.hosts}/telemetry"
        options = ("-f", form, "-i", "wire0", "-d", "my tap", "-t", "0.5", "--sink", where)
        with tap.Tap(wire.receiver, *options) as tapped:
            ports = {}
            for port, count in COUNTS.items():
                sender = wire.udp(socket.AF_INET, port)
                ports[port] = sender.getsockname()[1]
                for number in range(count):
                    sender.send(bytes(number))
            wire.settle()
            tapped.end()
        messages = cluster.messages()
    topics = defaultdict(list)
    for message in messages:
        topics[message.topic()].append(message)
    assert set(topics) == {"telemetry.vtap_flow", "telemetry.vtap_agent"}
    packets: dict[bytes, int] = defaultdict(int)
    for message in topics["telemetry.vtap_flow"]:
        record = message.value()
        if form == "json":
            values = json.loads(record)
            packets[message.key()] += values["packets"]
            ns = values["timestamp"]
        else:
            packets[message.key()] += int(record.split(b" packets=")[1].split(b"i")[0])
            ns = int(record.rsplit(b" ")[-1])
        assert message.timestamp()[1] == ns // 1_000_000
    assert packets == {
        (
            rf"vtap_flow,device=my\ tap,direction=ingress,dst_ip=192.0.2.2,dst_port={port},"
            f"interface=wire0,protocol=udp,src_ip=192.0.2.1,src_port={ports[port]}"
        ).encode(): count
        for port, count in COUNTS.items()
    }
    beside = tapped.payload
    ends = b"},{" if form == "json" else b"\n"
    assert len(messages) == beside.count(ends) + (beside.count(b"\n") if form == "json" else 0)
    assert all(message.value() in beside for message in messages)


def test_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Messages that are too large are refused, counted exactly, and do not hold up the others."""
    numbers, large = range(500), range(3, 500, 7)
    texts = [flowlines.line(n, "1" * 1500 if n in large else "") for n in numbers]
    with Handing(sink(cluster, tmp_path, "message.max.bytes=1000")) as handing:
        handing.put(numbers, b"".join(texts))
        handing.put([1000])
        delivered, losses = handing.account()
    assert losses == {"refused": booked(large)}
    assert delivered == booked([*(n for n in numbers if n not in large), 1000])
    octets = sum(len(text) for n, text in enumerate(texts) if n not in large)
    octets += len(flowlines.line(1000))
    assert handing.sender.account.values()["bytes_delivered"] == octets
    assert f"refuses {len(large)} records: " in handing.said[0]
    assert "too large" in handing.said[0].lower()
    found = {number_of(message.value()) for message in cluster.messages()}
    assert found == {*numbers, 1000} - set(large)


def test_broker_gone_and_back(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broker that hangs has not acknowledged is sent again when it is back."""
    monkeypatch.setattr(kafka, "_CONNECT_TRIES", 1)
    with Handing(sink(cluster, tmp_path, "message.timeout.ms = 2000")) as handing:
        handing.put(range(100))
        handing.account()
        halt(cluster.process.pid)
        handing.put(range(100, 200))
        handing.put(range(200, 300))
        wait_for(lambda: any("is down" in sentence for sentence in handing.said))
        assert handing.sender.values()["up"] == 0
        os.kill(cluster.process.pid, signal.SIGCONT)
        assert handing.account() == (booked(range(300)), {})
    assert handing.sender.account.values()["records_retried"] >= 200
    assert any("is back." in sentence for sentence in handing.said)
    assert {number_of(message.value()) for message in cluster.messages()} == set(range(300))


def test_short_outage(cluster: Cluster, tmp_path: Path) -> None:
    """A broker that hangs for a moment costs nothing: no message is sent or comes twice."""
    with Handing(sink(cluster, tmp_path)) as handing:
        handing.put(range(100))
        handing.account()
        halt(cluster.process.pid)
        handing.put(range(100, 200))
        assert not handing.sender.drain(0.5)
        os.kill(cluster.process.pid, signal.SIGCONT)
        assert handing.account() == (booked(range(200)), {})
    assert (handing.said, handing.sender.account.values()["records_retried"]) == ([], 0)
    assert sorted(number_of(m.value()) for m in cluster.messages()) == list(range(200))


def test_only_the_rest_is_sent_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a payload of which a part has arrived, that part is not sent again."""
    report = KafkaSink._on_report
    failed: list[int] = []

    def failing(
        self: KafkaSink, batch: object, number: int, error: object, message: object
    ) -> None:
        if error is None and number == 37 and not failed:
            failed.append(number)
            self._failure = "for a test"
            return
        report(self, batch, number, error, message)  # type: ignore[arg-type]

    monkeypatch.setattr(KafkaSink, "_on_report", failing)
    with Handing(sink(cluster, tmp_path)) as handing:
        handing.put(range(100))
        assert handing.account() == (booked(range(100)), {})
    found = sorted(number_of(message.value()) for message in cluster.messages())
    assert sorted([*range(100), *failed]) == found


class Failed:
    """A producer that fails for good when it is asked for the third time, as librdkafka's may.

    See: https://github.com/confluentinc/librdkafka/blob/master/INTRODUCTION.md, "Fatal errors"
    """

    def __init__(self, producer: Any) -> None:
        self._producer, self._asked = producer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def poll(self, seconds: float) -> int:
        """Serve what there is to serve, or raise."""
        self._asked += 1
        if self._asked >= 3:
            raise KafkaException(KafkaError(KafkaError._FATAL, "for a test"))
        return int(self._producer.poll(seconds))

    def flush(self, seconds: float) -> int:
        """Likewise, when all has been served."""
        self._producer.flush(seconds)
        raise KafkaException(KafkaError(KafkaError._FATAL, "for a test"))


def test_failed_for_good(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that can do nothing any more is replaced, and costs nothing."""
    make, made = KafkaSink._make, []

    def failing(self: KafkaSink, properties: dict[str, str], hosts: str = "") -> Any:
        producer = make(self, properties, hosts)
        if hosts and not made:
            made.append(Failed(producer))
            return made[0]
        return producer

    monkeypatch.setattr(KafkaSink, "_make", failing)
    with Handing(sink(cluster, tmp_path)) as handing:
        handing.put(range(100))
        wait_for(lambda: handing.said)
        handing.put(range(100, 200))
        assert handing.account() == (booked(range(200)), {})
    assert "for a test; sending again" in handing.said[0]
    assert {number_of(m.value()) for m in cluster.messages()} == set(range(200))


def test_gone_is_noticed_without_traffic(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to send, a cluster that has gone is noticed after a while, and said."""
    monkeypatch.setattr(kafka, "_DOWN_SECONDS", 0.2)
    with Handing(sink(cluster, tmp_path)) as handing:
        handing.put(range(10))
        assert handing.account() == (booked(range(10)), {})
        handing.sender._closing.clear()
        cluster.process.kill()
        wait_for(lambda: handing.said)
        assert handing.sender.values()["up"] == 0


def test_small_queue(cluster: Cluster, tmp_path: Path) -> None:
    """A payload of more messages than librdkafka's queue takes waits for room, and arrives."""
    with Handing(sink(cluster, tmp_path, "queue.buffering.max.messages=50")) as handing:
        handing.put(range(1000))
        assert handing.account() == (booked(range(1000)), {})
    assert len(cluster.messages()) == 1000


def test_close_while_there_is_no_room(cluster: Cluster, tmp_path: Path) -> None:
    """At the end, brokers that take nothing hold nobody up; what they left is booked."""
    with Handing(sink(cluster, tmp_path, "queue.buffering.max.messages=50")) as handing:
        handing.put(range(10))
        handing.account()
        halt(cluster.process.pid)
        handing.put(range(10, 1000))
        assert not handing.sender.drain(0.3)
        begin = time.monotonic()
        handing.sender.close()
        assert time.monotonic() - begin < 10
    assert handing.sender.account.losses() == {"undelivered": booked(range(10, 1000))}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("linger.ms=5\nacks", "--kafka-config {}, line 2: give name=value."),
        ("=secret", "--kafka-config {}, line 1: give name=value."),
        (
            "bootstrap.servers=a:1",
            "--kafka-config {}, line 1: bootstrap.servers cannot be set there.",
        ),
        ("colour=secret", '--kafka-config {}: No such configuration property: "colour".'),
        (
            "acks=soon",
            '--kafka-config {}: Invalid value for configuration property "request.required.acks".',
        ),
        (b"\xff", "--kafka-config {}: is not UTF-8 at byte 0."),
        (None, "--kafka-config {}: cannot be read (No such file or directory)."),
    ],
)
def test_bad_properties(text: str | bytes | None, said: str, tmp_path: Path) -> None:
    """A file of properties that cannot be used is named, with what is wrong and no value."""
    path = tmp_path / "properties"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as raised:
        KafkaSink(parse("kafka://127.0.0.1:9092"), str(path))
    assert str(raised.value) == said.format(path)


@pytest.mark.parametrize("path", ["/a/b", "/ä", "/a?b=c", f"/{'a' * 201}"])
def test_bad_topic(path: str) -> None:
    """A topic that Kafka would not have is refused at once."""
    with pytest.raises(UsageError, match="give kafka://host:port/topic"):
        KafkaSink(parse(f"kafka://127.0.0.1:9092{path}"), None)


def test_library_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without confluent-kafka the sentence names the extra."""
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(UsageError, match=r"install trapstream-vtap\[kafka\]"):
        KafkaSink(parse("kafka://127.0.0.1:9092"), None)
