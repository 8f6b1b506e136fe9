# SPDX-License-Identifier: Apache-2.0
"""The command `vtap-stream`: options in, a `Settings` out, and what went wrong in one sentence."""

from __future__ import annotations

import math
import sys
from typing import Any

import click

from trapstream_vtap import __version__, config
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.interfaces import choose
from trapstream_vtap.stream import Stream

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_MIB = 1 << 20


class _Key(click.ParamType[tuple[str, ...]]):
    """Key fields, comma-separated."""

    name = "FIELD,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The fields, in the records' order."""
        if isinstance(value, tuple):
            return value
        try:
            return config.key_fields(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Tunnels(click.ParamType[tuple[str, ...]]):
    """Kinds of tunnel, comma-separated."""

    name = "TUNNEL,…"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The kinds, in one order."""
        if isinstance(value, tuple):
            return value
        try:
            return config.tunnels(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class _Port(click.ParamType[int]):
    """A TCP or UDP port."""

    name = "port"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        if not str(value).isdecimal() or not 0 < int(value) < 1 << 16:
            self.fail(f"{value!r} is not a port: give a number from 1 to 65535.", param, ctx)
        return int(value)


class _Seconds(click.FloatRange):
    """A length of time; unlike any other number, NaN is in every range."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """The number."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


@click.command(context_settings=_CONTEXT)
@click.argument("host", metavar="COLLECTOR_IP")
@click.argument("port", metavar="COLLECTOR_PORT", type=_Port())
@click.option(
    "-i",
    "--interface",
    "names",
    metavar="NAME",
    multiple=True,
    help="Interface to measure; repeatable, or comma-separated.  [default: all that are up, except "
    "loopback]",
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
    "--transport",
    type=click.Choice(["tcp", "udp"]),
    default="tcp",
    show_default=True,
    help="How to reach the collector.",
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
    "-b",
    "--batch-size",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
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
    "the collector]",
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
    type=_Key(),
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
    type=_Tunnels(),
    default="",
    metavar="TUNNEL,…",
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
    type=click.IntRange(64, 1 << 24),
    default=65536,
    show_default=True,
    help="Most flows that the kernel keeps at a time.",
)
@click.option(
    "--max-datagram",
    metavar="BYTES",
    type=click.IntRange(1, 65507),
    default=1400,
    show_default=True,
    help="Limit of a UDP payload.",
)
@click.option(
    "--max-memory",
    metavar="MIB",
    type=click.IntRange(1, 1 << 20),
    default=64,
    show_default=True,
    help="Most memory for records that wait for the collector; beyond it the oldest are dropped, "
    "and counted.",
)
@click.option(
    "--duration",
    metavar="SECONDS",
    type=_Seconds(0, min_open=True),
    help="Stop by itself.  [default: run until SIGINT or SIGTERM]",
)
@click.option("-v", "--verbose", is_flag=True, help="A line of progress for each interval.")
@click.version_option(__version__, prog_name="vtap-stream")
def main(
    host: str, port: int, names: tuple[str, ...], device: str | None, form: str, **options: Any
) -> None:
    r"""Measure every flow on this machine's interfaces and stream it to a time-series collector.

    The collector (Telegraf, InfluxDB, VictoriaMetrics, …) gets one record per flow and interval:
    packets, bytes, throughput, goodput, jitter; and one per interface that accounts for every
    packet.

    \b
    vtap-stream 192.0.2.10 8094                      all interfaces, line protocol over TCP
    vtap-stream -i eth0,eth1 -t 10 192.0.2.10 8094   two of them, every 10 seconds
    vtap-stream -f json --transport udp ::1 8095     JSON, one array per datagram
    """
    try:
        Stream(_settings(host, port, names, device, form, options)).run()
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    except RunError as error:
        print(f"vtap-stream: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _settings(
    host: str,
    port: int,
    names: tuple[str, ...],
    device: str | None,
    form: str,
    options: dict[str, Any],
) -> config.Settings:
    """The options as one frozen object."""
    collector = config.resolve(host, port)
    wanted = tuple(word for name in names for word in config.split(name))
    if names and not wanted:
        raise UsageError("--interface is empty: name an interface, or leave the option out.")
    interfaces = choose(wanted)
    if device is not None and not device.strip():
        raise UsageError("--device-ip is empty: give the address that names this device.")
    interval = round(options.pop("interval") * config.NS) & ~1
    settings = config.Settings(
        collector=collector,
        interfaces=interfaces,
        device=device or config.address_toward(collector),
        format=form,
        interval=interval,
        directions=config.DIRECTIONS[options.pop("direction")],
        max_memory=options.pop("max_memory") * _MIB,
        **options,
    )
    return config.check(settings)
