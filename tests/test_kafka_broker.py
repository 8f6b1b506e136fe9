# SPDX-License-Identifier: Apache-2.0
"""Kafka as a sink, against a broker that is not of librdkafka's making."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import certificate
import pytest
from cutting import Cutting, until_cut
from flowlines import Handing, booked, line, number_of
from realbroker import Broker
from waiting import wait_for

from lab.namespace import Namespace
from lab.servers import HOST, free_ports
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import kafka
from trapstream_vtap.sinks.kafka import KafkaSink

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "not the right one"  # noqa: S105 - of this test's own


def test_restarted_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record is there once; a broker that forgot everything, us too, gets what is due."""
    monkeypatch.setattr(kafka, "_DOWN_SECONDS", 0.2)
    with (
        Broker(tmp_path) as broker,
        Handing(KafkaSink(parse(f"kafka://{broker.hosts}/lab"), None)) as handing,
    ):
        for first in range(0, 3000, 1000):
            handing.put(range(first, first + 1000))
        assert handing.account() == (booked(range(3000)), {})
        found = broker.messages()
        broker.kill()
        handing.put(range(3000, 4000))
        wait_for(lambda: handing.said)
        broker.start()
        assert handing.account() == (booked(range(4000)), {})
        found += broker.messages()
    assert {message.topic() for message in found} == {"lab.vtap_flow"}
    texts = {number_of(message.value()): message for message in found}
    assert sorted(number_of(message.value()) for message in found) == list(range(4000))
    for number, message in texts.items():
        assert message.value() + b"\n" == line(number)
        assert message.key() == f"vtap_flow,flow={number}".encode()
    assert handing.sender.account.values()["records_retried"] == 1000


def test_not_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that does not know us gets nothing; its reason is said, and not the password."""
    monkeypatch.setattr(kafka, "_CONNECT_TRIES", 1)
    properties = tmp_path / "kafka.properties"
    properties.write_text(
        "security.protocol=sasl_plaintext\nsasl.mechanism=SCRAM-SHA-256\n"
        f"sasl.username=tap\nsasl.password={SECRET}\n"
    )
    with Broker(tmp_path, "--authentication") as broker:
        sink = KafkaSink(parse(f"kafka://{broker.hosts}"), str(properties))
        with Handing(sink) as handing:
            handing.put(range(100))
            wait_for(lambda: any("unknown-user" in sentence for sentence in handing.said))
            assert handing.sender.values()["up"] == 0
    assert not any(SECRET in sentence for sentence in handing.said)
    assert handing.sender.account.losses() == {"undelivered": booked(range(100))}


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go to a broker whose certificate is the right one, and to no other."""
    monkeypatch.setattr(kafka, "_CONNECT_TRIES", 1)
    certificate.make(tmp_path, "server", "stranger")
    with Broker(tmp_path, certificate=tmp_path / "server") as broker:
        where = parse(f"kafka://{broker.hosts}")
        for trusted, numbers in (("stranger", range(100)), ("server", range(100, 300))):
            properties = tmp_path / f"{trusted}.properties"
            properties.write_text(
                f"security.protocol=ssl\nssl.ca.location={tmp_path / trusted}.pem\n"
            )
            with Handing(KafkaSink(where, str(properties))) as handing:
                handing.put(numbers)
                if trusted == "server":
                    assert handing.account() == (booked(numbers), {})
                else:
                    wait_for(lambda: any("certificate verify failed" in s for s in handing.said))
            if trusted == "stranger":
                assert handing.sender.account.losses() == {"undelivered": booked(numbers)}
        found = sorted(number_of(message.value()) for message in broker.messages())
    assert found == list(range(100, 300))


@pytest.mark.parametrize("seed", range(2))
def test_cut_in_mid_batch(seed: int, tmp_path: Path) -> None:
    """Connections to a broker break in mid-batch, again and again: each record is there once."""
    count = 60_000
    with ExitStack() as stack:
        front = free_ports(Namespace.current(), 1)[0]
        broker = stack.enter_context(Broker(tmp_path, advertised=f"{HOST}:{front}"))
        cutting = stack.enter_context(Cutting(broker.port, seed, front))
        sink = KafkaSink(parse(f"kafka://{HOST}:{front}"), None)
        handing = stack.enter_context(Handing(sink))
        for first in range(0, count, 1000):
            handing.put(range(first, first + 1000))
        until_cut(cutting, 8)
        assert handing.account() == (booked(range(count)), {})
        found = sorted(number_of(message.value()) for message in broker.messages())
    assert found == list(range(count))
    assert handing.sender.account.values()["records_retried"] == 0


def test_killed_in_mid_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker killed under load, twice, has what was sent after that once, and all is booked."""
    monkeypatch.setattr(kafka, "_DOWN_SECONDS", 0.2)
    monkeypatch.setattr(kafka, "_CONNECT_TRIES", 1)
    count = 60_000
    with (
        Broker(tmp_path) as broker,
        Handing(KafkaSink(parse(f"kafka://{broker.hosts}"), None)) as handing,
    ):
        values = handing.sender.account.values
        for half in range(2):
            before = values()["records_delivered"]
            for first in range(half * count // 2, (half + 1) * count // 2, 1000):
                handing.put(range(first, first + 1000))
            wait_for(lambda: values()["records_delivered"] > before)  # noqa: B023 - at once
            broker.kill()
            broker.start()
        assert handing.account() == (booked(range(count)), {}), handing.said
        found = sorted(number_of(message.value()) for message in broker.messages())
    assert len(set(found)) == len(found)
