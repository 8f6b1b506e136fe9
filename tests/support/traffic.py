# SPDX-License-Identifier: Apache-2.0
"""Real traffic over a wire between two namespaces."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Self

import tap

from lab.loading import load
from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4 = ("192.0.2.1", "192.0.2.2")
V6 = ("2001:db8::1", "2001:db8::2")
INBOUND = f"dst host {V4[1]} or dst host {V6[1]}"
"""What tcpdump sees coming in at the receiver."""

# Receive packet steering: all packets that arrive go through the queue of one CPU, so that whoever
# looks at them there sees them in the same order. See: Documentation/networking/scaling.rst
_ONE_QUEUE = "mount -t sysfs none /sys && echo 1 > /sys/class/net/wire0/queues/rx-0/rps_cpus"

# Segments of the machine's own TCP carry the time at which they are to depart, in place of which
# no receive timestamp is taken. A real wire does not carry it over.
_FORGET_DEPARTURE = """
#include <uapi/linux/bpf.h>
int forget_departure(struct __sk_buff *skb)
{
	bpf_skb_set_tstamp(skb, 0, BPF_SKB_TSTAMP_UNSPEC);
	return -1;
}
"""

_BURST = 32  # packets of each sender, one right after the other
_PAUSE = 0.002  # seconds: without it, packets leave no time for what is started meanwhile


@functools.cache
def _forget_departure() -> int:
    """The program, loaded once."""
    program = Program("forget_departure", "SCHED_CLS")
    objects = load(Source(_FORGET_DEPARTURE, (program,), ()))
    return objects.programs[program.name]


class Wire:
    """Two namespaces, `sender` and `receiver`, and interface `wire0` in each, joined.

    What the sender sends gets its receive timestamp from the receiver, as behind a real wire, and
    a capture sees it in the same order as a kernel program, whichever CPU sends.
    """

    def __init__(self, *, offload: bool = False) -> None:
        self.sender, self.receiver = Namespace(), Namespace()
        veth(self.sender, "wire0", self.receiver, "wire0", ipv4=V4, ipv6=V6, offload=offload)
        for namespace in (self.sender, self.receiver):
            namespace.run("unshare", "--mount", "sh", "-c", _ONE_QUEUE)
        with self.sender.entered():
            self._forget = attach.attach(
                _forget_departure(), interfaces()["wire0"], attach.Direction.EGRESS
            )
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the namespaces and the sockets go."""
        for kept in self._open:
            kept.close()
        self._forget.detach()
        self.sender.close()
        self.receiver.close()

    def udp(self, family: int, port: int) -> socket.socket:
        """A socket that sends to PORT on the other side, where somebody listens."""
        address = V6[1] if family == socket.AF_INET6 else V4[1]
        listener = self.receiver.socket(family, socket.SOCK_DGRAM)
        listener.bind((address, port))
        sender = self.sender.socket(family, socket.SOCK_DGRAM)
        sender.connect((address, port))
        self._open += [listener, sender]
        return sender

    def tcp(self, family: int, port: int) -> tuple[socket.socket, socket.socket]:
        """A connection from the sender's side: its two ends."""
        address = V6[1] if family == socket.AF_INET6 else V4[1]
        listener = self.receiver.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        ours = self.sender.socket(family, socket.SOCK_STREAM)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ours.connect((address, port))
        theirs, _ = listener.accept()
        self._open += [listener, ours, theirs]
        return ours, theirs

    def ping(self, family: int) -> socket.socket:
        """A socket that sends ICMP echo requests by `send(request)`."""
        protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
        sender = self.sender.socket(family, socket.SOCK_RAW, protocol)
        sender.connect((V6[1] if family == socket.AF_INET6 else V4[1], 0))
        self._open.append(sender)
        return sender

    def settle(self) -> None:
        """Wait until nothing has passed for longer than an acknowledgement may be delayed."""
        before, since = self.receiver.counters("wire0"), time.monotonic()
        while time.monotonic() - since < 0.3:
            time.sleep(0.02)
            now = self.receiver.counters("wire0")
            if now != before:
                before, since = now, time.monotonic()


@contextlib.contextmanager
def bursts(*senders: socket.socket) -> Iterator[None]:
    """Meanwhile each sends bursts of packets of many sizes."""
    done = threading.Event()

    def send() -> None:
        number = 0
        while not done.wait(_PAUSE):
            for _ in range(_BURST):
                for sender in senders:
                    sender.send(bytes(number % 1000))
                number += 1

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        done.set()
        sending.join()


def echo_request(family: int, sequence: int, size: int) -> bytes:
    """An ICMP echo request with SIZE bytes of data (RFC 792, RFC 4443)."""
    kind = 128 if family == socket.AF_INET6 else 8
    message = struct.pack(">BBHHH", kind, 0, 0, 0x7654, sequence) + bytes(size)
    if family == socket.AF_INET6:
        return message  # the kernel fills the checksum in
    padded = message + bytes(len(message) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return message[:2] + struct.pack(">H", checksum) + message[4:]


def paced(seconds: float, gap: float, send: Callable[[int], object], seed: int) -> None:
    """Call SEND about every GAP seconds, unevenly, but never close to a grid line."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not secrets
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.2, 1.8) * gap)
        tap.wait_past_line()
        send(number)
        number += 1


def together(*drives: Callable[[], None]) -> None:
    """Run DRIVES at the same time, each to its end."""
    threads = [threading.Thread(target=drive) for drive in drives]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
