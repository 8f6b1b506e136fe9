# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: what the programs count, of frames given and on a wire."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from program import REASONS, FlowProgram, settings
from waiting import wait_for

from lab.namespace import Namespace, veth
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.attach import PacketSocket, xdp
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.interfaces import Interface

OPTMEM = Path("/proc/sys/net/core/optmem_max")
"""The largest program that a socket takes, in bytes of `struct bpf_insn`: net/core/filter.c."""

ADDRESSES = ("192.0.2.1", "192.0.2.2")
PORT = 7001


def counted(program: FlowProgram, name: str, frames: dict[str, str]) -> dict[str, Any]:
    """Of each of FRAMES, shown to the program NAME: why it was counted, and into which flows."""
    found = {}
    for which, frame in frames.items():
        outcome = program.run(bytes.fromhex(frame), name)
        found[which] = [outcome.reason, [repr(flow) for flow in outcome.flows]]
    return found


def put(objects: Objects, hook: str, interface: Interface) -> attach.Attachment:
    """Attach as the product does."""
    if hook == "socket":
        direction = (attach.Direction.INGRESS,)
        return PacketSocket(objects.programs["vtap_socket"], interface, direction)
    if hook == "xdp":
        native, generic = objects.programs["vtap_ingress"], objects.programs["vtap_ingress_generic"]
        attachment, is_native = xdp.attach(native, generic, interface)
        assert is_native
        return attachment
    return attach.attach(objects.programs["vtap_ingress"], interface, attach.Direction.INGRESS)


class Wire:
    """A veth between two namespaces; programs are attached where it ends."""

    def __init__(self) -> None:
        self._sender, self._receiver = Namespace(), Namespace()
        veth(self._sender, "wire0", self._receiver, "wire0", ipv4=ADDRESSES)

    def counted(self, program: FlowProgram, sizes: list[int]) -> dict[str, Any]:
        """What the program counts of datagrams of SIZES, and how many the kernel counts."""
        receiver = self._receiver
        with receiver.entered():
            interface = interfaces()["wire0"]
            attachment = put(program.objects, program.hook, interface)
        program.measure(interface)
        before, was = program._counters(), receiver.counters("wire0").rx_packets
        with (
            receiver.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
            self._sender.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        ):
            listening.bind((ADDRESSES[1], PORT))
            for size in sizes:
                sending.sendto(bytes(size), (ADDRESSES[1], PORT))
            wait_for(lambda: receiver.counters("wire0").rx_packets - was >= len(sizes))
            arrived = receiver.counters("wire0").rx_packets - was
        with receiver.entered():
            attachment.detach()
        counters = program._counters()
        left = receiver.run("tc", "filter", "show", "dev", "wire0", "ingress").stdout
        return {
            "program": {name: counters[name] - before[name] for name in counters},
            "arrived": arrived,
            "left": left,
        }


def main() -> None:
    """Leave all of it as results."""
    directory = Path(os.environ["VM_DIRECTORY"])
    given = json.loads((directory / "given.json").read_bytes())
    wire = Wire()
    results = []
    for task in given:
        chosen = settings(direction="ingress", hook=task["hook"], decapsulate=task["decapsulate"])
        program = FlowProgram(chosen)
        name = "vtap_socket" if task["hook"] == "socket" else "vtap_ingress"
        done = {"counted": counted(program, name, task["frames"])}
        if task["decapsulate"]:  # without, a program fits into what a socket takes by default
            OPTMEM.write_text(str(1 << 20), encoding="ascii")
        done["wired"] = wire.counted(program, task["sizes"])
        results.append(done)
        program.close()
    assert all(reason[0] in REASONS for done in results for reason in done["counted"].values())
    (directory / "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
