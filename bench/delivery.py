# SPDX-License-Identifier: Apache-2.0
"""65,536 flows in an interval of a second, to real collectors: processor, delay, memory."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
import statistics
import struct
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lab.command import VtapStream
from lab.namespace import Namespace, veth
from lab.servers import Influxd, VictoriaMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

TITLE = "(g) Delivery of 65,536 flows a second"
FLOWS = 65_536
SECONDS = 12
MEMORY = "1024"  # MiB, for what a database does not take while it makes the series
POLL = 0.004  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    rows = {
        "none (no packets)": (_discarding, 0, 4),
        "a socket that discards": (_discarding, FLOWS, 4),
        "victoria-metrics, TCP": (_victoria, FLOWS, 90),
        "influxd, HTTP": (_influxd, FLOWS, 60),
    }
    print(
        "| collector | of one core | interval's end to last byte acknowledged, s | RSS "
        "| delivered by the end |"
    )
    print("|---|---|---|---|---|")
    for name, (collector, flows, warm) in rows.items():
        print(f"| {name} | {_run(collector, flows, warm)} |", flush=True)


def _run(
    collector: Callable[[ExitStack, Namespace], tuple[str, int]], flows: int, warm: float
) -> str:
    with ExitStack() as stack:
        sender, receiver = (stack.enter_context(Namespace()) for _ in range(2))
        veth(sender, "bench0", receiver, "bench0", ipv4=("192.0.2.1", "192.0.2.2"))
        url, port = collector(stack, receiver)
        options = ("-i", "bench0", "--flow-table-size", "131072", "--sink", url)
        options += ("--max-memory", MEMORY)
        command = stack.enter_context(VtapStream(receiver, *options))
        command.wait_until_measuring()
        out = sender.socket(socket.AF_PACKET, socket.SOCK_RAW)
        out.bind(("bench0", 0))
        if flows:
            traffic = multiprocessing.get_context("fork").Process(target=_send, args=(out, flows))
            traffic.start()
            stack.callback(traffic.join)
            stack.callback(traffic.kill)
        time.sleep(warm)
        used, began = processor(command.pid), time.monotonic()
        with receiver.entered():
            late = _watch(port, SECONDS)
        share = (processor(command.pid) - used) / (time.monotonic() - began)
        memory = int(re.search(r"VmRSS:\s+(\d+)", _status(command.pid))[1]) * 1024 / 1e6  # type: ignore[index]
        if flows:
            traffic.kill()
        out.close()
        summary = command.stop()
        told = re.search(r"(\d+) records sent .*?, (\d+) records lost", summary)
        sent, lost = (int(number) for number in told.groups()) if told else (0, 0)
        whole = f"{sent / (sent + lost):.2f}" if sent + lost else "-"
        delays = f"{statistics.median(late):.2f} (worst {max(late):.2f})" if late else "-"
        return f"{share:.1%} | {delays} | {memory:.0f} MB | {whole}"


def _send(out: socket.socket, flows: int) -> None:
    """One packet of each flow a second, evenly; a process of its own."""
    ether = bytes.fromhex("0200000000020200000000010800")
    frames = []
    for number in range(flows):
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 128, 0, 0, 64, 17, 0) + b"\xc0\0\2\1\xc0\0\2\2"
        udp = struct.pack(">HHHH", 1024 + number % 32768, 9 + number // 32768, 108, 0)
        frames.append(ether + ip + udp + bytes(100))
    start, sent = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - start) * flows)
        while sent < due:
            out.send(frames[sent % flows])
            sent += 1
        time.sleep(0.002)


def _watch(port: int, seconds: float) -> list[float]:
    """Of each interval, how long after its end there was something to acknowledge."""
    wanted = f":{port:04X}"
    latest: dict[int, float] = {}
    end = time.time() + seconds
    while (now := time.time()) < end:
        rows = Path("/proc/thread-self/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        for row in rows:
            words = row.split()
            if words[2].endswith(wanted) and not words[4].startswith("00000000:"):
                latest[int(now)] = now % 1
        time.sleep(POLL)
    return list(latest.values())


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def _discarding(stack: ExitStack, namespace: Namespace) -> tuple[str, int]:
    listener = stack.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    process = multiprocessing.get_context("fork").Process(target=_discard, args=(listener,))
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    port = listener.getsockname()[1]
    return f"tcp://127.0.0.1:{port}", port


def _discard(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    room = bytearray(1 << 20)
    while connection.recv_into(room):
        pass


def _victoria(stack: ExitStack, namespace: Namespace) -> tuple[str, int]:
    server = stack.enter_context(VictoriaMetrics(namespace))
    return f"tcp://127.0.0.1:{server.tcp_port}", server.tcp_port


def _influxd(stack: ExitStack, namespace: Namespace) -> tuple[str, int]:
    server = stack.enter_context(Influxd(namespace))
    return f"http://127.0.0.1:{server.http_port}?db={server.database}", server.http_port
