# SPDX-License-Identifier: Apache-2.0
"""Sinks: one class per way to a collector, one interface, and the sender that feeds them.

What few want brings large libraries (HTTP, Kafka, TLS): its module is loaded where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.settings.address import Address, parse, plain
from trapstream_vtap.sinks.file import FileSink, Rotation
from trapstream_vtap.sinks.output import OutputSink
from trapstream_vtap.sinks.pace import Pace
from trapstream_vtap.sinks.payload import Payload, Refusal
from trapstream_vtap.sinks.sender import EndError, Sender, Sink, TryLaterError
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.udp import UdpSink

if TYPE_CHECKING:
    from trapstream_vtap.credentials import Reader
    from trapstream_vtap.settings.core import Core
    from trapstream_vtap.sinks.tls import Contexts

__all__ = [
    "Address",
    "EndError",
    "FileSink",
    "OutputSink",
    "Pace",
    "Payload",
    "Refusal",
    "Rotation",
    "Sender",
    "Sink",
    "TcpSink",
    "TryLaterError",
    "UdpSink",
    "make_sink",
    "parse",
    "plain",
]


def make_sink(address: Address, settings: Core, credentials: Reader) -> Sink:
    """The sink for ADDRESS, whose files CREDENTIALS reads.

    Raises:
        UsageError: It says what that kind of sink does not know, or the sink's options do.
    """
    match address.scheme:
        case "http" | "https":
            from trapstream_vtap.sinks.http import HttpSink  # noqa: PLC0415 - see above

            contexts = _contexts(settings, credentials) if address.scheme == "https" else None
            sink: Sink = HttpSink(address, settings.token_file, contexts, credentials.read)
        case "kafka":
            from trapstream_vtap.sinks.kafka import KafkaSink  # noqa: PLC0415 - likewise

            sink = KafkaSink(address, settings.kafka_config, credentials.read)
        case "file":
            rotation = Rotation(settings.file_size, settings.file_age, settings.file_keep)
            sink = FileSink(address, rotation)
        case "-":
            sink = OutputSink()
        case "udp":
            sink = UdpSink(plain(address))
        case _ if settings.tls:
            from trapstream_vtap.sinks.tcp_tls import TlsSink  # noqa: PLC0415 - likewise

            sink = TlsSink(plain(address), _contexts(settings, credentials))
        case _:
            sink = TcpSink(plain(address))
    return sink


def _contexts(settings: Core, credentials: Reader) -> Contexts:
    from trapstream_vtap.sinks import tls  # noqa: PLC0415 - likewise

    files = settings.tls_ca, settings.tls_cert, settings.tls_key
    return tls.Contexts(*files, credentials.read)
