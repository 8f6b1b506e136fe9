# SPDX-License-Identifier: Apache-2.0
"""The flow program attached by this process, as the keeper does it."""

from __future__ import annotations

import ctypes
import os
import socket
from typing import TYPE_CHECKING

from traffic import V4, Wire

from lab.loading import load
from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Holder
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.flows.program import places
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.settings.address import parse

if TYPE_CHECKING:
    from lab.namespace import Namespace

from typing import TYPE_CHECKING, Self

from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.program import source
from trapstream_vtap.probes.flows.table import FlowTable


class Attached:
    """Loaded from SETTINGS; attached from `attach` or `take_over` to `detach`."""

    def __init__(self, settings: FlowSettings) -> None:
        self._settings = settings
        self._objects = load(source(settings))
        self._table = FlowTable(settings, self._objects, SystemClock())
        self._holder = Holder()
        self.notes: list[str] = []

    def attach(self) -> Self:
        """Everywhere."""
        change = self._holder.begin(places(self._settings), self._objects.programs)
        self._holder.finish(change)
        self.notes += change.notes
        return self

    def take_over(self, old: Self) -> None:
        """In the place of OLD."""
        self._holder = old._holder
        self._table.begin()
        change = self._holder.begin(places(self._settings), self._objects.programs)
        self._holder.finish(change)
        self.notes += change.notes
        kernel.wait_for_programs()

    def detach(self) -> None:
        """From everywhere."""
        self._holder.detach()
        kernel.wait_for_programs()

    def counters(self) -> dict[int, dict[str, int]]:
        """Of the program, by interface index."""
        return self._table.counters()

    def close(self) -> None:
        """Give it back to the kernel."""
        self._table.close()


def settings(**others: object) -> FlowSettings:
    """Those of a probe on `wire0` of this namespace."""
    sinks = (parse("tcp://127.0.0.1:9"),)
    return FlowSettings(sinks=sinks, interfaces=choose(("wire0",))[0], device="127.0.0.1", **others)  # type: ignore[arg-type]


def filters(namespace: Namespace) -> str:
    """What tc shows of filters and of clsact."""
    shown = [
        namespace.run("tc", "filter", "show", "dev", "wire0", side).stdout
        for side in ("ingress", "egress")
    ]
    return "".join(shown) + namespace.run("tc", "qdisc", "show", "dev", "wire0", "clsact").stdout


def attached(namespace: Namespace, name: str) -> int:
    """How many programs hang on the tcx hooks of an interface (BPF_PROG_QUERY)."""
    total = 0
    with namespace.entered():
        index = socket.if_nametoindex(name)
        for kind in (kernel.BPF_TCX_INGRESS, kernel.BPF_TCX_EGRESS):
            count = ctypes.c_uint32(0)
            failed = ctypes.CDLL("libbpf.so.1").bpf_prog_query(
                index, kind, 0, None, None, ctypes.byref(count)
            )
            assert failed == 0, os.strerror(-failed)
            total += count.value
    return total


def exchange(wire: Wire, count: int) -> None:
    """COUNT datagrams in, and an ICMP message out for each."""
    with wire.sender.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sender:
        for number in range(count):
            head = bytes((8, 0)) + (0xFFFF - 0x800 - number).to_bytes(2)
            sender.sendto(head + bytes(2) + number.to_bytes(2), (V4[1], 0))
    wire.settle()
