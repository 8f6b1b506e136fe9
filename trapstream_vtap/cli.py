# SPDX-License-Identifier: Apache-2.0
"""The command `vtap-stream`: options in, a `Settings` out, and what went wrong in one sentence."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trapstream_vtap import __version__, config, configfile
from trapstream_vtap.command import run
from trapstream_vtap.errors import RunError, UsageError, printable
from trapstream_vtap.interfaces import check_names, choose
from trapstream_vtap.probes.drops.records import TRAP_TAGS
from trapstream_vtap.sinks import Address, parse
from trapstream_vtap.sinks.address import is_ipv6
from trapstream_vtap.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.4

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_MIB = 1 << 20
_LONGEST_DEVICE = 255
_IN_VAIN = 3
"""The exit code of a run that measured, and lost all of it or could not hand it over."""


class _Names(_ParamType):
    """Some of a few names, comma-separated."""

    def __init__(self, name: str, read: Callable[[str], tuple[str, ...]]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The names, in an order of their own."""
        if isinstance(value, tuple):
            return value
        try:
            return self._read(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


def _unit(param: Any) -> str:
    """The unit of what PARAM takes, as its sentences end."""
    units = {"SECONDS": ", in seconds", "MIB": ", in MiB", "MS": ", in ms", "BYTES": ", in bytes"}
    return units.get(param.metavar, "") if param else ""


_IN_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def _check_unit(value: Any, param: Any, ctx: Any) -> None:
    """Say what to give in place of a number with a unit behind it."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([^\W\d_]+)\s*", str(value))
    if found and isinstance(value, str):
        unit = _unit(param)
        if unit == ", in seconds" and found[2] in _IN_SECONDS:
            unit += f": {float(found[1]) * _IN_SECONDS[found[2]]:.12g}"
        raise click.BadParameter(f"{value!r} has a unit: give the number alone{unit}.", ctx, param)


class _Whole(click.IntRange):
    """A whole number."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        _check_unit(value, param, ctx)
        return int(super().convert(value, param, ctx))


class _Port(_ParamType):
    """A TCP or UDP port."""

    name = "port"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        if not str(value).isdecimal() or not 0 < int(value) < 1 << 16:
            self.fail(f"{value!r} is not a port: give a number from 1 to 65535.", param, ctx)
        return int(value)


class _Listen(_ParamType):
    """An address to listen on."""

    name = "ADDRESS:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        """Host and port."""
        if isinstance(value, tuple):
            return value
        try:
            return config.listen_address(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Pattern(_ParamType):
    """32 bits in hexadecimal."""

    name = "hex"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        if isinstance(value, int):  # out of a file, and read already
            return value
        try:
            number = int(value, 16)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 32:
            self.fail(f"{value!r} is not a pattern: give 32 bits, such as 5EC70123.", param, ctx)
        return number


class _Bits(click.types.IntParamType):
    """How wide a number is that packets carry."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number of bits."""
        bits = int(super().convert(value, param, ctx))
        if bits not in config.SEQUENCE_BITS:
            self.fail(f"{value!r} is not one of 16, 32 and 64.", param, ctx)
        return bits


class _Seconds(click.FloatRange):
    """A length of time; unlike any other number, NaN is in every range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """The number."""
        _check_unit(value, param, ctx)
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


class _File(_ParamType):
    """A configuration file; what it says of options becomes their default."""

    name = "FILE"

    def convert(self, value: Any, _param: Any, ctx: Any) -> configfile.ConfigFile:
        """What the file says."""
        if isinstance(value, configfile.ConfigFile):
            return value
        try:
            found = configfile.read(Path(value))
            ctx.default_map = _defaults(ctx, value, found)
        except UsageError as error:
            raise click.UsageError(str(error), ctx) from error
        return found


def _defaults(ctx: click.Context, path: str, found: configfile.ConfigFile) -> dict[str, Any]:
    """The options in a file as click wants them, by parameter."""
    known = {
        max(option.opts, key=len).lstrip("-").replace("-", "_"): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name not in ("file", "version", "help")
    }
    defaults = {}
    for key, value in found.options:
        if key not in known:
            keys = (*configfile.KEYS, *known)
            hint = nearest(key, keys) or f" There are {', '.join(keys)}."
            raise UsageError(f"{path}: there is no key {key!r}.{hint}")
        option = known[key]
        try:
            defaults[option.name or key] = option.type_cast_value(ctx, _plain(option, key, value))
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        except click.BadParameter as error:
            raise UsageError(f"{path}: {key}: {error.message}") from error
    return defaults


def _plain(option: click.Option, key: str, value: Any) -> Any:
    """VALUE of the file, if it has the JSON type that OPTION wants."""
    if option.is_flag:
        return configfile.switch(key, value)
    if isinstance(option.type, click.types.IntParamType):
        good, wanted = type(value) is int, f"give a whole number{_unit(option)}"
    elif isinstance(option.type, click.types.FloatParamType):
        good, wanted = type(value) in (int, float), f"give a number{_unit(option)}"
    elif option.multiple or isinstance(option.type, _Names):
        good = isinstance(value, str) or (
            isinstance(value, list) and all(isinstance(word, str) for word in value)
        )
        wanted = "give a string, or a list of strings"
        if good and option.multiple:
            value = [value] if isinstance(value, str) else value
        elif good and isinstance(value, list):
            value = ",".join(value)
    else:
        good, wanted = isinstance(value, str), "give a string"
    if not good:
        raise configfile.wrong(key, value, wanted)
    return value


class _Command(click.Command):
    """The command, whose errors may say words of others: names, keys of files."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The two arguments belong together."""
        *pieces, host, port = super().collect_usage_pieces(ctx)
        return [*pieces, f"[{host} {port}]"]

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """As click does, out of the arguments."""
        with _printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, with the arguments."""
        with _printable_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _printable_errors() -> Iterator[None]:
    """Errors on their way out say nothing that is not printed."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(printable(error.format_message()), error.ctx) from error


@click.command(cls=_Command, context_settings=_CONTEXT)
@click.argument("host", metavar="COLLECTOR_IP", required=False)
@click.argument("port", metavar="COLLECTOR_PORT", type=_Port(), required=False)
@click.option(
    "-c",
    "--config",
    "file",
    metavar="FILE",
    type=_File(),
    is_eager=True,
    help="JSON file with rules, and with options that the command line does not say; SIGHUP reads "
    "it again.  [default: none]",
)
@click.option(
    "-i",
    "--interface",
    "names",
    metavar="NAME",
    multiple=True,
    help="Interface to measure, by name or alternative name; repeatable, or comma-separated. A "
    "pattern (eth*, ?lan0) stands for all that fit, now and later; with ! ahead (!docker*) for "
    "what is left out.  [default: all that are up, now and later, except loopback]",
)
@click.option(
    "--probe",
    "probes",
    type=_Names("PROBE,…", config.probes),
    multiple=True,
    default=("flows",),
    help="What to stream, repeatable or comma-separated: flows, drops (packets that the kernel "
    "dropped, and why), traps (packets that hardware or a driver trapped or dropped).  [default: "
    "flows]",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(["influx", "json"]),
    default="influx",
    show_default=True,
    help="InfluxDB line protocol, or JSON arrays.",
)
@click.option(
    "--timestamp",
    type=click.Choice(["unix", "rfc3339"]),
    default="unix",
    show_default=True,
    help="Times in JSON: ns since the epoch, an integer, of which some readers lose the last "
    "digits; or date and time, a string.",
)
@click.option(
    "--transport",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    show_default=True,
    help="How to reach COLLECTOR_IP.",
)
@click.option(
    "--sink",
    "addresses",
    metavar="URL",
    multiple=True,
    help="Where to stream to, in place of COLLECTOR_IP or beside it; repeatable: "
    "tcp://host:port, udp://host:port, http://host:port?db=NAME, "
    "http://host:port?org=NAME&bucket=NAME, https://…, kafka://host:port,host:port/TOPIC, "
    "file:PATH, and - for standard output.  [default: none]",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Holds InfluxDB's token, or user:password, for all http and https sinks.  "
    "[default: the environment's INFLUX_TOKEN, if there]",
)
@click.option("--tls", is_flag=True, help="TLS (1.2 or newer) for all tcp sinks.")
@click.option(
    "--tls-ca",
    metavar="FILE",
    help="Certificates of the authorities to trust, PEM.  [default: the system's]",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    help="Our certificate, PEM, where the collector asks for one.  [default: none]",
)
@click.option(
    "--tls-key",
    metavar="FILE",
    help="Its private key, PEM.  [default: it is in the file of --tls-cert]",
)
@click.option(
    "--kafka-config",
    metavar="FILE",
    help="Properties of librdkafka for all kafka sinks, one name=value a line: security, secrets, "
    "limits.  [default: none]",
)
@click.option(
    "--file-size",
    metavar="MIB",
    type=_Whole(1, 1 << 20),
    default=100,
    show_default=True,
    help="Most that a file of file sinks takes; then it is put aside, under a name with date and "
    "time.",
)
@click.option(
    "--file-age",
    metavar="SECONDS",
    type=_Seconds(1, 366 * 86400),
    help="Time that such a file is for; 3600: each begins on the hour.  [default: no limit]",
)
@click.option(
    "--file-keep",
    metavar="N",
    type=_Whole(1, 1_000_000),
    default=10,
    show_default=True,
    help="Most files put aside that are kept, the newest.",
)
@click.option(
    "-t",
    "--interval",
    metavar="SECONDS",
    type=_Seconds(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Length of a measuring interval, 0.1 to 3600.",
)
@click.option(
    "-j",
    "--jitter-interval",
    metavar="SECONDS",
    type=_Seconds(0.1, 3600),
    help="Length of an interval of jitter, 0.1 to 3600; a whole multiple of --interval, or the "
    "other way round.  [default: that of --interval]",
)
@click.option(
    "-b",
    "--batch-size",
    metavar="N",
    type=_Whole(1, 1_000_000),
    default=5000,
    show_default=True,
    help="Most records in one payload.",
)
@click.option(
    "-d",
    "--device-ip",
    "device",
    metavar="IP",
    help="Tag `device` of every record.  [default: the address that the kernel would use toward "
    "the first collector, or the host name where that is loopback or link-local]",
)
@click.option(
    "--direction",
    type=click.Choice(list(config.DIRECTIONS)),
    default="ingress",
    show_default=True,
    help="Which packets, seen from this machine.",
)
@click.option(
    "--key",
    type=_Names("FIELD,…", config.key_fields),
    default=",".join(config.DEFAULT_KEY),
    show_default=True,
    help="What tells flows apart, beside interface and direction: any of src_ip, dst_ip, src_port, "
    "dst_port, protocol, vlan, tunnel_id.",
)
@click.option(
    "--hook",
    type=click.Choice(list(config.HOOKS)),
    default="tc",
    show_default=True,
    help="Where packets are seen: traffic control, XDP (ingress only, before packets are merged), "
    "or a packet socket's filter.",
)
@click.option(
    "--decapsulate",
    type=_Names("TUNNEL,…", config.tunnels),
    default="",
    help="Measure the flows inside these tunnels: any of vxlan, geneve, gre, erspan, gtpu, ipip.  "
    "[default: none]",
)
@click.option(
    "--promiscuous",
    is_flag=True,
    help="While it runs, have the interfaces take frames for other machines too: mirrored traffic.",
)
@click.option("--bits", is_flag=True, help="Rates in bits/s instead of bytes/s.")
@click.option(
    "--flow-table-size",
    metavar="N",
    type=_Whole(64, 1 << 24),
    default=65536,
    show_default=True,
    help="Most flows that the kernel keeps at a time. It takes 300 to 600 bytes of its memory for "
    "each, from the start (refused where that is more than 80 % of what is free).",
)
@click.option(
    "--max-datagram",
    metavar="BYTES",
    type=_Whole(1, 65507),
    default=1400,
    show_default=True,
    help="Limit of a UDP payload.",
)
@click.option(
    "--max-memory",
    metavar="MIB",
    type=_Whole(1, 1 << 20),
    default=64,
    show_default=True,
    help="Most memory for records that wait for the collector; beyond it the oldest are dropped, "
    "and counted. With --spool half of it, and the oldest go there.",
)
@click.option(
    "--spool",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for records that cannot be delivered now; they outlast the program. It is made "
    "in a directory that is there.  [default: none]",
)
@click.option(
    "--spool-size",
    metavar="MIB",
    type=_Whole(1, 1 << 30),
    default=1024,
    show_default=True,
    help="Most disk space for a sink's spool; beyond it the oldest records are dropped, and "
    "counted.",
)
@click.option(
    "--sequence",
    is_flag=True,
    help="Check sequence numbers: TCP's own, and with --sequence-offset those that UDP and ICMP "
    "carry.",
)
@click.option(
    "--tcp-sequence",
    type=click.Choice(["stream", "packet"]),
    default="stream",
    show_default=True,
    help="How TCP's numbers are read: as those of bytes, or as if each packet counted one "
    "(generated test traffic).",
)
@click.option(
    "--sequence-offset",
    "offset",
    metavar="BYTES",
    type=_Whole(0, config.MOST_OFFSET),
    help="Where UDP and ICMP carry a number: so many bytes behind the payload's start, or behind "
    "the pattern's. Turns --sequence on.  [default: they carry none]",
)
@click.option(
    "--sequence-bits",
    metavar="16|32|64",
    type=_Bits(),
    default=32,
    show_default=True,
    help="How wide that number is.",
)
@click.option(
    "--sequence-order",
    type=click.Choice(["big", "little"]),
    default="big",
    show_default=True,
    help="Which of its bytes comes first: the most significant one (network byte order), or the "
    "least.",
)
@click.option(
    "--sequence-pattern",
    "pattern",
    metavar="HEX",
    type=_Pattern(),
    help="32 bits to look for in the payload's first 5,000 bytes; needs --sequence-offset.  "
    "[default: none]",
)
@click.option(
    "--sequence-threshold",
    metavar="N",
    type=_Whole(1, (1 << 31) - 1),
    help="The largest distance, and the largest hole in a TCP stream in bytes, that is a small "
    "error.  [default: 100]",
)
@click.option(
    "--max-events",
    metavar="N",
    type=_Whole(0, 1_000_000),
    default=1000,
    show_default=True,
    help="Most sequence errors, drops and traps, of each, a second that are sent one by one; 0: "
    "none. Drops and traps beyond it are counted together.",
)
@click.option(
    "-u",
    "--unique",
    metavar="SECONDS",
    type=_Seconds(0.1, 3600),
    help="Count equal drops and traps of a flow together for so long, and send one record with "
    "their count.  [default: one by one, and beyond --max-events by --interval]",
)
@click.option(
    "--drop-table-size",
    metavar="N",
    type=_Whole(16, 1 << 20),
    default=1024,
    show_default=True,
    help="Most different drops, or traps, that are counted together at a time; when they are more, "
    "the table is emptied early, at most once a second.",
)
@click.option(
    "--drop-reasons",
    metavar="NAME,…",
    multiple=True,
    help="Only drops for these reasons of the kernel, repeatable; or all.  [default: all but those "
    "of ordinary life]",
)
@click.option(
    "--trap-tags",
    type=click.Choice(list(TRAP_TAGS)),
    default="default",
    show_default=True,
    help="Tags of DroppedPackets in line protocol: few, or trapstream's, with addresses.",
)
@click.option(
    "--stop-gap",
    metavar="SECONDS",
    type=_Seconds(0.001, config.LONGEST_STOP_GAP),
    default=2.0,
    show_default=True,
    help="A longer gap between packets is a stop of the flow, and no inter-arrival time.",
)
@click.option(
    "--expected-gap",
    metavar="MS",
    type=_Seconds(0, config.LONGEST_STOP_GAP * 1000),
    help="The sender's spacing; adds iat_deviation_ms.  [default: not known]",
)
@click.option(
    "--smoothed-jitter",
    is_flag=True,
    help="Add jitter_rfc3550_ms, smoothed as RFC 3550 does.",
)
@click.option(
    "--duration",
    metavar="SECONDS",
    type=_Seconds(0, min_open=True),
    help="Stop by itself.  [default: run until SIGINT or SIGTERM]",
)
@click.option(
    "--health",
    metavar="ADDRESS:PORT",
    type=_Listen(),
    help="Answer /healthz and /readyz there, over HTTP.  [default: nowhere]",
)
@click.option(
    "--metrics",
    metavar="ADDRESS:PORT",
    type=_Listen(),
    help="Let Prometheus scrape /metrics there, over HTTP; no other collector is needed then.  "
    "[default: nowhere]",
)
@click.option(
    "--metrics-flows",
    metavar="N",
    type=_Whole(0, 10_000),
    default=100,
    show_default=True,
    help="Most flows that /metrics shows by themselves, the top ones by bytes.",
)
@click.option(
    "--user",
    metavar="NAME",
    default="nobody",
    show_default=True,
    help="Who it is while it runs, without any of root's rights.",
)
@click.option("-v", "--verbose", is_flag=True, help="A line of progress for each interval.")
@click.version_option(__version__, prog_name="vtap-stream")
def main(host: str | None, port: int | None, **options: Any) -> None:
    """Measure every flow on this machine's interfaces and stream it to a time-series collector.

    The collector (Telegraf, InfluxDB, VictoriaMetrics, …) gets one record per flow and interval:
    packets, bytes, throughput, goodput, jitter; and one per interface that accounts for every
    packet.

    \b
    vtap-stream 192.0.2.10 8094                      all interfaces, line protocol over TCP
    vtap-stream -i eth0,eth1 -t 10 192.0.2.10 8094   two of them, every 10 seconds
    vtap-stream -f json --transport udp ::1 8095     JSON, one array per datagram
    vtap-stream - | grep dst_port=443                line protocol to standard output
    vtap-stream --metrics 127.0.0.1:8080             for Prometheus to scrape
    """  # noqa: D301 - click wants the character
    try:
        settings = _settings(host, port, **options)
        if not run(settings, sys.argv[1:] if options["file"] else None):
            sys.exit(_IN_VAIN)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    except RunError as error:
        print(f"vtap-stream: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def read_again(arguments: list[str], known: tuple[str, ...]) -> config.Settings:
    """The settings by the configuration file as it is now, under the command line ARGUMENTS.

    Args:
        arguments: Without the command's name.
        known: Interfaces that are measured.

    Raises:
        UsageError: They cannot be.
        RunError: Likewise.
    """
    try:
        ctx = main.make_context("vtap-stream", list(arguments))
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    return _settings(known=known, **ctx.params)


def _whole_interval(seconds: float) -> int:
    """In ns, with room for the two bits that a grid line carries in the kernel."""
    return round(seconds * config.NS) & ~3


def _first_sink(host: str | None, port: int | None, transport: str) -> list[Address]:
    """The sink that the positional arguments say, if they are there."""
    if host is None:
        return []
    if host == "-":
        if port is not None:
            raise UsageError("- is standard output, which has no port: leave the port out.")
        return [parse(host)]
    if "://" in host:
        raise UsageError(f"{host!r} is a URL: give it behind --sink.")
    bare, colon, word = host.rpartition(":")
    if colon and word.isdecimal() and (":" not in bare or bare.startswith("[")):
        bare = bare.strip("[]")
        raise UsageError(f"{host!r} is one word: give address and port as two, {bare} {word}.")
    if ":" in host and not is_ipv6(host):
        hint = f": give {host[1:-1]}" if is_ipv6(host[1:-1]) else ""
        raise UsageError(f"{host!r} is neither a name nor an address{hint}.")
    if port is None:
        raise UsageError("Missing argument 'COLLECTOR_PORT'.")
    return [Address(transport, ((host, port),))]


def _settings(
    host: str | None,
    port: int | None,
    names: tuple[str, ...],
    addresses: tuple[str, ...],
    transport: str,
    device: str | None,
    form: str,
    file: configfile.ConfigFile | None,
    known: tuple[str, ...] = (),
    **options: Any,
) -> config.Settings:
    """The options as one frozen object; interfaces that are KNOWN need not be up."""
    file = file or configfile.ConfigFile()
    chosen = [*_first_sink(host, port, transport), *map(parse, addresses)]
    options["metrics"] = options["metrics"] or file.metrics
    sinks = config.check_sinks(chosen, needed=not (file.log_data or options["metrics"]))
    wanted = tuple(word for name in names for word in config.split(name))
    if names and not wanted:
        raise UsageError("--interface is empty: name an interface, or leave the option out.")
    probes = config.probes(",".join(name for names in options.pop("probes") for name in names))
    check_names(wanted)
    interfaces, gone = choose(wanted, known)
    if device is not None and not 0 < len(device.strip()) <= _LONGEST_DEVICE:
        raise UsageError(
            f"--device-ip must have 1 to {_LONGEST_DEVICE} characters: give the address that names "
            "this device."
        )
    pattern = options["pattern"]
    for name in ("pattern", "offset", "sequence_threshold"):  # the command line wins
        if options[name] is None:
            options[name] = getattr(file, name)
    options["sequence"] = options["sequence"] or file.sequence
    if pattern is not None and options["offset"] is None:
        raise UsageError("--sequence-pattern needs --sequence-offset: where, from the pattern on?")
    reasons = config.drop_reasons(options.pop("drop_reasons"), probes)
    unique = options.pop("unique")
    if "flows" not in probes:
        interfaces = gone = ()
    stop_gap = round(options.pop("stop_gap") * config.NS)
    expected = options.pop("expected_gap")
    expected_gap = None if expected is None else round(expected * 1_000_000)
    if expected_gap is not None and expected_gap > stop_gap:
        raise UsageError("--expected-gap is longer than --stop-gap: the flow would always stand.")
    interval = _whole_interval(options.pop("interval"))
    jitter_interval = _whole_interval(options.pop("jitter_interval") or interval / config.NS)
    config.check_intervals(interval, jitter_interval)
    if "Jitter" in file.hidden:
        jitter_interval = interval
    settings = config.Settings(
        rules=file.rules,
        hidden=file.hidden,
        sinks=sinks,
        log_data=file.log_data,
        interfaces=interfaces,
        gone=gone,
        probes=probes,
        selected=wanted,
        unique=unique and round(unique * config.NS),
        drop_reasons=reasons,
        device=device,
        format=form,
        interval=interval,
        jitter_interval=jitter_interval,
        directions=config.DIRECTIONS[options.pop("direction")],
        max_memory=options.pop("max_memory") * _MIB,
        file_size=options.pop("file_size") * _MIB,
        spool_size=options.pop("spool_size") * _MIB,
        stop_gap=stop_gap,
        expected_gap=expected_gap,
        **options,
    )
    config.check_tls(settings)
    return config.check(settings)
