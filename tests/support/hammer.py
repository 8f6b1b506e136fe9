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
_CELL = struct.Struct("=Q")
_DEADLINE = 30.0  # seconds


def ends() -> tuple[End, End]:
    """Of the connection; data goes from the first to the second."""
    here, there = FRAMINGS["IPv4"].addresses()
    return End(here, 4000), End(there, 443)


def frame(number: int, *, data: bool) -> bytes:
    """The piece of data of that NUMBER, or its acknowledgement."""
    at = START + number * LENGTH
    if data:
        step = Step(True, "A", at % TOP, LENGTH, 1)  # noqa: FBT003 - leaves its sender
    else:
        step = Step(False, "A", 1, 0, (at + LENGTH) % TOP)  # noqa: FBT003 - the other way
    return _MACS + FRAMINGS["IPv4"].frame(ends(), step)


def hammer(namespace: Namespace, name: str, *, in_step: bool) -> list[int]:
    """Some seconds of it into an interface; how many pieces each has sent or acknowledged."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    assert len(cpus) == 2
    with tempfile.NamedTemporaryFile() as shared:
        shared.write(bytes(2 * _CELL.size))
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
        said = [process.communicate(timeout=SECONDS + _DEADLINE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    return [int(number) for number in said]


def _in_step(end: socket.socket, cells: memoryview, which: int) -> int:
    """Piece by piece: the first says when it is there, the second when it has acknowledged it."""
    mine, other = cells[which : which + 1], cells[1 - which : 2 - which]
    number, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until or (which == 1 and other[0] > number):
        if which == 1:
            while other[0] <= number:
                if time.monotonic() > until + 1:
                    return number
        else:
            end.send(frame(number, data=True))
            mine[0] = number + 1
        end.send(frame(number, data=False))
        number += 1
        mine[0] = number
        while which == 0 and other[0] < number:
            if time.monotonic() > until + 1:
                return number
    return number


def _at_once(end: socket.socket) -> int:
    """Data and acknowledgements, whatever the other does."""
    number, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        number = int((time.monotonic() % 1000) * 20_000)  # the same for both, about
        end.send(frame(number, data=True))
        end.send(frame(number, data=False))
    return number


def main(name: str, shared: str, which: int, cpu: int, *, in_step: bool) -> None:
    """One of the two."""
    os.sched_setaffinity(0, {cpu})
    with (
        Path(shared).open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as memory,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as end,
    ):
        end.bind((name, 0))
        if in_step:
            with memoryview(memory) as view, view.cast("Q") as cells:
                number = _in_step(end, cells, which)
        else:
            number = _at_once(end)
    print(number)  # noqa: T201 - to who has started it


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), in_step=sys.argv[5] == "1")
