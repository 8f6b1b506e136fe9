# SPDX-License-Identifier: Apache-2.0
"""From options to one frozen `Settings`, every value checked."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.configfile import SEQUENCE_THRESHOLD
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.records import KEY_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.rules import Rule
    from trapstream_vtap.sinks import Address

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
class Settings:
    """Everything that a run depends on; times in ns, sizes in bytes."""

    sinks: tuple[Address, ...]
    interfaces: tuple[Interface, ...]
    device: str
    format: str = "influx"
    interval: int = NS
    batch_size: int = 5000
    directions: tuple[Direction, ...] = (Direction.INGRESS,)
    key: tuple[str, ...] = DEFAULT_KEY
    bits: bool = False
    flow_table_size: int = 65536
    max_datagram: int = 1400
    max_memory: int = 64 << 20
    spool: Path | None = None
    spool_size: int = 1 << 30
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
    def sequences(self) -> bool:
        """Whether sequence numbers are checked."""
        return self.sequence or self.offset is not None


def check_sinks(sinks: Sequence[Address]) -> tuple[Address, ...]:
    """SINKS, if there are any, each only once, and their names have addresses.

    Raises:
        UsageError: It is not so.
    """
    if not sinks:
        raise UsageError("Say where to stream to: COLLECTOR_IP COLLECTOR_PORT, or --sink URL.")
    for number, sink in enumerate(sinks):
        if sink in sinks[:number]:
            raise UsageError(f"{sink} is there twice: a record would be sent there twice.")
        try:
            if sink.hosts:
                sink.resolve()
        except OSError as error:
            raise UsageError(
                f"Cannot resolve the collector's name {sink.hosts[0][0]!r} ({error.strerror}): "
                "give an IP address, or check DNS."
            ) from error
    return tuple(sinks)


def device_name(sinks: Sequence[Address]) -> str:
    """The address that the kernel would send from, toward the first of SINKS that has an address.

    Raises:
        RunError: There is no route.
    """
    remote = next((sink for sink in sinks if sink.hosts), None)
    if not remote:
        return socket.gethostname()
    family, address = remote.resolve()
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise RunError(
                f"No route to the collector {remote} ({error.strerror}): say with --device-ip "
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
