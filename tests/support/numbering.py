# SPDX-License-Identifier: Apache-2.0
"""Packets that carry numbers, and a program that is held against a model of them."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import dpkt
import sequences
from scapy.utils import RawPcapReader

if TYPE_CHECKING:
    from pathlib import Path
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from program import FlowProgram, settings

from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.layouts import EVENT_KINDS
from trapstream_vtap.probes.flows.records import errors_of, schema_of
from trapstream_vtap.probes.flows.table import FlowTable

THRESHOLD = 10
PATTERN = 0x5EC70123


FIN, SYN, RST, ACK = 1, 2, 4, 16


SAID = (1 << 63) - 1  # line protocol has signed integers
ERRORS = ("reverse", "small", "big", "duplicate")
COUNTED_AS = {kind: kind for kind in ERRORS} | {
    "out_of_order": "reverse",
    "retransmission": "duplicate",
}


def ip(protocol: int, rest: bytes, source: int = 1, fragment: int = 0) -> bytes:
    """An Ethernet frame with an IPv4 packet; FRAGMENT: flags and offset."""
    header = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(rest), 0, fragment, 64, protocol, 0, source, 0xC0000202
    )
    return bytes(12) + b"\x08\x00" + header + rest


def udp(payload: bytes, source: int = 1) -> bytes:
    """A UDP datagram."""
    return ip(17, struct.pack(">HHHH", 7, 9, 8 + len(payload), 0) + payload, source)


def tcp(sequence: int, length: int, flags: int = ACK, source: int = 1, fragment: int = 0) -> bytes:
    """A TCP segment."""
    header = struct.pack(">HHIIBBHHH", 7, 9, sequence, 0, 0x50, flags, 0, 0, 0)
    return ip(6, header + bytes(length), source, fragment)


def icmp(payload: bytes) -> bytes:
    """An ICMP echo request."""
    return ip(1, bytes((8, 0, 0, 0, 0, 0, 0, 0)) + payload)


class Checker:
    """The loaded program with its probe, attached nowhere; at ingress of any hook."""

    def __init__(self, **chosen: Any) -> None:
        chosen = {"sequence_threshold": THRESHOLD, "max_events": 1_000_000} | chosen
        plain = settings(direction="ingress", layers=(True,), **chosen)
        self.program = FlowProgram(plain)
        self._name = "vtap_socket" if plain.hook == "socket" else "vtap_ingress"
        self.probe = FlowTable(plain, self.program.objects, SystemClock())
        self._schema, self._errors = schema_of(plain), errors_of(plain)
        self._flows = 1

    def fresh(self) -> int:
        """A source address that no flow has had yet."""
        self._flows += 1
        return self._flows

    def pass_(self, frame: bytes, **context: int) -> None:
        """Let the program see FRAME."""
        self.program.show(frame, self._name, **context)

    def close(self) -> list[dict[str, Any]]:
        """Close all intervals; their records."""
        found = bytearray()
        for _ in self.probe.sweep(force=True):
            found += self.probe.read(10_000)
        return list(self._schema.layout.unpack(found))

    def events(self) -> list[dict[str, Any]]:
        """The events since the last call."""
        found = list(self._errors.layout.unpack(self.probe.read_events(100_000)))
        for event in found:
            event["distance"] -= (event["distance"] >> 63) << 64
        return found


def errors(events: list[dict[str, Any]]) -> list[sequences.Error]:
    """Events as the model says them."""
    return [
        sequences.Error(EVENT_KINDS[e["kind"]], e["expected"], e["received"], e["distance"])
        for e in events
    ]


def agree(
    checker: Checker,
    model: sequences.Numbers | sequences.Stream,
    expected: list[sequences.Error],
) -> None:
    """The one record and the events say what the model says."""
    (record,) = checker.close()
    said = (replace(e, expected=e.expected & SAID, received=e.received & SAID) for e in expected)
    assert errors(checker.events()) == [*said]
    kinds = Counter(
        COUNTED_AS.get(e.kind) or ("small" if e.distance <= model.threshold else "big")
        for e in expected
    )
    assert {name: record[f"seq_{name}"] for name in ERRORS} == {n: kinds[n] for n in ERRORS}
    assert record["seq_errors"] == len(expected)
    assert record["seq_received"] == model.received
    assert record["seq_last"] == (None if model.last is None else model.last & SAID)
    assert record["seq_missing"] == max(0, model.missing)
    assert record["seq_restarts"] == model.restarts


plain = st.just("")


NS = 10**9


def captured(path: Path) -> list[tuple[int, Any]]:
    """Time in ns and IP packet of everything captured."""
    with RawPcapReader(str(path)) as reader:
        return [
            (about.sec * NS + about.usec, dpkt.ethernet.Ethernet(frame).data)
            for frame, about in reader
        ]
