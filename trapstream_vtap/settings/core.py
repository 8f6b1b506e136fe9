# SPDX-License-Identifier: Apache-2.0
"""The settings that belong to no probe: what is measured at all, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trapstream_vtap import privileges
from trapstream_vtap.clock import NS
from trapstream_vtap.errors import UsageError
from trapstream_vtap.settings.kinds import (
    BOOLEAN,
    TEXT,
    Choice,
    Directory,
    Flag,
    Listen,
    Seconds,
    Whole,
    Words,
    switch,
    wrong,
)
from trapstream_vtap.settings.option import Key, Reload, derived, option

if TYPE_CHECKING:
    from pathlib import Path

    from trapstream_vtap.guest import Guest
    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.settings.address import Address

MIB = 1 << 20
JSON_LINE_LIMIT = 60_000
"""Telegraf's socket listener reads lines of at most 64 KiB by default."""
_MONITOR_PORT = 8080
_LONGEST_RUN = 100 * 366 * 86400
_LONGEST_DEVICE = 255


def _monitor(key: str, value: Any) -> dict[str, Any]:
    """Where metrics are served: a port, or whether they are."""
    if type(value) is not int:
        value = _MONITOR_PORT if switch(key, value) else None
    elif not 0 < value < 1 << 16:
        raise wrong(key, value, "give a port from 1 to 65535, or a boolean")
    return {"metrics": value and ("0.0.0.0", value)}  # noqa: S104 - as the original does


class Interval(Seconds):
    """The length of an interval."""

    def __init__(self) -> None:
        super().__init__(0.1, 3600)

    def internal(self, value: float) -> int:
        """In ns, with room for the two bits that a grid line carries in the kernel."""
        return round(value * NS) & ~3


_LOG_DATA = Key(
    "LOG_DATA",
    lambda key, value: {"log_data": switch(key, value)},
    BOOLEAN,
    "`true` writes the records of each run to a file, too",
)
_MONITOR_SERVER = Key(
    "MONITOR_SERVER",
    _monitor,
    {"anyOf": [BOOLEAN, {"type": "integer", "minimum": 1, "maximum": 65535}]},
    "`true`: Prometheus can scrape port 8080 of every IPv4 address, a number: that port",
)


@dataclass(frozen=True, kw_only=True)
class Core:
    """What every probe may know; times in ns, sizes in bytes.

    Args:
        selected: Names of the interfaces asked for, and patterns; none: all.
        probes: Names of those that run.
        interfaces: Those of the wanted ones that are there.
        gone: Names of the others.
        guest: What a probe has another one measure, and that one's records say.
        guests: Names of those that have no program of their own therefore.
        sinks: Where records go.
        device: What the tag says; None: what follows from the way to the first sink.
    """

    selected: tuple[str, ...] = option(
        "-i",
        "--interface",
        kind=Words(tuple),
        metavar="NAME",
        multiple=True,
        default=(),
        said="interfaces",
        help="Interface to measure, by name or alternative name; repeatable, or comma-separated. A "
        "pattern (eth*, ?lan0) stands for all that fit, now and later; with ! ahead (!docker*) for "
        "what is left out.  [default: all that are up, now and later, except loopback]",
    )
    probes: tuple[str, ...] = derived((), Reload.FIXED)
    interfaces: tuple[Interface, ...] = derived((), Reload.TAKEN)
    gone: tuple[str, ...] = derived((), Reload.TAKEN)
    guest: Guest | None = derived(None, Reload.DERIVED)  # noqa: RUF009 - a declaration
    guests: tuple[str, ...] = derived((), Reload.FIXED, said="records that probes share")
    format: str = option(
        "-f",
        "--format",
        kind=Choice(("influx", "json")),
        default="influx",
        help="InfluxDB line protocol, or JSON arrays.",
    )
    timestamp: str = option(
        "--timestamp",
        kind=Choice(("unix", "rfc3339")),
        default="unix",
        help="Times in JSON: ns since the epoch, an integer, of which some readers lose the last "
        "digits; or date and time, a string.",
    )
    transport: str = option(
        "--transport",
        kind=Choice(("tcp", "udp")),
        default="tcp",
        reload=Reload.DERIVED,
        help="How to reach COLLECTOR_IP.",
    )
    sinks: tuple[Address, ...] = option(
        "--sink",
        kind=TEXT,
        metavar="URL",
        multiple=True,
        default=(),
        help="Where to stream to, in place of COLLECTOR_IP or beside it; repeatable: "
        "tcp://host:port, udp://host:port, http://host:port?db=NAME, "
        "http://host:port?org=NAME&bucket=NAME, https://…, kafka://host:port,host:port/TOPIC, "
        "file:PATH, and - for standard output.  [default: none]",
    )
    token_file: str | None = option(
        "--token-file",
        kind=TEXT,
        metavar="FILE",
        help="Holds InfluxDB's token, or user:password, for all http and https sinks.  "
        "[default: the environment's INFLUX_TOKEN, if there]",
    )
    tls: bool = option(
        "--tls", kind=Flag(), default=False, help="TLS (1.2 or newer) for all tcp sinks."
    )
    tls_ca: str | None = option(
        "--tls-ca",
        kind=TEXT,
        metavar="FILE",
        help="Certificates of the authorities to trust, PEM.  [default: the system's]",
    )
    tls_cert: str | None = option(
        "--tls-cert",
        kind=TEXT,
        metavar="FILE",
        help="Our certificate, PEM, where the collector asks for one.  [default: none]",
    )
    tls_key: str | None = option(
        "--tls-key",
        kind=TEXT,
        metavar="FILE",
        help="Its private key, PEM.  [default: it is in the file of --tls-cert]",
    )
    kafka_config: str | None = option(
        "--kafka-config",
        kind=TEXT,
        metavar="FILE",
        help="Properties of librdkafka for all kafka sinks, one name=value a line: security, "
        "secrets, limits.  [default: none]",
    )
    file_size: int = option(
        "--file-size",
        kind=Whole(1, 1 << 20, MIB),
        metavar="MIB",
        default=100,
        help="Most that a file of file sinks takes; then it is put aside, under a name with date "
        "and time.",
    )
    file_age: float | None = option(
        "--file-age",
        kind=Seconds(1, 366 * 86400, to=1),
        metavar="SECONDS",
        help="Time that such a file is for; 3600: each begins on the hour.  [default: no limit]",
    )
    file_keep: int = option(
        "--file-keep",
        kind=Whole(1, 1_000_000),
        metavar="N",
        default=10,
        help="Most files put aside that are kept, the newest.",
    )
    interval: int = option(
        "-t",
        "--interval",
        kind=Interval(),
        metavar="SECONDS",
        default=1.0,
        reload=Reload.TAKEN_BY_ALL,
        help="Length of a measuring interval, 0.1 to 3600.",
    )
    batch_size: int = option(
        "-b",
        "--batch-size",
        kind=Whole(1, 1_000_000),
        metavar="N",
        default=5000,
        help="Most records in one payload.",
    )
    device: str | None = option(
        "-d",
        "--device-ip",
        kind=TEXT,
        metavar="IP",
        help="Tag `device` of every record.  [default: the address that the kernel would use "
        "toward the first collector, or the host name where that is loopback or link-local]",
    )
    max_events: int = option(
        "--max-events",
        kind=Whole(0, 1_000_000),
        metavar="N",
        default=1000,
        reload=Reload.TAKEN_BY_ALL,
        help="Most sequence errors, drops and traps, of each, a second that are sent one by one; "
        "0: none. Drops and traps beyond it are counted together.",
    )
    max_datagram: int = option(
        "--max-datagram",
        kind=Whole(1, 65507),
        metavar="BYTES",
        default=1400,
        help="Limit of a UDP payload.",
    )
    max_memory: int = option(
        "--max-memory",
        kind=Whole(1, 1 << 20, MIB),
        metavar="MIB",
        default=64,
        help="Most memory for records that wait for the collector; beyond it the oldest are "
        "dropped, and counted. With --spool half of it, and the oldest go there.",
    )
    spool: Path | None = option(
        "--spool",
        kind=Directory(),
        metavar="DIR",
        help="Directory for records that cannot be delivered now; they outlast the program. It is "
        "made in a directory that is there.  [default: none]",
    )
    spool_size: int = option(
        "--spool-size",
        kind=Whole(1, 1 << 30, MIB),
        metavar="MIB",
        default=1024,
        needs=("spool",),
        help="Most disk space for a sink's spool; beyond it the oldest records are dropped, and "
        "counted.",
    )
    duration: float | None = option(
        "--duration",
        kind=Seconds(0, _LONGEST_RUN, above=True, to=1),
        metavar="SECONDS",
        help="Stop by itself.  [default: run until SIGINT or SIGTERM]",
    )
    health: tuple[str, int] | None = option(
        "--health",
        kind=Listen(),
        metavar="ADDRESS:PORT",
        help="Answer /healthz and /readyz there, over HTTP.  [default: nowhere]",
    )
    metrics: tuple[str, int] | None = option(
        "--metrics",
        kind=Listen(),
        metavar="ADDRESS:PORT",
        keys=(_MONITOR_SERVER,),
        help="Let Prometheus scrape /metrics there, over HTTP; no other collector is needed then.  "
        "[default: nowhere]",
    )
    log_data: bool = derived(False, Reload.FIXED, _LOG_DATA)  # noqa: FBT003
    user: str = option(
        "--user",
        kind=TEXT,
        metavar="NAME",
        default="nobody",
        help="Who it is while it runs, without any of root's rights.",
    )
    verbose: bool = option(
        "-v",
        "--verbose",
        kind=Flag(),
        default=False,
        reload=Reload.TAKEN,
        help="A line of progress for each interval.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Of all interfaces wanted, those that are not there included."""
        return (*(interface.name for interface in self.interfaces), *self.gone)

    def checked(self) -> Self:
        """These settings, which go together, with what follows from some of them.

        Raises:
            UsageError: They do not.
        """
        return self


def check(core: Core) -> None:
    """See that the settings of CORE go together.

    Raises:
        UsageError: They do not.
    """
    if core.device is not None and not 0 < len(core.device.strip()) <= _LONGEST_DEVICE:
        raise UsageError(
            f"--device-ip must have 1 to {_LONGEST_DEVICE} characters: give the address that names "
            "this device."
        )
    _check_tls(core)
    privileges.find(core.user)
    if core.timestamp != "unix" and core.format != "json":
        raise UsageError("--timestamp is for -f json: line protocol has times of its own.")


def check_sinks(core: Core) -> None:
    """See that there are sinks, if any are needed, each once, and their names can be names.

    Whether a name has an address by now is another matter: it may have one in a minute.

    Raises:
        UsageError: It is not so.
    """
    if not core.sinks and not (core.log_data or core.metrics):
        raise UsageError(
            "Say where to stream to: COLLECTOR_IP COLLECTOR_PORT, --sink URL, or --metrics."
        )
    for number, sink in enumerate(core.sinks):
        if sink in core.sinks[:number]:
            raise UsageError(f"{sink} is there twice: a record would be sent there twice.")
        for host, _ in sink.hosts:
            try:
                host.encode("idna")
            except UnicodeError as error:
                raise UsageError(
                    f"The collector's name {host!r} is none that a host can have: give a name or "
                    "an IP address."
                ) from error


def _check_tls(core: Core) -> None:
    """What is said of TLS goes with the sinks."""
    schemes = {sink.scheme for sink in core.sinks}
    if core.tls and "udp" in schemes:
        raise UsageError("--tls: there is no TLS over UDP here; use TCP.")
    if core.tls and "tcp" not in schemes:
        raise UsageError("--tls is for sinks over TCP, and there is none.")
    if core.tls or "https" in schemes:
        return
    for name in ("tls_ca", "tls_cert", "tls_key"):
        if getattr(core, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is for --tls and https sinks, and there are none.")
