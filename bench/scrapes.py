# SPDX-License-Identifier: Apache-2.0
"""What it costs that Prometheus can scrape: in the kernel, per record, per scrape."""

from __future__ import annotations

import os
import time

from bench import testrun
from bench.packets import FRAMES
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.metrics.exporter import Metrics
from trapstream_vtap.probes.flows.metrics import FlowCollector
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.probes.flows.running import FlowRunning
from trapstream_vtap.probes.flows.table import FlowTable
from trapstream_vtap.schema import Batch

TITLE = "(h) The cost of being scraped"
ROUNDS, REPEAT = 15, 300_000
FLOWS = 65_536
SHOWN = (100, 1000, 10_000)
WHERE = ("127.0.0.1", 0)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NS = 10**9


def main() -> None:
    """Print both tables."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _packets()
    print()
    _scrapes()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _packets() -> None:
    plain, scraped = testrun.settings(), testrun.settings(metrics=WHERE)
    loaded = [testrun.load(chosen) for chosen in (plain, scraped)]
    for chosen, objects in zip((plain, scraped), loaded, strict=True):
        FlowTable(chosen, objects, SystemClock())
    print("| packet, with a receive timestamp | without `--metrics`, ns | with it |\n|---|---|---|")
    for name, packet in FRAMES.items():
        frame = bytes(packet)
        taken: list[list[int]] = [[], []]
        for _ in range(ROUNDS):  # in turns, so that a busy moment hits both
            for times, objects in zip(taken, loaded, strict=True):
                empty = testrun.run(objects.programs["empty"], frame, REPEAT)
                program = objects.programs["vtap_ingress"]
                times.append(testrun.run(program, frame, REPEAT, tstamp=time.time_ns()) - empty)
        print(f"| {name} | {min(taken[0])} | **{min(taken[1])}** |")
    for objects in loaded:
        objects.close()


def _scrapes() -> None:
    batch = _summaries()
    print(f"| of {FLOWS:,} flows shown | a record, ns | a scrape, ms | it has, kB |")
    print("|---|---|---|---|")
    for shown in SHOWN:
        chosen = testrun.settings(metrics=WHERE, metrics_flows=shown)
        objects = testrun.load(chosen)
        running = FlowRunning(chosen, objects, SystemClock())
        metrics = Metrics("192.0.2.2", {"flows": FlowCollector(chosen)}, lambda: (SINK_ROWS, {}))
        metrics.use("flows", running, chosen)
        records, scrapes = [], []
        for number in range(ROUNDS):
            start = time.perf_counter()
            metrics.take(Batch(running.schema, batch, "flows"))
            records.append((time.perf_counter() - start) / FLOWS)
            metrics.end_interval((number + 1) * NS, [])
            start = time.perf_counter()
            page = metrics.page(OPENMETRICS)
            scrapes.append(time.perf_counter() - start)
        print(
            f"| {shown:,} | {min(records) * 1e9:.0f} | **{min(scrapes) * 1e3:.1f}** "
            f"| {len(page.body) / 1000:.0f} |"
        )
        objects.close()


def _summaries() -> bytearray:
    layout, batch = flow_schema().layout, bytearray()
    for number in range(FLOWS):
        batch += layout.pack(
            {
                "src_ip": bytes((192, 0, 2, 1)),
                "dst_ip": bytes((198, 51, 100, number % 250)),
                "src_port": number,
                "dst_port": 443,
                "interface": 1,
                "protocol": 6,
                "family": 4,
                "ports": 1,
                "time": NS,
                "duration": NS,
                "packets": 10,
                "bytes": 1000 + number,
                "payload_bytes": 500,
                "iat_count": 9,
                "iat_sum": 9_000_000,
                "iat_squares": 9_000_000_000_001,
            }
        )
    return batch
