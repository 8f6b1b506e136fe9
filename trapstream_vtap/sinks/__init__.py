# SPDX-License-Identifier: Apache-2.0
"""Sinks: one class per way to a collector, one interface, and the sender that feeds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.sinks import tls
from trapstream_vtap.sinks.address import Address, parse, plain
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.pace import Pace
from trapstream_vtap.sinks.sender import Payload, Refusal, Sender, Sink, TryLaterError
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.udp import UdpSink

if TYPE_CHECKING:
    from trapstream_vtap.config import Settings

__all__ = [
    "Address",
    "HttpSink",
    "Pace",
    "Payload",
    "Refusal",
    "Sender",
    "Sink",
    "TcpSink",
    "TryLaterError",
    "UdpSink",
    "make_sink",
    "parse",
    "plain",
]


def make_sink(address: Address, settings: Settings) -> Sink:
    """The sink for ADDRESS.

    Raises:
        UsageError: It says what that kind of sink does not know, or the sink's options do.
    """
    if address.scheme in ("http", "https"):
        context = None
        if address.scheme == "https":
            context = tls.context(settings.tls_ca, settings.tls_cert, settings.tls_key)
        return HttpSink(address, settings.token_file, context)
    if address.scheme == "udp":
        return UdpSink(plain(address))
    return TcpSink(plain(address))
