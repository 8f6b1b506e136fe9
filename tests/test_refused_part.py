# SPDX-License-Identifier: Apache-2.0
"""Of a payload a part is refused: what that part holds the renderer says, whatever the text is."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from dropevents import REASONS, Dropped, DropPlan
from flowlines import DEADLINE
from httpserver import Answer, HttpServer, Request
from mockbroker import Cluster

from lab.namespace import Namespace
from trapstream_vtap.formats import INFLUX, JSON_LINES
from trapstream_vtap.ledger import Booked
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import Payload, Sender
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.kafka import KafkaSink
from trapstream_vtap.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from trapstream_vtap.formats import Format

TIME = 1_700_000_000_000_000_000  # ns
PACKETS = {number: 1 + number**3 for number in range(200)}
BAD = {0, 7, 8, 131, 199}
REFUSED = Booked(len(BAD), sum(PACKETS[number] for number in BAD))
TAKEN = Booked(len(PACKETS), sum(PACKETS.values())) - REFUSED
DEVICE = 'tap packets=7i,count=9i "packets":1'  # what a search in the text would find


def drops(form: Format, length: int = 1) -> Payload:
    """Records of `DroppedPackets`, told by their time; those of BAD have a name of LENGTH."""
    names = REASONS | {3: "x" * length}
    plan = DropPlan(form, DEVICE, names)
    events = [
        Dropped({"reason": 3 if n in BAD else 2, "packets": packets, "time": TIME + n}, {}, None)
        for n, packets in PACKETS.items()
    ]
    batch = b"".join(event.packed() for event in reversed(events))
    ((data, weights, _),), _ = plan.render(batch, 10**6, 10**9)
    return Payload(data, REFUSED + TAKEN, weights=weights)


def answer(request: Request, _: int) -> Answer:
    """As 1.x does: all is stored but BAD."""
    numbers = {int(line.rpartition(b" ")[2]) - TIME for line in request.lines}
    bad = numbers & BAD
    said = f"partial write: field type conflict dropped={len(bad)}"
    return Answer(400 if bad else 204, said if bad else "", {}, numbers - bad)


@pytest.mark.parametrize("from_disk", [False, True], ids=["memory", "disk"])
def test_over_http(*, from_disk: bool, tmp_path: Path) -> None:
    """InfluxDB refuses some dropped packets: booked as refused are these, with their packets."""
    said: list[str] = []
    with HttpServer(answer) as server, ExitStack() as stack:
        where = parse(f"http://127.0.0.1:{server.port}?db=x")
        spool = Spool(tmp_path, 1 << 30, said.append) if from_disk else None
        if spool:
            closed = parse("http://127.0.0.1:9?db=x")  # nobody listens: all is left in the spool
            before = Sender(HttpSink(closed, None, None), 1 << 20, said.append, spool=spool)
            before.put(drops(INFLUX))
            before.close()
            assert before.values()["records_spooled"] == len(PACKETS)
            spool = Spool(tmp_path, 1 << 30, said.append)
        sender = Sender(HttpSink(where, None, None), 1 << 20, said.append, spool=spool)
        stack.callback(sender.close)
        if not spool:
            sender.put(drops(INFLUX))
        assert sender.drain(DEADLINE)
        values, losses = sender.values(), sender.account.losses()
        assert losses == {"refused": REFUSED}
        assert Booked(values["records_delivered"], values["packets_delivered"]) == TAKEN
        assert server.stored == set(PACKETS) - BAD


def test_to_kafka(tmp_path: Path) -> None:
    """Brokers refuse messages that are too large: booked are these, with their packets."""
    properties = tmp_path / "kafka.properties"
    properties.write_text("message.max.bytes=1500\n")
    with Cluster(Namespace.current()) as cluster:
        sink = KafkaSink(parse(f"kafka://{cluster.hosts}"), str(properties))
        sender = Sender(sink, 1 << 20, lambda _: None)
        try:
            sender.put(drops(JSON_LINES, 2000))
            assert sender.drain(DEADLINE)
        finally:
            sender.close()
        assert sender.account.losses() == {"refused": REFUSED}
        assert len(cluster.messages()) == TAKEN.records
