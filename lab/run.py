# SPDX-License-Identifier: Apache-2.0
"""Shows vtap-stream at work: real traffic, the real command, a real InfluxDB, and the books.

Exits 0 only if, for every flow, the sender, the kernel's interface counters and InfluxDB agree on
packets and bytes exactly.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from lab import traffic
from lab.command import VtapStream
from lab.namespace import Counters, Namespace, veth
from lab.servers import Influxd
from lab.traffic import Pace, Sent

SECONDS = 15
ARRIVAL_DEADLINE = 5.0  # seconds for the last points to be in InfluxDB
PAYLOAD = (64, 200, 512, 1000, 1400)  # bytes, in turn
TAGS = ("interface", "protocol", "src_ip", "src_port", "dst_ip", "dst_port")

Key = tuple[str, ...]
"""The values of TAGS; empty where a flow has none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One flow of the lab, on a link of its own.

    Attributes:
        ifname: The interface where it is measured.
        protocol: `udp`, `tcp` or `icmp`.
        src_ip: Sender's address.
        dst_ip: Receiver's address.
        rate: Packets (for TCP: messages) per second.
    """

    ifname: str
    protocol: str
    src_ip: str
    dst_ip: str
    rate: int


PLANS = (
    Plan("udp4", "udp", "10.0.1.1", "10.0.1.2", 500),
    Plan("udp6", "udp", "fd00:2::1", "fd00:2::2", 400),
    Plan("tcp4", "tcp", "10.0.3.1", "10.0.3.2", 300),
    Plan("tcp6", "tcp", "fd00:4::1", "fd00:4::2", 200),
    Plan("icmp4", "icmp", "10.0.5.1", "10.0.5.2", 100),
    Plan("icmp6", "icmp", "fd00:6::1", "fd00:6::2", 50),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A flow in the books, packets and bytes each, as seen by the three."""

    key: Key
    sent: tuple[int, int]
    interface: tuple[int, int]
    database: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """Whether all three are the same."""
        return self.sent == self.interface == self.database


def main() -> int:
    """Runs the show and returns the exit code."""
    with ExitStack() as stack:
        return _show(stack)


def guarded(show: Callable[[], int]) -> int:
    """Runs a show; the exit code is its own, or that of what went wrong, which it then says."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return show()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 128 + signal.SIGINT
    except PermissionError as error:
        print(f"The lab needs root to make network namespaces ({error}).", file=sys.stderr)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print("\n".join((f"\n{error}", *getattr(error, "__notes__", ()))), file=sys.stderr)
    return 1


def _show(stack: ExitStack) -> int:
    sender, tap = stack.enter_context(Namespace()), stack.enter_context(Namespace())
    for plan in PLANS:
        ends = (plan.src_ip, plan.dst_ip)
        ipv4, ipv6 = (None, ends) if ":" in plan.src_ip else (ends, None)
        veth(sender, plan.ifname, tap, plan.ifname, ipv4=ipv4, ipv6=ipv6)
    influxd = stack.enter_context(Influxd(tap))
    names = ",".join(plan.ifname for plan in PLANS)
    arguments = ("-f", "influx", "--transport", "udp", "-i", names, "-v", influxd.host)
    print("vtap-stream", *arguments, influxd.udp_port, flush=True)
    command = stack.enter_context(VtapStream(tap, *arguments, str(influxd.udp_port)))
    command.wait_until_measuring()
    sent = _drive(sender, tap)
    print(command.stop())
    counted = [tap.counters(plan.ifname) for plan in PLANS]
    return _report(_books(sent, counted, _held(influxd, sent)))


def _drive(sender: Namespace, tap: Namespace) -> list[Sent]:
    """Drives all flows at once, with a line of progress; returns what each one sent."""
    stop = threading.Event()

    def drive(plan: Plan) -> Sent:
        pace = Pace(plan.rate * SECONDS, plan.rate, PAYLOAD, stop)
        if plan.protocol == "icmp":
            return traffic.icmp(sender, plan.src_ip, plan.dst_ip, pace)
        generate = traffic.udp if plan.protocol == "udp" else traffic.tcp
        return generate(sender, tap, plan.src_ip, plan.dst_ip, pace)

    with ThreadPoolExecutor(len(PLANS)) as threads:
        try:
            flows = [threads.submit(drive, plan) for plan in PLANS]
            _watch(tap, flows)
            return [flow.result() for flow in flows]
        finally:
            stop.set()


def _watch(tap: Namespace, flows: Sequence[Future[Sent]]) -> None:
    """Prints how far the traffic is, each second on a terminal, else each fifth, until it ends."""
    live = sys.stdout.isatty()
    start = time.monotonic()
    second = 0
    while not all(flow.done() for flow in flows):
        time.sleep(0.1)
        if time.monotonic() - start < second + 1:
            continue
        second += 1
        if live or second % 5 == 0:
            counted = [tap.counters(plan.ifname) for plan in PLANS]
            packets = sum(counters.rx_packets for counters in counted)
            megabytes = sum(counters.rx_bytes for counters in counted) / 1e6
            line = f"{second:3} of {SECONDS} s: {packets:,} packets, {megabytes:.1f} MB"
            print(f"\r{line}" if live else line, end="" if live else "\n", flush=True)
    if live:
        print()


def _held(influxd: Influxd, sent: Sequence[Sent]) -> dict[Key, tuple[int, int]]:
    """Packets and bytes per flow in InfluxDB, once all have arrived or the time is up."""
    expected = sum(flow.packets for flow in sent)
    deadline = time.monotonic() + ARRIVAL_DEADLINE
    tags = ", ".join(f'"{tag}"' for tag in TAGS)
    statement = f'SELECT sum("packets"), sum("bytes") FROM "vtap_flow" GROUP BY {tags}'  # noqa: S608
    while True:
        held = {
            tuple(series["tags"][tag] for tag in TAGS): (packets, length)
            for series in influxd.query(statement)
            for _, packets, length in series["values"]
        }
        arrived = sum(packets for packets, _ in held.values())
        if arrived >= expected or time.monotonic() > deadline:
            return held
        time.sleep(0.05)


def _books(
    sent: Sequence[Sent], counted: Sequence[Counters], held: dict[Key, tuple[int, int]]
) -> list[Row]:
    """One row for each flow that was sent, and for each that only InfluxDB knows of."""
    rows = []
    for plan, flow, counters in zip(PLANS, sent, counted, strict=True):
        src_port, dst_port = (
            "" if port is None else str(port) for port in (flow.src_port, flow.dst_port)
        )
        key = (plan.ifname, flow.protocol, flow.src_ip, src_port, flow.dst_ip, dst_port)
        rows.append(
            Row(
                key,
                sent=(flow.packets, flow.bytes),
                interface=(counters.rx_packets, counters.rx_bytes),
                database=held.pop(key, (0, 0)),
            )
        )
    rows += [Row(key, (0, 0), (0, 0), database) for key, database in held.items()]
    return rows


def _report(rows: Sequence[Row]) -> int:
    """Prints the books as a table; returns 0 if every row agrees, else 1."""
    table: list[tuple[str, ...]] = [
        ("", "packets", "", "", "bytes", "", "", ""),
        ("flow", *("sent", "interface", "InfluxDB") * 2, ""),
    ]
    for row in rows:
        interface, protocol, src_ip, src_port, dst_ip, dst_port = row.key
        source, destination = _endpoint(src_ip, src_port), _endpoint(dst_ip, dst_port)
        by_unit = zip(row.sent, row.interface, row.database, strict=True)
        numbers = (f"{number:,}" for unit in by_unit for number in unit)
        flow = f"{interface:5}  {protocol:6}  {source} > {destination}"
        table.append((flow, *numbers, "agree" if row.agrees else "DIFFER"))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for line in table:
        first, *cells = line
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join((first.ljust(widths[0]), *padded)).rstrip())
    agreed = sum(row.agrees for row in rows)
    print(f"\n{agreed} of {len(rows)} flows agree exactly.")
    return 0 if agreed == len(rows) else 1


def _endpoint(ip: str, port: str) -> str:
    if not port:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(guarded(main))
