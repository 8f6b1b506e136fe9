# SPDX-License-Identifier: Apache-2.0
"""From options to one frozen `Settings`, every value checked."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from trapstream_vtap import privileges
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.configfile import SEQUENCE_THRESHOLD
from trapstream_vtap.errors import UsageError
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.words import nearest

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
MOST_OFFSET = 65533
"""No payload is longer than 65,535 bytes, and a number takes two of them at the least."""
SEQUENCE_BITS = (16, 32, 64)
JSON_LINE_LIMIT = 60_000
"""Telegraf's socket listener reads lines of at most 64 KiB by default."""

DIRECTIONS = {
    "ingress": (Direction.INGRESS,),
    "egress": (Direction.EGRESS,),
    "both": (Direction.INGRESS, Direction.EGRESS),
}

PROBES = ("flows", "drops", "traps")
"""What can be streamed."""

HOOKS = ("tc", "xdp", "socket")
"""Where the kernel program sees packets."""

TUNNELS = ("vxlan", "geneve", "gre", "erspan", "gtpu", "ipip")
"""What may be looked into."""


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on; times in ns, sizes in bytes.

    Args:
        interfaces: Those of the wanted ones that are there.
        gone: Names of the others.
        device: What the tag says; None: what follows from the way to the first sink.
        selected: Names of the interfaces asked for; none: all.
        unique: Equal drops are counted together for so long; None: most go one by one.
    """

    sinks: tuple[Address, ...]
    interfaces: tuple[Interface, ...]
    device: str | None
    format: str = "influx"
    timestamp: str = "unix"
    interval: int = NS
    jitter_interval: int | None = None
    batch_size: int = 5000
    directions: tuple[Direction, ...] = (Direction.INGRESS,)
    hook: str = "tc"
    decapsulate: tuple[str, ...] = ()
    promiscuous: bool = False
    gone: tuple[str, ...] = ()
    user: str = "nobody"
    key: tuple[str, ...] = DEFAULT_KEY
    bits: bool = False
    flow_table_size: int = 65536
    max_datagram: int = 1400
    max_memory: int = 64 << 20
    token_file: str | None = None
    kafka_config: str | None = None
    file_size: int = 100 << 20
    file_age: float | None = None
    file_keep: int = 10
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    spool: Path | None = None
    spool_size: int = 1 << 30
    duration: float | None = None
    verbose: bool = False
    health: tuple[str, int] | None = None
    metrics: tuple[str, int] | None = None
    metrics_flows: int = 100
    log_data: bool = False
    rules: tuple[Rule, ...] = ()
    hidden: frozenset[str] = frozenset()
    sequence: bool = False
    tcp_sequence: str = "stream"
    offset: int | None = None
    pattern: int | None = None
    sequence_bits: int = 32
    sequence_order: str = "big"
    sequence_threshold: int = SEQUENCE_THRESHOLD
    max_events: int = 1000
    probes: tuple[str, ...] = ("flows",)
    selected: tuple[str, ...] = ()
    unique: int | None = None
    drop_reasons: tuple[str, ...] = ()
    drop_table_size: int = 1024
    trap_tags: str = "default"
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
    def names(self) -> tuple[str, ...]:
        """Of all interfaces wanted, those that are not there included."""
        return (*(interface.name for interface in self.interfaces), *self.gone)

    @property
    def sequences(self) -> bool:
        """Whether sequence numbers are checked."""
        return self.sequence or self.offset is not None


_RELOADED = frozenset(
    (
        *("interfaces", "gone", "rules", "hidden", "verbose"),
        *("key", "decapsulate", "bits", "flow_table_size", "interval", "jitter_interval"),
        *("sequence", "tcp_sequence", "offset", "pattern", "sequence_bits", "sequence_order"),
        *("sequence_threshold", "max_events", "stop_gap", "expected_gap", "smoothed_jitter"),
    )
)
"""Settings that a running program takes when the configuration is read again; no others."""

_OF_DROPS = frozenset(("interval", "max_events"))
"""Of these, those that the programs for drops and traps, which stay, are made from, too."""

_SAID = {"selected": "interfaces", "promiscuous": "promiscuous mode"}


def fixed_changes(present: Settings, chosen: Settings) -> list[str]:
    """What CHOSEN would change that a running program cannot, in words."""
    taken = _RELOADED if present.probes == ("flows",) else _RELOADED - _OF_DROPS
    return [
        _SAID.get(each.name, each.name.replace("_", " "))
        for each in fields(Settings)
        if each.name not in taken and getattr(present, each.name) != getattr(chosen, each.name)
    ]


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


def check_sinks(sinks: Sequence[Address], *, needed: bool) -> tuple[Address, ...]:
    """SINKS, if there are any or none is NEEDED, each only once, and their names can be names.

    Whether a name has an address by now is another matter: it may have one in a minute.

    Raises:
        UsageError: It is not so.
    """
    if not sinks and needed:
        raise UsageError(
            "Say where to stream to: COLLECTOR_IP COLLECTOR_PORT, --sink URL, or --metrics."
        )
    for number, sink in enumerate(sinks):
        if sink in sinks[:number]:
            raise UsageError(f"{sink} is there twice: a record would be sent there twice.")
        for host, _ in sink.hosts:
            try:
                host.encode("idna")
            except UnicodeError as error:
                raise UsageError(
                    f"The collector's name {host!r} is none that a host can have: give a name or "
                    "an IP address."
                ) from error
    return tuple(sinks)


def check_tls(settings: Settings) -> None:
    """What is said of TLS goes with the sinks.

    Raises:
        UsageError: It does not.
    """
    schemes = {sink.scheme for sink in settings.sinks}
    if settings.tls and "udp" in schemes:
        raise UsageError("--tls: there is no TLS over UDP here; use TCP.")
    if settings.tls and "tcp" not in schemes:
        raise UsageError("--tls is for sinks over TCP, and there is none.")
    if settings.tls or "https" in schemes:
        return
    for name in ("tls_ca", "tls_cert", "tls_key"):
        if getattr(settings, name):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for --tls and https sinks, and there are none.")


def listen_address(text: str) -> tuple[str, int]:
    """ADDRESS:PORT taken apart, an IPv6 address in brackets.

    Raises:
        UsageError: It is not that.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    with contextlib.suppress(ValueError):
        if port.isdecimal() and int(port) < 1 << 16 and (":" in bare) == (bare != host):
            return str(ipaddress.ip_address(bare)), int(port)
    raise UsageError(f"{text!r} is not an IP address and a port, such as 127.0.0.1:8081.")


def key_fields(text: str) -> tuple[str, ...]:
    """The fields named in TEXT, comma-separated, in the order in which the records have them.

    Raises:
        UsageError: There is no such field.
    """
    return _some(text, KEY_FIELDS, "key field")


def tunnels(text: str) -> tuple[str, ...]:
    """The kinds of tunnel named in TEXT, comma-separated, in the order of `TUNNELS`.

    Raises:
        UsageError: There is no such kind.
    """
    return _some(text, TUNNELS, "tunnel")


def probes(text: str) -> tuple[str, ...]:
    """The probes named in TEXT, comma-separated, in the order of `PROBES`.

    Raises:
        UsageError: There is no such probe, or none is named.
    """
    names = _some(text, PROBES, "probe")
    if not names:
        raise UsageError(f"Name at least one of {', '.join(PROBES)}.")
    return names


def drop_reasons(texts: Sequence[str], chosen: Sequence[str]) -> tuple[str, ...]:
    """The drop reasons named in TEXTS, each comma-separated, in the kernel's words.

    Raises:
        UsageError: Drops are not among the CHOSEN probes. Which reasons there are, the kernel says.
    """
    names = [word for text in texts for word in split(text)]
    if names and "drops" not in chosen:
        raise UsageError("--drop-reasons is for --probe drops.")
    plain = [name if name == "all" else name.upper() for name in names]
    return tuple(dict.fromkeys(name.removeprefix("SKB_DROP_REASON_") for name in plain))


def _some(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Those of KNOWN that TEXT names, in their order; WHAT one of them is called in messages."""
    names = split(text)
    for name in names:
        if name not in known:
            raise UsageError(
                f"There is no {what} {name!r}; there are {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(name for name in known if name in names)


def check(settings: Settings) -> Settings:
    """SETTINGS, whose parts go together.

    Raises:
        UsageError: They do not.
    """
    privileges.find(settings.user)
    if settings.hook == "xdp" and settings.directions != DIRECTIONS["ingress"]:
        raise UsageError(
            "--hook xdp sees only what comes in: use --direction ingress, or --hook tc."
        )
    if settings.timestamp != "unix" and settings.format != "json":
        raise UsageError("--timestamp is for -f json: line protocol has times of its own.")
    if "tunnel_id" in settings.key and not settings.decapsulate:
        raise UsageError(
            "--key tunnel_id without --decapsulate: say which tunnels to look into, any of "
            f"{','.join(TUNNELS)}."
        )
    return settings


def split(text: str) -> Sequence[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]
