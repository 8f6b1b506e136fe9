# SPDX-License-Identifier: Apache-2.0
"""From the command's start to the first packet measured, and the memory it then takes."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from lab.namespace import Namespace, veth

TITLE = "(c) Start-up and memory"
ROUNDS = 5
GAP = 0.001  # seconds between packets
RUN = 6.0


def main() -> None:
    """Print the table."""
    first, later = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as programs:
            first.append(_once(programs))
            later.append(_once(programs))
    columns = [
        [statistics.median(column) for column in zip(*rows, strict=True)] for rows in (first, later)
    ]
    names = (
        ("start to first packet measured", "s", 2),
        ("steady memory (RSS)", "MB", 1),
        ("steady memory of the keeper", "MB", 1),
        ("peak memory of the process", "MB", 1),
        ("peak memory of the child that compiles and loads, and then ends", "MB", 1),
    )
    print("| what | the first time | program compiled before |")
    print("|---|---|---|")
    for (name, unit, digits), *values in zip(names, *columns, strict=True):
        print(f"| {name} |", " | ".join(f"{value:.{digits}f} {unit}" for value in values), "|")


def _once(programs: str) -> tuple[float, float, float, float, float]:
    with Namespace() as sender, Namespace() as receiver:
        veth(sender, "bench0", receiver, "bench0", ipv4=("192.0.2.1", "192.0.2.2"))
        listener = receiver.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        received: list[bytes] = []
        reader = threading.Thread(target=_read, args=(listener, received))
        reader.start()
        times: list[float] = []
        done = threading.Event()
        source = sender.socket(socket.AF_INET, socket.SOCK_DGRAM)
        traffic = threading.Thread(target=_send, args=(source, times, done))
        traffic.start()
        start = time.monotonic()
        process = receiver.popen(
            *(".venv/bin/vtap-stream", "-f", "json", "-i", "bench0", "127.0.0.1"),
            str(listener.getsockname()[1]),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CACHE_DIRECTORY": programs},
        )
        peak_of_child = 0.0
        while time.monotonic() - start < RUN:
            compiling = [c for keeper in _children(process.pid) for c in _children(keeper)]
            peak_of_child = max([peak_of_child, *(_memory(pid, "VmHWM") for pid in compiling)])
            time.sleep(0.005)
        steady, peak = _memory(process.pid, "VmRSS"), _memory(process.pid, "VmHWM")
        (keeper,) = (_memory(child, "VmRSS") for child in _children(process.pid))
        done.set()
        traffic.join()
        process.send_signal(signal.SIGINT)
        process.wait()
        reader.join()
        source.close()
        listener.close()
        measured = sum(
            record["packets"]
            for line in b"".join(received).splitlines()
            for record in json.loads(line)
            if record["name"] == "vtap_flow"
        )
        return times[len(times) - measured] - start, steady, keeper, peak, peak_of_child


def _send(out: socket.socket, times: list[float], done: threading.Event) -> None:
    out.connect(("192.0.2.2", 9))
    while not done.wait(GAP):
        times.append(time.monotonic())
        try:
            out.send(bytes(100))
        except ConnectionRefusedError:  # the answer to an earlier one; this one was not sent
            out.send(bytes(100))


def _read(listener: socket.socket, into: list[bytes]) -> None:
    connection, _ = listener.accept()
    with connection:
        while part := connection.recv(1 << 20):
            into.append(part)


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _memory(pid: int, field: str) -> float:
    """A field of /proc/PID/status in MB (10^6 bytes); 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    kib = next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)
    return kib * 1024 / 1e6
