# SPDX-License-Identifier: Apache-2.0
"""Bursts of records over UDP to influxd, and what of them it has in the end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from bench.delivery import FLOWS, processor
from lab.namespace import Namespace
from lab.servers import Influxd
from trapstream_vtap import formats
from trapstream_vtap.ledger import Booked
from trapstream_vtap.probes.flows.layouts import FLOW_RECORD
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.settings.address import Address
from trapstream_vtap.sinks import Pace, Payload, Sender, UdpSink

TITLE = "(h) A burst over UDP to influxd"
BURSTS = 3
PATIENCE = 120.0  # seconds that influxd gets to write a burst
BEGIN = 1_700_000_000
NS = 1_000_000_000


class Row(NamedTuple):
    """What is sent: records at an interval's end, and by what means."""

    flows: int
    interval: int = 1
    read_buffer: int | None = None
    datagram: int = 1400


ROWS = (
    Row(5000),
    Row(20_000),
    Row(20_000, read_buffer=4 << 20),
    Row(FLOWS),
    Row(FLOWS, interval=10),
    Row(FLOWS, read_buffer=4 << 20),
    Row(FLOWS, read_buffer=4 << 20, datagram=7700),
    Row(FLOWS, interval=10, read_buffer=4 << 20),
)


def main() -> None:
    """Print the table."""
    print(
        "| records of a burst | interval, s | receive buffer | datagrams, bytes "
        f"| records lost of {BURSTS} bursts | influxd, µs of CPU a record |"
    )
    print("|---|---|---|---|---|---|")
    for row in ROWS:
        lost, cost = _run(row)
        buffer = f"{row.read_buffer >> 20} MiB" if row.read_buffer else "default"
        said = ", ".join(f"{part:.1%}" for part in lost)
        print(
            f"| {row.flows} | {row.interval} | {buffer} | {row.datagram} | {said} | {cost:.0f} |",
            flush=True,
        )


def _run(row: Row) -> tuple[list[float], float]:
    """Of each burst, the part that is not in the database; CPU time a record that is."""
    lost, used, stored = [], 0.0, 0
    with Namespace() as namespace, Influxd(namespace, read_buffer=row.read_buffer) as influxd:
        address = Address("udp", ((influxd.host, influxd.udp_port),))
        for number in range(BURSTS):
            payloads = _payloads(row, BEGIN + number)
            before = processor(influxd.pid)
            with namespace.entered():
                sender = Sender(UdpSink(address), 1 << 30, print, pace=Pace(row.interval))
            for payload in payloads:
                sender.put(payload)
            while sender.values()["records_queued"]:
                time.sleep(0.1)
            sender.close()
            found = _stored(influxd, BEGIN + number)
            lost.append(1 - found / row.flows)
            used += processor(influxd.pid) - before
            stored += found
    return lost, used / stored * 1e6


def _stored(influxd: Influxd, second: int) -> int:
    """How many records of that time are in the database, when it is idle."""
    deadline = time.monotonic() + PATIENCE
    idle, latest = 0, processor(influxd.pid)
    while idle < 3 and time.monotonic() < deadline:
        time.sleep(0.5)
        used = processor(influxd.pid)
        idle = idle + 1 if used - latest < 0.03 else 0
        latest = used
    which = f"SELECT COUNT(packets) FROM vtap_flow WHERE time = {second}s"  # noqa: S608 - a number
    found = influxd.query(which)
    return int(found[0]["values"][0][1]) if found else 0


def _payloads(row: Row, second: int) -> list[Payload]:
    """A record of each flow, rendered as in a run."""
    batch = bytearray()
    for number in range(row.flows):
        values = {
            "src_ip": bytes((192, 0, 2, 1)),
            "dst_ip": bytes((192, 0, 2, 2 + number // 32768)),
            "src_port": 1024 + number % 32768,
            "dst_port": 9,
            "interface": 1,
            "protocol": 17,
            "family": 4,
            "ports": 1,
            "time": second * NS,
            "duration": NS,
            "packets": 1 + number % 7,
            "bytes": 142 * (1 + number % 11),
            "payload_bytes": 100 * (1 + number % 11),
            "iat_count": 1,
            "iat_sum": NS - number * 1009,
            "iat_squares": (NS - number * 1009) ** 2,
            "iat_min": NS - number * 1009,
            "iat_max": NS - number * 1009,
        }
        batch += FLOW_RECORD.pack(values)
    schema = flow_schema()
    schema = replace(schema, names={**schema.names, "interface": {1: "bench0"}})
    plan = formats.compile_plan(formats.INFLUX, schema, "192.0.2.2")
    payloads, _ = plan.render(batch, 5000, row.datagram)
    return [Payload(data, Booked(tallies[1][0], tallies[1][1])) for data, _, tallies in payloads]
