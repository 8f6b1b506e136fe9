# SPDX-License-Identifier: Apache-2.0
"""The command `vtap-stream`: options in, a run, and what went wrong in one sentence."""

from __future__ import annotations

import sys
from typing import Any

import click

from trapstream_vtap.command import run
from trapstream_vtap.errors import RunError, UsageError, printable
from trapstream_vtap.settings import command
from trapstream_vtap.version import __version__

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_IN_VAIN = 3
"""The exit code of a run that measured, and lost all of it or could not hand it over."""


@click.command(cls=command.Command, context_settings=_CONTEXT, params=command.parameters())
@click.version_option(__version__, prog_name="vtap-stream")
@click.pass_context
def main(ctx: click.Context, /, **_: Any) -> None:
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
        settings = command.settings(ctx)
        if not run(settings, sys.argv[1:] if ctx.params["file"] else None):
            sys.exit(_IN_VAIN)
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    except RunError as error:
        print(f"vtap-stream: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
