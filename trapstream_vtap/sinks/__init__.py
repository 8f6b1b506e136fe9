# SPDX-License-Identifier: Apache-2.0
"""Sinks: one class per way to a collector, one interface, and the sender that feeds them."""

from trapstream_vtap.sinks.address import Address, parse, plain
from trapstream_vtap.sinks.pace import Pace
from trapstream_vtap.sinks.sender import Payload, Refusal, Sender, Sink, TryLaterError
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.udp import UdpSink

__all__ = [
    "Address",
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


def make_sink(address: Address) -> Sink:
    """The sink for ADDRESS.

    Raises:
        UsageError: It says what that kind of sink does not know.
    """
    if address.scheme == "udp":
        return UdpSink(plain(address))
    return TcpSink(plain(address))
