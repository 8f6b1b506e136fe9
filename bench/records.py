# SPDX-License-Identifier: Apache-2.0
"""What a record costs from the ring buffer to bytes, beside influxdb-client's Point."""

from __future__ import annotations

import ipaddress
import struct
import time

from influxdb_client import Point, WritePrecision

from bench import testrun
from trapstream_vtap import formats
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.layouts import FLOW_RECORD
from trapstream_vtap.probes.flows.records import schema_of
from trapstream_vtap.probes.flows.table import FlowTable

TITLE = "(b) The cost of a record"
FLOWS = 20_000
ROUNDS = 7


def main() -> None:
    """Print the table."""
    objects = testrun.load(testrun.settings())
    probe = FlowTable(testrun.settings(), objects, SystemClock())
    program = objects.programs["vtap_ingress"]
    schema = schema_of(testrun.settings())
    influx = formats.compile_plan(formats.INFLUX, schema, "192.0.2.2")
    as_json = formats.compile_plan(formats.JSON, schema, "192.0.2.2")
    taken: dict[str, list[float]] = {
        "ring to batch": [],
        "batch to line protocol": [],
        "batch to JSON": [],
    }
    plans = {"batch to line protocol": (influx, 1 << 62), "batch to JSON": (as_json, 60_000)}
    kept = bytearray()
    for _ in range(ROUNDS):
        for number in range(FLOWS):
            testrun.run(program, _frame(number), 3)
        count, spent = 0, dict.fromkeys(taken, 0.0)
        for _ in probe.sweep(force=True):
            while True:
                start = time.perf_counter()
                batch = probe.read(5000)
                spent["ring to batch"] += time.perf_counter() - start
                if not batch:
                    break
                for name, (plan, limit) in plans.items():
                    start = time.perf_counter()
                    plan.render(batch, 5000, limit)
                    spent[name] += time.perf_counter() - start
                count += len(batch) // FLOW_RECORD.size
                kept = batch
        if count < FLOWS:
            raise RuntimeError(f"{count} records of {FLOWS} flows")
        for name, seconds in spent.items():
            taken[name].append(seconds / count)
    point = _point(list(FLOW_RECORD.unpack(kept)))
    ns = {name: min(times) * 1e9 for name, times in taken.items()}
    ours = ns["ring to batch"] + ns["batch to line protocol"]
    print("| step | ns per record |")
    print("|---|---|")
    for name, value in ns.items():
        print(f"| {name} | {value:.0f} |")
    print(f"| **ring to line protocol** | **{ours:.0f}** |")
    print(f"| influxdb-client's `Point`, to line protocol | {point:.0f} |")
    print(f"| ratio | {point / ours:.0f} |")
    objects.close()


def _frame(number: int) -> bytes:
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 128, 0, 0, 64, 17, 0, 0xC0000201, 0xC6336400 + number)
    udp = struct.pack(">HHHH", 1024 + number % 50_000, 53, 108, 0)
    return bytes(12) + b"\x08\x00" + ip + udp + bytes(100)


def _point(decoded: list[dict[str, int]]) -> float:
    """Ns per record for the same columns, the values computed beforehand."""
    best = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for r in decoded:
            (
                Point("vtap_flow")
                .tag("device", "192.0.2.2")
                .tag("direction", "ingress")
                .tag("dst_ip", str(ipaddress.IPv4Address(r["dst_ip"][:4])))
                .tag("dst_port", str(r["dst_port"]))
                .tag("interface", "lo")
                .tag("protocol", "udp")
                .tag("src_ip", str(ipaddress.IPv4Address(r["src_ip"][:4])))
                .tag("src_port", str(r["src_port"]))
                .field("packets", r["packets"])
                .field("bytes", r["bytes"])
                .field("payload_bytes", r["payload_bytes"])
                .field("throughput_bytes_per_second", r["bytes"] * 1e9 / r["duration"])
                .field("goodput_bytes_per_second", r["payload_bytes"] * 1e9 / r["duration"])
                .field("iat_mean_ms", r["iat_sum"] / r["iat_count"] / 1e6)
                .field("jitter_ms", 0.123456)
                .field("iat_min_ms", r["iat_min"] / 1e6)
                .field("iat_max_ms", r["iat_max"] / 1e6)
                .time(r["time"], WritePrecision.NS)
                .to_line_protocol()
            )
        best.append((time.perf_counter() - start) / len(decoded))
    return min(best) * 1e9
