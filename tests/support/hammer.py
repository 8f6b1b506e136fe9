# SPDX-License-Identifier: Apache-2.0
"""Two processes on two CPUs that send frames of one connection at the same time.

This file is their program, too. In step, one of them sends a piece of data, and both acknowledge
it at once; else both send data and acknowledgements as fast as they can.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from framings import FRAMINGS
from roundtripcases import TOP, Step
from roundtrips import End

if TYPE_CHECKING:
    from lab.namespace import Namespace

SECONDS = 3.0
START = TOP - 100_000
"""The first number: that they begin again is a part of it."""

LENGTH = 10
_MACS = bytes.fromhex("020000000002 020000000001")
_NUMBER = struct.Struct(">I")
_SENT, _ANSWERED, _READY, _OVER, _CELLS = 0, 1, 2, 4, 5
"""Where in the memory of both what stands: two are ready, each for itself."""

_SEQUENCE_AT, _ACKNOWLEDGEMENT_AT = 14 + 20 + 4, 14 + 20 + 8
_DEADLINE = 30.0  # seconds


def ends() -> tuple[End, End]:
    """Of the connection; data goes from the first to the second."""
    here, there = FRAMINGS["IPv4"].addresses()
    return End(here, 4000), End(there, 443)


class _Frames:
    """Pieces of data and their acknowledgements, made quickly."""

    def __init__(self) -> None:
        wrap = FRAMINGS["IPv4"].frame
        data = Step(leaves=True, flags="A", sequence=0, length=LENGTH, acknowledges=1)
        answer = Step(leaves=False, flags="A", sequence=1, length=0, acknowledges=0)
        self._data = bytearray(_MACS + wrap(ends(), data))
        self._answer = bytearray(_MACS + wrap(ends(), answer))

    def data(self, number: int) -> bytearray:
        """The piece of that NUMBER."""
        _NUMBER.pack_into(self._data, _SEQUENCE_AT, (START + number * LENGTH) % TOP)
        return self._data

    def answer(self, number: int) -> bytearray:
        """What acknowledges it."""
        _NUMBER.pack_into(self._answer, _ACKNOWLEDGEMENT_AT, (START + (number + 1) * LENGTH) % TOP)
        return self._answer


def hammer(namespace: Namespace, name: str, *, in_step: bool) -> list[int]:
    """Some seconds of it into an interface; how many pieces each has sent or acknowledged."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    assert len(cpus) == 2
    with tempfile.NamedTemporaryFile() as shared:
        shared.write(bytes(_CELLS * 8))
        shared.flush()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        both = [
            namespace.popen(
                *(sys.executable, __file__, name, shared.name, str(which), str(cpu)),
                str(int(in_step)),
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            for which, cpu in enumerate(cpus)
        ]
        try:
            said = [process.communicate(timeout=SECONDS + _DEADLINE)[0] for process in both]
        finally:
            for process in both:
                process.kill()
    assert [process.returncode for process in both] == [0, 0]
    return [int(number) for number in said]


def _meet(cells: memoryview, which: int) -> None:
    """Return when both are there."""
    cells[_READY + which] = 1
    while not cells[_READY + 1 - which]:
        time.sleep(0.001)


def _leads(end: socket.socket, cells: memoryview) -> int:
    """Send a piece, say so, acknowledge it, wait until the other has done so, too; and the next."""
    frames, number, until = _Frames(), 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        end.send(frames.data(number))
        number += 1
        cells[_SENT] = number
        end.send(frames.answer(number - 1))
        while cells[_ANSWERED] < number:
            pass
    cells[_OVER] = 1
    return number


def _follows(end: socket.socket, cells: memoryview) -> int:
    """Acknowledge each piece as soon as it is there."""
    frames, number = _Frames(), 0
    while not cells[_OVER]:
        if cells[_SENT] > number:
            end.send(frames.answer(number))
            number += 1
            cells[_ANSWERED] = number
    return number


def _at_once(end: socket.socket) -> int:
    """Data and acknowledgements, whatever the other does; both are at the same number, about."""
    frames, begun, until = _Frames(), 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        number = int(time.monotonic() % 1000 * 20_000)
        end.send(frames.data(number))
        end.send(frames.answer(number))
        begun += 1
    return begun


def main(name: str, shared: str, which: int, cpu: int, *, in_step: bool) -> None:
    """One of the two."""
    os.sched_setaffinity(0, {cpu})
    with (
        Path(shared).open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as end,
        memoryview(memory) as view,
        view.cast("Q") as cells,
    ):
        end.bind((name, 0))
        _meet(cells, which)
        number = (_leads, _follows)[which](end, cells) if in_step else _at_once(end)
    print(number)  # noqa: T201 - to who has started it


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), in_step=sys.argv[5] == "1")
