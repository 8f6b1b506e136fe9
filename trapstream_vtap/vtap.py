# SPDX-License-Identifier: Apache-2.0
"""The command `vtap`: what goes around the measuring."""

from __future__ import annotations

import os

import click

from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """What goes around vtap-stream, which measures."""


@main.command()
def probes() -> None:
    """Say what can be measured on this machine, and what its kernel has not."""
    if os.geteuid():
        raise click.ClickException("Only root can try what the kernel has.")
    for probe in REGISTRY:
        click.echo(f"{probe.name}: {probe.doc}")
        try:
            notes = probe.to_load(probe.demanding()).notes
        except (RunError, UsageError) as error:
            notes = [f"not here: {error}"]
        for note in notes or ["all of it"]:
            click.echo(f"    {note}")
