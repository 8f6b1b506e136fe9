# SPDX-License-Identifier: Apache-2.0
"""From options to one frozen `Settings`, every value checked."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.configfile import SEQUENCE_THRESHOLD
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.records import KEY_FIELDS, JitterInterval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.rules import Rule

NS = 1_000_000_000
DEFAULT_KEY = KEY_FIELDS[:5]
STOP_GAP_NS = 2 * NS
LONGEST_STOP_GAP = 3600
MOST_OFFSET = 65531
"""No payload is longer than 65,535 bytes, and a number takes four of them."""
JSON_LINE_LIMIT = 60_000
"""Telegraf's socket listener reads lines of at most 64 KiB by default."""

DIRECTIONS = {
    "ingress": (Direction.INGRESS,),
    "egress": (Direction.EGRESS,),
    "both": (Direction.INGRESS, Direction.EGRESS),
}


@dataclass(frozen=True)
class Collector:
    """Where the records go: the address resolved, for `socket.connect`."""

    family: socket.AddressFamily
    address: tuple[str, int]

    def __str__(self) -> str:
        """Host and port as a person writes them."""
        host, port = self.address[:2]
        return f"[{host}]:{port}" if self.family == socket.AF_INET6 else f"{host}:{port}"


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; times in ns, sizes in bytes."""

    collector: Collector
    interfaces: tuple[Interface, ...]
    device: str
    format: str = "influx"
    transport: str = "tcp"
    interval: int = NS
    jitter_interval: int | None = None
    batch_size: int = 5000
    directions: tuple[Direction, ...] = (Direction.INGRESS,)
    key: tuple[str, ...] = DEFAULT_KEY
    bits: bool = False
    flow_table_size: int = 65536
    max_datagram: int = 1400
    max_memory: int = 64 << 20
    duration: float | None = None
    verbose: bool = False
    rules: tuple[Rule, ...] = ()
    hidden: frozenset[str] = frozenset()
    sequence: bool = False
    tcp_sequence: str = "stream"
    offset: int | None = None
    pattern: int | None = None
    sequence_threshold: int = SEQUENCE_THRESHOLD
    max_events: int = 1000
    stop_gap: int = STOP_GAP_NS
    expected_gap: int | None = None
    smoothed_jitter: bool = False

    @property
    def jitter(self) -> JitterInterval:
        """The jitter interval beside the measuring interval."""
        if self.jitter_interval in (None, self.interval):
            return JitterInterval.SAME
        longer = self.jitter_interval > self.interval
        return JitterInterval.LONGER if longer else JitterInterval.SHORTER

    @property
    def intervals(self) -> tuple[int, int]:
        """The shorter and the longer one of measuring interval and jitter interval."""
        jitter = self.jitter_interval or self.interval
        return min(self.interval, jitter), max(self.interval, jitter)

    @property
    def sequences(self) -> bool:
        """Whether sequence numbers are checked."""
        return self.sequence or self.offset is not None


def check_intervals(interval: int, jitter_interval: int) -> None:
    """Both in ns: the grid of one must have the lines of the other.

    Raises:
        UsageError: Neither is a multiple of the other.
    """
    if max(interval, jitter_interval) % min(interval, jitter_interval):
        raise UsageError(
            f"--jitter-interval is {jitter_interval / NS:g} s and --interval {interval / NS:g} s: "
            "one of the two must be a whole multiple of the other."
        )


def resolve(host: str, port: int) -> Collector:
    """The collector's address.

    Raises:
        UsageError: HOST has none.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise UsageError(
            f"Cannot resolve the collector's name {host!r} ({why}): give an IP address, or check "
            "DNS."
        ) from error
    return Collector(socket.AddressFamily(family), address)  # type: ignore[arg-type]


def address_toward(collector: Collector) -> str:
    """The address that the kernel would send from, toward COLLECTOR.

    Raises:
        RunError: There is no route.
    """
    with socket.socket(collector.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(collector.address)
        except OSError as error:
            raise RunError(
                f"No route to the collector {collector} ({error.strerror}): say with --device-ip "
                "what the tag device shall be."
            ) from error
        return str(probe.getsockname()[0])


def key_fields(text: str) -> tuple[str, ...]:
    """The fields named in TEXT, comma-separated, in the order in which the records have them.

    Raises:
        UsageError: There is no such field.
    """
    names = split(text)
    for name in names:
        if name not in KEY_FIELDS:
            raise UsageError(f"There is no key field {name!r}; there are {', '.join(KEY_FIELDS)}.")
    return tuple(name for name in KEY_FIELDS if name in names)


def split(text: str) -> Sequence[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]
