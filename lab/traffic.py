# SPDX-License-Identifier: Apache-2.0
"""Real traffic between two namespaces, one flow each, whose size on the wire is known exactly.

UDP and ICMP are known by construction: one call, one packet. A TCP connection is the kernel's own;
what it sent is read from its socket (TCP_INFO) after both sides have closed.
All bytes are those of a wire: Ethernet header (14) and everything behind it, without FCS.
The links must not have offloads, else the kernel sends segments larger than a packet.
"""

import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from lab.namespace import Namespace

ETHERNET = 14  # bytes
IP_HEADER = {socket.AF_INET: 20, socket.AF_INET6: 40}  # bytes
UDP_HEADER = ICMP_HEADER = 8  # bytes
TCP_HEADER = 20 + 12  # bytes, with the timestamps option (RFC 7323) padded to 12
TCP_SYN_HEADER = 20 + 20  # bytes, with MSS, SACK permitted, timestamps, window scale
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}  # RFC 792, RFC 4443
TCP_CLOSE = 7  # linux/tcp_states.h
DEADLINE = 20.0  # seconds to connect and to close


@dataclass(frozen=True, slots=True)
class Sent:
    """A flow as its sender knows it.

    Attributes:
        protocol: `udp`, `tcp`, `icmp` or `icmpv6`.
        src_ip: Sender's address.
        dst_ip: Receiver's address.
        src_port: Sender's port; none for ICMP.
        dst_port: Receiver's port; none for ICMP.
        packets: Sent from `src_ip` to `dst_ip`.
        bytes: The same packets on the wire.
    """

    protocol: str
    src_ip: str
    dst_ip: str
    src_port: int | None
    dst_port: int | None
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How a generator sends.

    Attributes:
        packets: How many (for TCP: messages).
        rate: Packets per second, evenly spaced.
        payload: Bytes of payload of each packet, taken in turn again and again.
        stop: Set from outside to end early.
        steps: Of the number (32 bits, big-endian) in front of each payload, taken in turn; without
            steps the payload is all zero. Only of UDP.
    """

    packets: int
    rate: float
    payload: Sequence[int] = (512,)
    stop: threading.Event | None = None
    steps: Sequence[int] = ()

    def sizes(self) -> Iterator[int]:
        """The payload size of each packet, yielded when it is time to send it."""
        start = time.monotonic()
        stop = self.stop or threading.Event()
        for number, size in zip(range(self.packets), itertools.cycle(self.payload)):
            wait = start + number / self.rate - time.monotonic()
            if stop.wait(wait) if wait > 0 else stop.is_set():
                return
            yield size


def udp(
    sender: Namespace,
    receiver: Namespace,
    src_ip: str,
    dst_ip: str,
    pace: Pace,
    *,
    closed: bool = False,
) -> Sent:
    """Sends datagrams to a bound socket, or to a CLOSED port; returns after the last one."""
    family = _family(dst_ip)
    with (
        receiver.socket(family, socket.SOCK_DGRAM) as there,
        sender.socket(family, socket.SOCK_DGRAM) as here,
    ):
        there.bind((dst_ip, 0))
        here.bind((src_ip, 0))
        target = there.getsockname()
        if closed:
            there.close()
        packets = payload = number = 0
        steps = itertools.cycle(pace.steps)
        for size in pace.sizes():
            number += next(steps, 0)
            front = struct.pack("!I", number) if pace.steps else b""
            payload += here.sendto(front + bytes(size - len(front)), target)
            packets += 1
        return Sent(
            "udp",
            src_ip,
            dst_ip,
            here.getsockname()[1],
            target[1],
            packets,
            payload + packets * (ETHERNET + IP_HEADER[family] + UDP_HEADER),
        )


def icmp(sender: Namespace, src_ip: str, dst_ip: str, pace: Pace) -> Sent:
    """Sends echo requests, which the receiver's kernel answers; returns after the last one."""
    family = _family(dst_ip)
    name, number = (
        ("icmp", socket.IPPROTO_ICMP)
        if family == socket.AF_INET
        else ("icmpv6", socket.IPPROTO_ICMPV6)
    )
    with sender.socket(family, socket.SOCK_RAW, number) as here:
        here.bind((src_ip, 0))
        here.connect((dst_ip, 0))
        packets = length = 0
        for size in pace.sizes():
            header = struct.pack("!BxHHH", ECHO_REQUEST[family], 0, 1, packets & 0xFFFF)
            if family == socket.AF_INET:  # for IPv6 the kernel fills in the checksum
                header = header[:2] + _checksum(header) + header[4:]
            length += here.send(header + bytes(size))
            packets += 1
        total = length + packets * (ETHERNET + IP_HEADER[family])
        return Sent(name, src_ip, dst_ip, None, None, packets, total)


def tcp(sender: Namespace, receiver: Namespace, src_ip: str, dst_ip: str, pace: Pace) -> Sent:
    """Sends messages over one connection to a reader; returns when both sides have closed.

    Each message is written at once (TCP_NODELAY), and travels as one segment while the connection
    keeps up. The receiver closes first, so that every segment of the sender, the last included,
    leaves from its full socket, which counts it; in TIME_WAIT the kernel does not count.

    Raises:
        TimeoutError: When the connection does not open or close.
    """
    family = _family(dst_ip)
    with receiver.socket(family, socket.SOCK_STREAM) as listener:
        listener.settimeout(DEADLINE)
        listener.bind((dst_ip, 0))
        listener.listen(1)
        with sender.socket(family, socket.SOCK_STREAM) as here:
            here.settimeout(DEADLINE)
            here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            here.bind((src_ip, 0))
            here.connect(listener.getsockname())
            there, _ = listener.accept()
            with there:
                there.settimeout(DEADLINE)
                reader = threading.Thread(target=_drain, args=(there,), daemon=True)
                reader.start()
                for size in pace.sizes():
                    here.sendall(bytes(size))
                there.shutdown(socket.SHUT_WR)
                while here.recv(1):
                    pass
                here.shutdown(socket.SHUT_WR)
                reader.join(DEADLINE)
            packets, payload = _closed_tcp(here)
            headers = packets * (ETHERNET + IP_HEADER[family] + TCP_HEADER)
            return Sent(
                "tcp",
                src_ip,
                dst_ip,
                here.getsockname()[1],
                listener.getsockname()[1],
                packets,
                payload + headers + TCP_SYN_HEADER - TCP_HEADER,
            )


def _drain(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def _closed_tcp(connection: socket.socket) -> tuple[int, int]:
    """Segments and payload bytes that a connection sent, repeated ones included, once it is closed.

    See: struct tcp_info in linux/tcp.h (tcpi_state, tcpi_segs_out, tcpi_bytes_sent).
    """
    deadline = time.monotonic() + DEADLINE
    while True:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        if info[0] == TCP_CLOSE:
            segments: int = struct.unpack_from("=I", info, 136)[0]
            payload: int = struct.unpack_from("=Q", info, 200)[0]
            return segments, payload
        if time.monotonic() > deadline:
            raise TimeoutError(f"the TCP connection did not close: state {info[0]}")
        time.sleep(0.001)


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(ip).version == 4 else socket.AF_INET6  # noqa: PLR2004


def _checksum(header: bytes) -> bytes:
    """The Internet checksum of a header whose payload is all zero. See: RFC 1071."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
