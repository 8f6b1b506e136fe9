# SPDX-License-Identifier: Apache-2.0
"""A collector that can be killed, and of which everything is kept that its kernel acknowledged.

TCP promises that the peer's kernel has the bytes, not that its program has read them. To compare
exactly, a killed collector's connections are held here, by copies of their descriptors: nothing
more is acknowledged, what was is read, and then the connection is reset.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import signal
    import subprocess

    from tap import Tap
    from traffic import Wire

    from lab.namespace import Namespace

DEADLINE = 60.0  # seconds
_SO_ATTACH_FILTER = 26  # include/uapi/asm-generic/socket.h

# From a connection to a pipe in the kernel, so that a kill leaves each byte in one of the two.
_PROCESS = """
import os, socket, sys
channel = socket.socket(fileno=0)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
channel.send(b"listening")
while True:
    connection, _ = listener.accept()
    reading, writing = os.pipe()
    socket.send_fds(channel, [b"connection"], [connection.fileno(), reading])
    os.close(reading)
    with connection:
        while os.splice(connection.fileno(), writing, 1 << 16):
            pass
    os.close(writing)
"""


def die(connection: socket.socket) -> bytes:
    """Vanish as a machine does: nothing that comes is acknowledged any more; then reset.

    Returns what was acknowledged before and not read yet.
    """
    # One instruction of classic BPF, `return 0`: the socket takes no packet. See: socket(7)
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    rest = b""
    connection.settimeout(0.1)  # for packets that were past the filter
    try:
        while part := connection.recv(1 << 20):
            rest += part
    except TimeoutError:
        pass
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return rest


class Connection:
    """What came over one connection."""

    def __init__(self, kept: socket.socket, pipe: int) -> None:
        self.data = b""
        self._socket = kept
        self._pipe = pipe
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        with os.fdopen(self._pipe, "rb", buffering=0) as pipe:
            while part := pipe.read(1 << 20):
                self.data += part
        self.data += die(self._socket)


class Collector:
    """A collector process on a TCP port of NAMESPACE; it does not run until `start`."""

    def __init__(self, namespace: Namespace, host: str = "127.0.0.1") -> None:
        self._namespace = namespace
        with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.bind((host, 0))
            self._at = (host, str(holder.getsockname()[1]))
        self.url = f"tcp://{':'.join(self._at)}"
        self._process: subprocess.Popen[bytes] | None = None
        self.connections: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Listen, and read whatever comes."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = self._namespace.popen(
                *(sys.executable, "-c", _PROCESS, *self._at), stdin=theirs
            )
        assert ours.recv(100) == b"listening"
        threading.Thread(target=self._accept, args=(ours,), daemon=True).start()

    def _accept(self, channel: socket.socket) -> None:
        with channel:
            while True:
                _, descriptors, _, _ = socket.recv_fds(channel, 10, 2)
                if not descriptors:
                    return
                kept, pipe = descriptors
                self.connections.append(Connection(socket.socket(fileno=kept), pipe))

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process
        self._process.send_signal(number)

    def records(self) -> list[dict[str, Any]]:
        """Every record of every connection; what a kill cut off is none.

        Raises:
            ValueError: A connection began within a record.
        """
        found = []
        for connection in list(self.connections):
            for line in connection.data.split(b"\n")[:-1]:
                found += json.loads(line)
        return found

    def packets(self) -> int:
        """Packets of all flows; what came twice counts once, as in a time-series database."""
        return sum(self.flows().values())

    def flows(self) -> dict[tuple[object, ...], int]:
        """Packets by series and time."""
        points: dict[tuple[object, ...], int] = {}
        for record in self.records():
            if record["name"] == "vtap_flow":
                tags = (value for value in record.values() if isinstance(value, str))
                point = (*tags, record["timestamp"])
                assert points.setdefault(point, record["packets"]) == record["packets"]
        return points


class Load:
    """Traffic over a wire while the context lasts, on so many flows; its packets are counted."""

    def __init__(self, wire: Wire, flows: int, gap: float = 0.05) -> None:
        self._listener = wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener.bind(("192.0.2.2", 7001))
        self._sockets = [
            wire.sender.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)
        ]
        for sending in self._sockets:
            sending.connect(("192.0.2.2", 7001))
        self._gap = gap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._wire = wire

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for sending in (*self._sockets, self._listener):
            sending.close()
        self._wire.settle()

    def _drive(self) -> None:
        while not self._stop.wait(self._gap):
            for sending in self._sockets:
                sending.send(b"load")


def seen(wire: Wire) -> int:
    """Packets that the kernel counted on the interface that is measured."""
    return wire.receiver.counters("wire0").rx_packets


def account(tapped: Tap, sink: str) -> dict[str, int]:
    """The latest account of SINK, which has come to the tap's own collector; zero at the start."""
    records = tapped.latest("sink", sink)
    if not records:
        return dict.fromkeys(("packets_delivered", "packets_spooled", "packets_lost"), 0)
    check(records)
    return records


def check(values: dict[str, Any]) -> None:
    """The sum of an account of a sink, at any time: nothing is unsaid."""
    for unit in ("records", "packets"):
        there = values[f"{unit}_handed"] + values[f"{unit}_recovered"]
        names = ("delivered", "queued", "spooled", "lost")
        assert there == sum(values[f"{unit}_{name}"] for name in names)
    lost = [n for name, n in values.items() if name.startswith("lost_")]
    assert values["records_lost"] == sum(lost)
