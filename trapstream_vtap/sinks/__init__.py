# SPDX-License-Identifier: Apache-2.0
"""Sinks: one class per way to a collector, one interface, and the sender that feeds them."""

from trapstream_vtap.sinks.sender import Payload, Sender, Sink
from trapstream_vtap.sinks.tcp import TcpSink
from trapstream_vtap.sinks.udp import UdpSink

__all__ = ["Payload", "Sender", "Sink", "TcpSink", "UdpSink"]
