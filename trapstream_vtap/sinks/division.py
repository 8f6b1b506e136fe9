# SPDX-License-Identifier: Apache-2.0
"""A payload of which the collector refuses some lines: halved until they stand alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.sinks.payload import Payload, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_REQUESTS = 64
"""For one payload; 25 to 30 find one bad line among 5,000."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer that says no.

    Args:
        why: The collector's reason, for a person.
        whole: Whether it is meant for every line.
    """

    why: str
    whole: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some lines of a payload, and the number of the first."""

    first: int
    lines: bytes


class Division:
    """One payload of line protocol on its way to a collector.

    What the collector has taken or refused stays so when a request in between fails, and is not
    sent again. Lines that have arrived may be sent again as part of a half: they have the same
    series and time, so the collector keeps one of them.
    """

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self._pieces = deque([_Piece(0, payload.data)])
        self._requests = 0
        self._refused: list[_Piece] = []
        self._why = ""

    def write(self, post: Callable[[bytes], Rejection | None]) -> Refusal | None:
        """Bring all of it to the collector; what it will not take.

        Args:
            post: Makes one request with some lines; None when all of them were taken.

        Raises:
            OSError: A request came to nothing; call again.
        """
        while self._pieces and self._requests < MOST_REQUESTS:
            piece = self._pieces[0]
            rejection = post(piece.lines)
            self._pieces.popleft()
            self._requests += 1
            if rejection:
                self._why = self._why or rejection.why
                self._reject(piece, rejection)
        if self._pieces:
            undecided = sum(piece.lines.count(b"\n") for piece in self._pieces)
            self._why += f" ({undecided} of them not told apart after {MOST_REQUESTS} requests)"
            self._refused += self._pieces
            self._pieces.clear()
        return self._refusal() if self._refused else None

    def _reject(self, piece: _Piece, rejection: Rejection) -> None:
        middle = 0 if rejection.whole else _middle(piece.lines)
        if middle:
            before, behind = piece.lines[:middle], piece.lines[middle:]
            second = piece.first + before.count(b"\n")
            self._pieces += _Piece(piece.first, before), _Piece(second, behind)
        else:
            self._refused.append(piece)

    def _refusal(self) -> Refusal:
        numbers = [
            number
            for piece in self._refused
            for number in range(piece.first, piece.first + piece.lines.count(b"\n"))
        ]
        octets = sum(len(piece.lines) for piece in self._refused)
        return Refusal(self.payload.part(numbers), self._why, octets)


def _middle(lines: bytes) -> int:
    """Where the line begins that is nearest behind the middle of LINES; 0: it is one line."""
    middle = len(lines) // 2
    after = lines.find(b"\n", middle) + 1
    return after if after < len(lines) else lines.rfind(b"\n", 0, middle) + 1
