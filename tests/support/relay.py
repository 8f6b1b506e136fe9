# SPDX-License-Identifier: Apache-2.0
"""A long way between two interfaces: what comes in at one goes out at the other, later, or never.

The relay is a process of its own in a namespace between; this file is its program, too. Segments
that the kernel has not cut to size yet (GSO) pass as they are.

See: packet(7), struct virtio_net_hdr in linux/virtio_net.h
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab.namespace import Namespace, veth

if TYPE_CHECKING:
    from collections.abc import Iterator

NS = 10**9
_ENDS = ("end0", "end1")
_SOL_PACKET = 263
_PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 15, 23  # linux/if_packet.h
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ETH_P_ALL = 3
_ROOM = 4 << 20  # bytes that wait for the relay
_LONGEST = 1 << 17


@dataclass(frozen=True)
class Way:
    """What happens to frames in one direction.

    Args:
        delay: Seconds that each takes, at least.
        jitter: Seconds that it may take longer; none overtakes another for that.
        loss: How many of 1,000 are lost, by chance.
        drop: Which are lost anyway: their numbers, the first is 0.
        hold: Which are late by so many more seconds, so that others overtake them.
    """

    delay: float = 0.01
    jitter: float = 0.0
    loss: int = 0
    drop: tuple[int, ...] = ()
    hold: tuple[tuple[int, float], ...] = ()


class Relay:
    """Joins two namespaces by interfaces as `lab.namespace.veth` does, a long way apart.

    Args:
        a: Namespace of one end.
        name_a: Its interface.
        b: Namespace of the other end.
        name_b: Its interface.
        there: From `a` to `b`.
        back: From `b` to `a`; as `there`, unless it is said.
        ipv4: As of `veth`.
        ipv6: As of `veth`.
        offload: As of `veth`.
    """

    def __init__(
        self,
        a: Namespace,
        name_a: str,
        b: Namespace,
        name_b: str,
        there: Way,
        back: Way | None = None,
        *,
        ipv4: tuple[str, str] | None = None,
        ipv6: tuple[str, str] | None = None,
        offload: bool = False,
    ) -> None:
        self._between = Namespace()
        for namespace, name, end in ((a, name_a, _ENDS[0]), (b, name_b, _ENDS[1])):
            veth(namespace, name, self._between, end, offload=offload)
        _address((a, name_a), (b, name_b), (ipv4, ipv6))
        ways = json.dumps([asdict(there), asdict(back or there)])
        self._process = self._between.popen(
            *(sys.executable, __file__, ways), stdout=subprocess.PIPE, env=_environment()
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"

    def __enter__(self) -> Self:
        """Made already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frames on their way are lost."""
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._between.close()


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Meanwhile this thread, and those that it starts, run on the processor of the relays.

    A packet has then gone by a program and a capture before another one does.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def mac(namespace: Namespace, name: str) -> str:
    """The address of an interface."""
    shown = json.loads(namespace.run("ip", "-j", "link", "show", name).stdout)
    return str(shown[0]["address"])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def _address(
    a: tuple[Namespace, str], b: tuple[Namespace, str], pairs: tuple[tuple[str, str] | None, ...]
) -> None:
    """Give the two ends their addresses; each knows the other's MAC address for good."""
    for here, (there, other) in enumerate(((a, b), (b, a))):
        namespace, name = there
        beyond = mac(*other)
        commands = []
        for pair, flags in zip(pairs, ("", "nodad"), strict=True):
            if pair:
                commands += [
                    f"addr add {pair[here]} peer {pair[1 - here]} dev {name} {flags}",
                    f"neigh add {pair[1 - here]} lladdr {beyond} dev {name} nud permanent",
                ]
        namespace.run("ip", "-batch", "-", input="\n".join(commands))


class _Direction:
    """Says when the frames of one direction go out."""

    def __init__(self, way: Way, seed: int) -> None:
        self._way = way
        self._chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
        self._numbers = itertools.count()
        self._last = 0
        self._hold = dict(way.hold)

    def due(self, now: int) -> int | None:
        """When the next frame goes out that came NOW (ns); None: never."""
        way, number = self._way, next(self._numbers)
        lost = self._chance.randrange(1000) < way.loss
        due = now + round((way.delay + self._chance.uniform(0, way.jitter)) * NS)
        if lost or number in way.drop:
            return None
        if number in self._hold:
            return due + round(self._hold[number] * NS)
        self._last = max(self._last, due)
        return self._last


def _open(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
        end.setsockopt(socket.SOL_SOCKET, option, _ROOM)
    end.settimeout(0)
    end.bind((name, _ETH_P_ALL))
    return end


def main(ways: list[Way]) -> None:
    """Until it is killed."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one order
    ends = [_open(name) for name in _ENDS]
    directions = [_Direction(way, seed) for seed, way in enumerate(ways)]
    waiting: list[tuple[int, int, int, bytes]] = []
    count = itertools.count()
    print("ready", flush=True)  # noqa: T201 - to who has started it
    while True:
        pause = max(0, waiting[0][0] - time.monotonic_ns()) / NS if waiting else None
        ready, _, _ = select.select(ends, [], [], pause)
        for end in ready:
            side = ends.index(end)
            for _ in range(64):
                try:
                    frame = end.recv(_LONGEST)
                except BlockingIOError:
                    break
                due = directions[side].due(time.monotonic_ns())
                if due is not None:
                    heapq.heappush(waiting, (due, next(count), 1 - side, frame))
        while waiting and waiting[0][0] <= time.monotonic_ns():
            _, _, side, frame = heapq.heappop(waiting)
            ends[side].send(frame)


if __name__ == "__main__":
    main([Way(**way) for way in json.loads(sys.argv[1])])
