# SPDX-License-Identifier: Apache-2.0
"""A sender with its account, what it sends, and a TCP port to send to."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from trapstream_vtap.ledger import Booked
from trapstream_vtap.settings.address import Address
from trapstream_vtap.sinks import Payload, Sender, TcpSink, UdpSink
from trapstream_vtap.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterable

DEADLINE = 20.0  # seconds
HOST = "127.0.0.1"


def payload(number: int, size: int = 100) -> bytes:
    """A line that is told by its number, SIZE bytes with its end."""
    return f"{number:06}".encode().ljust(size - 1, b".") + b"\n"


def numbers_of(lines: Iterable[bytes]) -> list[int]:
    """The numbers of the lines, none of which may be broken."""
    found = []
    for line in lines:
        number = int(line[:6])
        assert payload(number, len(line)) == line
        found.append(number)
    return found


def address(kind: type[TcpSink | UdpSink], port: int, host: str = HOST) -> Address:
    """PORT as a sink of that KIND takes it."""
    return Address("tcp" if kind is TcpSink else "udp", ((host, port),))


class Sending:
    """A sender, its account, and what it said to the person at the terminal."""

    def __init__(self, kind: type[TcpSink | UdpSink], port: int, **options: object) -> None:
        self.said: list[str] = []
        sink = kind(address(kind, port, str(options.get("host", HOST))))
        memory = options.get("memory", 64 << 20)
        assert isinstance(memory, int)
        spool = options.get("spool")
        assert spool is None or isinstance(spool, Spool)
        self.sender = Sender(sink, memory, self.said.append, spool=spool)
        self.handed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()

    def put(self, *payloads: bytes) -> None:
        """Hand over payloads as the stream does: one record of two packets in each."""
        for data in payloads:
            self.sender.put(Payload(data, Booked(1, 2)))
            self.handed += 1

    @property
    def values(self) -> dict[str, int]:
        """What the account says."""
        return self.sender.values()

    @property
    def sent(self) -> int:
        """Records that the account has as delivered."""
        return self.values["records_delivered"]

    @property
    def failed(self) -> int:
        """Records that had to be sent again."""
        return self.values["records_retried"]

    def lost(self, reason: str) -> int:
        """Records that the account has as lost for that reason."""
        return self.values[f"lost_{reason}"]

    def check_books(self) -> None:
        """After `close`: delivered, spooled and lost are all that there was."""
        values = self.values
        assert self.handed == values["records_handed"]
        there = self.handed + values["records_recovered"]
        ends = ("delivered", "spooled", "lost")
        assert there == sum(values[f"records_{end}"] for end in ends)
        assert 2 * there == sum(values[f"packets_{end}"] for end in ends)
        assert values["records_queued"] == values["packets_queued"] == 0


class Peer:
    """A TCP port on which nobody listens until `listen` is called."""

    def __init__(self) -> None:
        self._open(0)
        self.port: int = self.socket.getsockname()[1]

    def _open(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.socket.bind((HOST, port))
        self.socket.settimeout(DEADLINE)

    def reopen(self) -> None:
        """Nobody listens any more; connections stay."""
        self.socket.close()
        self._open(self.port)

    def accept(self) -> socket.socket:
        """The next connection."""
        connection, _ = self.socket.accept()
        connection.settimeout(DEADLINE)
        return connection

    def close(self) -> None:
        """Release the port."""
        self.socket.close()


def read(connection: socket.socket, count: int) -> bytes:
    """Exactly the next COUNT bytes."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part
        data += part
    return data


def read_until_end(connection: socket.socket) -> list[bytes]:
    """The lines up to the end of the connection."""
    with connection, connection.makefile("rb") as stream:
        return stream.readlines()
