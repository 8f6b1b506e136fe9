# SPDX-License-Identifier: Apache-2.0
"""Anonymous network namespaces, and quiet links between them.

A namespace here has no name and no process of its own: it lives as long as the file descriptor
that this process holds and as what runs inside. All of that ends with this process, even after
SIGKILL, and the kernel then removes the namespace with everything in it.
"""

import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CLONE_NEWNET = 0x40000000  # linux/sched.h

_MORTAL = ("setpriv", "--pdeathsig", "KILL", "--")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel counted on an interface: packets, and bytes with Ethernet header."""

    rx_packets: int
    rx_bytes: int
    tx_packets: int
    tx_bytes: int


class Namespace:
    """A network namespace, loopback up; a context manager that lets it go.

    Raises:
        PermissionError: When not root.

    See: network_namespaces(7).
    """

    def __init__(self) -> None:
        own = _open_own()
        try:
            _check(_libc.unshare(CLONE_NEWNET))
            try:
                self.fd = _open_own()
            finally:
                _check(_libc.setns(own, CLONE_NEWNET))
        finally:
            os.close(own)
        self.run("ip", "link", "set", "lo", "up")

    @classmethod
    def current(cls) -> Self:
        """The namespace that the calling thread is in, as an object like any other."""
        namespace = cls.__new__(cls)
        namespace.fd = _open_own()
        return namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the namespace go; the kernel removes it when nothing runs inside any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Puts the calling thread, and no other, into the namespace for a while.

        What is made meanwhile stays inside: sockets, child processes, threads. Files under
        /proc/sys/net and /proc/thread-self/net are those of the namespace; /sys/class/net is not.
        """
        own = _open_own()
        try:
            _check(_libc.setns(self.fd, CLONE_NEWNET))
            try:
                yield
            finally:
                _check(_libc.setns(own, CLONE_NEWNET))
        finally:
            os.close(own)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new socket inside; it may be used from anywhere."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(
        self, *command: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside to its end, output captured as text.

        Args:
            command: Program and arguments.
            check: Whether a non-zero exit raises.
            options: As of `subprocess.run`.

        Raises:
            subprocess.CalledProcessError: With what the command said as a note.
        """
        with self.entered():
            done = subprocess.run(
                [*_MORTAL, *command],
                check=False,
                **{"capture_output": True, "text": True, **options},
            )
        if check and done.returncode:
            error = subprocess.CalledProcessError(
                done.returncode, command, done.stdout, done.stderr
            )
            error.add_note(str(done.stderr))
            raise error
        return done

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command inside; the kernel kills it when the calling thread ends.

        The process has the command's own pid. A command that gives up root loses this tie
        (prctl(2), PR_SET_PDEATHSIG), unless it takes care to keep it.

        Args:
            command: Program and arguments.
            options: As of `subprocess.Popen`.
        """
        with self.entered():
            return subprocess.Popen(_mortal(command), **options)

    def counters(self, ifname: str) -> Counters:
        """The kernel's counters of an interface inside.

        Raises:
            KeyError: There is no such interface.

        See: dev_seq_printf_stats() in net/core/net-procfs.c
        """
        with self.entered():
            _, _, *lines = Path("/proc/thread-self/net/dev").read_bytes().splitlines()
        named = (line.rpartition(b":") for line in lines)
        rows = {os.fsdecode(name.strip()): row.split() for name, _, row in named}
        rx_bytes, rx_packets, *_, tx_bytes, tx_packets = map(int, rows[ifname][:10])
        return Counters(rx_packets, rx_bytes, tx_packets, tx_bytes)


def veth(
    a: Namespace,
    name_a: str,
    b: Namespace,
    name_b: str,
    *,
    ipv4: tuple[str, str] | None = None,
    ipv6: tuple[str, str] | None = None,
    offload: bool = False,
) -> None:
    """Joins two namespaces by a veth pair on which the kernel itself never says a word.

    No ARP, neighbour discovery, duplicate address detection, router solicitation or multicast
    report: the interfaces are NOARP, have no link-local address, and know each other's MAC
    address for good. What an interface counts is exactly the traffic that was sent on purpose.

    Args:
        a: Namespace of one end.
        name_a: Interface name of that end.
        b: Namespace of the other end.
        name_b: Interface name of that end.
        ipv4: Addresses of the two ends, without prefix length; each end routes to the other's.
        ipv6: The same for IPv6.
        offload: Whether to leave segmentation, merging and checksums to the (virtual) hardware,
            as the kernel does by default. Without, an interface counts what would be on a wire.
    """
    peer = ("peer", "name", name_b, "netns", f"/proc/{os.getpid()}/fd/{b.fd}")
    macs = [f"02:{secrets.token_bytes(5).hex(':')}" for _ in range(2)]  # administered locally
    first, second = (("address", mac) for mac in macs)
    a.run("ip", "link", "add", name_a, *first, "type", "veth", *peer, *second)
    ends = ((a, name_a), (b, name_b))
    for here, (namespace, name) in enumerate(ends):
        there = 1 - here
        commands = [f"link set {name} arp off addrgenmode none", f"link set {name} up"]
        for pair, flags in ((ipv4, ""), (ipv6, "nodad")):
            if pair:
                commands += [
                    f"addr add {pair[here]} peer {pair[there]} dev {name} {flags}",
                    f"neigh add {pair[there]} lladdr {macs[there]} dev {name} nud permanent",
                ]
        if not offload:
            features = ("tso", "gso", "gro", "tx", "rx")
            switches = [word for feature in features for word in (feature, "off")]
            namespace.run("ethtool", "-K", name, *switches)
        namespace.run("ip", "-batch", "-", input="\n".join(commands))


def _open_own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _mortal(command: tuple[str, ...]) -> list[str]:
    # The shell sees to it that a parent which died before the tie was made is noticed too.
    return [*_MORTAL, "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()), *command]


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"network namespace: {os.strerror(number)}")
