# SPDX-License-Identifier: Apache-2.0
"""Lines with known numbers in them, handed to a sink as the stream does, and the books on them."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Self

from trapstream_vtap.ledger import Booked
from trapstream_vtap.sinks import Payload, Sender

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trapstream_vtap.sinks import Sink

DEADLINE = 20.0  # seconds
TIME = 1_700_000_000_000_000_000  # ns


def packets(number: int) -> int:
    """How many packets the line of that NUMBER holds; no two sums are alike by chance."""
    return 1 + number * number % 1009


def line(number: int, value: str = "") -> bytes:
    """A line of `vtap_flow` that is told by its number; VALUE may spoil its last field."""
    octets = value or f"{number}i"
    text = f"vtap_flow,flow={number} packets={packets(number)}i,bytes={octets} {TIME + number}\n"
    return text.encode()


def number_of(text: bytes) -> int:
    """The number of a line."""
    return int(text.split(b" ", 1)[0].rpartition(b"=")[2])


def booked(numbers: Iterable[int]) -> Booked:
    """Records and packets of the lines with these NUMBERS."""
    return sum((Booked(1, packets(number)) for number in numbers), Booked())


class Handing:
    """A sender that feeds SINK, and what it said to the person at the terminal."""

    def __init__(self, sink: Sink) -> None:
        self.said: list[str] = []
        self.sender = Sender(sink, 64 << 20, self.said.append)
        self._handed = Booked()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()

    def put(self, numbers: Iterable[int], data: bytes | None = None) -> None:
        """Hand over one payload with the lines of NUMBERS; DATA, if they are not plain ones."""
        numbers = list(numbers)
        self._handed += booked(numbers)
        joined = b"".join(map(line, numbers)) if data is None else data
        weights = memoryview(array("Q", map(packets, numbers)))
        self.sender.put(Payload(joined, booked(numbers), weights=weights))

    def account(self) -> tuple[Booked, dict[str, Booked]]:
        """What was delivered, and lost by reason, when all has settled; the sum is checked."""
        assert self.sender.drain(DEADLINE), self.said
        values = self.sender.account.values()
        delivered = Booked(values["records_delivered"], values["packets_delivered"])
        losses = self.sender.account.losses()
        assert self._handed == sum(losses.values(), delivered)
        return delivered, losses
