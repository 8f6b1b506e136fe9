# SPDX-License-Identifier: Apache-2.0
"""The flow program by itself: crafted frames in, one at a time; what it made of each out.

The programs are those of the product, compiled and loaded by the product. There are two ways in:

- `FlowProgram.run`: the kernel runs a program on our bytes (BPF_PROG_TEST_RUN). Nothing is
  attached, and the context may say that the packet is a merged one. The kernel has limits here:
  what fits in a page, linear memory, no tag taken off by a driver, and not less than the fixed IP
  header where the frame's first ethertype is IP.
- `Wire.send`: the frame really goes through a loopback interface of its own, by a packet socket.
  Frames of more than a page have only their first 14 bytes in linear memory, and at ingress the
  kernel has taken the outermost VLAN tag off.

See: bpf(2), bpf_prog_test_run_skb() in net/bpf/test_run.c, packet_snd() in net/packet/af_packet.c
"""

from __future__ import annotations

import ctypes
import socket
import time
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self

from lab import testrun
from lab.loading import load
from lab.namespace import Namespace
from trapstream_vtap.bpf import attach, kernel
from trapstream_vtap.bpf.attach import PacketSocket
from trapstream_vtap.clock import NS
from trapstream_vtap.interfaces import interfaces
from trapstream_vtap.probes.flows.layouts import (
    FLOW_SLOT,
    FLOW_STATE,
    KEY_FIELDS,
    LINK,
    LINK_COUNTS,
    flow_layouts,
)
from trapstream_vtap.probes.flows.links import name_links
from trapstream_vtap.probes.flows.program import source
from trapstream_vtap.probes.flows.rules import parse_rules
from trapstream_vtap.probes.flows.settings import DIRECTIONS, FlowSettings
from trapstream_vtap.settings.address import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.schema import Layout

PROGRAMS = ("vtap_ingress", "vtap_egress", "vtap_ingress_l3", "vtap_egress_l3")
REASONS = ("counted", "not_ip", "malformed", "filtered", "no_flow")
LOOPBACK = 1
"""The loopback interface's index in every network namespace."""

SHORTEST = 14
"""The kernel builds no shorter frame (ETH_HLEN)."""

LONGEST = 3500
"""What the kernel's own headroom and tailroom surely leave of a page of 4096 bytes."""

NOT_LINEAR = 6000
"""Frames that long, sent on a wire, have only their first 14 bytes in linear memory."""

_MTU = 70_000  # more than an IP header can say
_TABLE_SIZE = 1024
_DEADLINE = 5.0  # seconds
_VERDICTS = {"tc": 0xFFFFFFFF, "xdp": 2, "socket": 0}  # TC_ACT_UNSPEC, XDP_PASS, keep nothing
_VLAN_PRESENT = 0x1000


@dataclass(frozen=True)
class Flow:
    """An entry of the flow table: its key, decoded, and what it has gathered.

    What is not part of the key is None or 0.
    """

    src: IPv4Address | IPv6Address | None
    dst: IPv4Address | IPv6Address | None
    protocol: int
    ports: tuple[int, int] | None
    bytes: int
    payload_bytes: int
    packets: int = 1
    vlans: tuple[int, ...] = ()
    tunnel: int | None = None
    egress: bool = False
    interface: int = LOOPBACK


@dataclass(frozen=True)
class Outcome:
    """What one frame did to counters and table."""

    counters: dict[str, int]
    flows: tuple[Flow, ...]

    def count(self, reason: str) -> tuple[int, int]:
        """Packets and bytes counted as `seen` or one of `REASONS`."""
        return self.counters[f"{reason}_packets"], self.counters[f"{reason}_bytes"]

    @cached_property
    def reason(self) -> str:
        """The one reason other than `seen` under which anything was counted."""
        reasons = [r for r in REASONS if any(self.count(r))]
        assert len(reasons) == 1, self.counters
        return reasons[0]

    @property
    def flow(self) -> Flow:
        """The one flow into which the frame was counted."""
        assert len(self.flows) == 1, self.flows
        return self.flows[0]


def settings(
    key: Sequence[str] = KEY_FIELDS,
    direction: str = "both",
    interval: int = 3600 * NS,
    flow_table_size: int = _TABLE_SIZE,
    layers: Sequence[bool] = (True, False),
    rules: Sequence[str] = (),
    **others: object,
) -> FlowSettings:
    """Settings for the loopback interface; LAYERS: with an Ethernet header, without, or both."""
    loopback = interfaces()["lo"]
    assert loopback.index == LOOPBACK
    return FlowSettings(
        sinks=(parse("tcp://127.0.0.1:8094"),),
        interfaces=tuple(replace(loopback, ethernet=ethernet) for ethernet in layers),
        device="127.0.0.1",
        interval=interval,
        directions=DIRECTIONS[direction],
        key=tuple(key),
        flow_table_size=flow_table_size,
        rules=parse_rules(rules),
        **others,  # type: ignore[arg-type]
    )


class FlowProgram:
    """The loaded programs; the flow table is empty between two frames."""

    def __init__(self, chosen: FlowSettings) -> None:
        """Compile and load; CHOSEN is of `settings`."""
        self.objects = load(source(chosen))
        self.hook = chosen.hook
        self._key = flow_layouts(chosen.key).key
        self._libbpf = ctypes.CDLL("libbpf.so.1")
        self._cpus = kernel.possible_cpus()
        self._chosen = chosen
        self._places = name_links(self.objects.maps["links"], chosen)

    def measure(self, interface: Interface) -> None:
        """From now on count what is at INTERFACE."""
        chosen = replace(self._chosen, interfaces=(interface,))
        self._places = name_links(self.objects.maps["links"], chosen)

    def close(self) -> None:
        """Give all of it back to the kernel."""
        self.objects.close()

    def run(self, frame: bytes, program: str = "vtap_ingress", **context: int) -> Outcome:
        """Let PROGRAM see FRAME once, with CONTEXT in its `struct __sk_buff`.

        Raises:
            OSError: The kernel does not build such a frame (EINVAL).
        """
        return self.watch(lambda: self.show(frame, program, **context))

    def show(self, frame: bytes, program: str = "vtap_ingress", **context: int) -> None:
        """Let PROGRAM see FRAME as `run` does; the flow table keeps what comes of it."""
        if self.hook == "socket":  # to a socket filter the kernel does not show the first header
            frame = bytes(SHORTEST) + frame
        ran = testrun.run(self.objects.programs[program], frame, **context)
        assert ran.returned == _VERDICTS[self.hook]

    def run_many(self, frame: bytes, repeat: int) -> None:
        """Let `vtap_ingress` see FRAME that often; the flow table keeps what comes of it."""
        testrun.run(self.objects.programs["vtap_ingress"], frame, repeat)

    def watch(self, action: Callable[[], None]) -> Outcome:
        """What happens to counters and table by ACTION, which makes one packet pass a program."""
        before = self._counters()
        action()
        deadline = time.monotonic() + _DEADLINE
        while (after := self._counters()) == before:  # ingress has a queue ahead of it
            if time.monotonic() > deadline:
                raise TimeoutError("The packet did not reach the program.")
        counters = {name: n - before[name] for name, n in after.items()}
        return Outcome(counters, tuple(self._take_flows()))

    def _counters(self) -> dict[str, int]:
        """Of all interfaces and CPUs together."""
        size = LINK.size * self._cpus
        links = self.objects.maps["links"]
        data = b"".join(kernel.read_element(links, at, size) for at in self._places.values())
        rows = list(LINK.unpack(data))
        return {name: sum(row[name] for row in rows) for name in LINK_COUNTS}

    def _take_flows(self) -> Iterator[Flow]:
        """Empty the flow table."""
        table = self.objects.maps["flows"]
        key = ctypes.create_string_buffer(self._key.size)
        value = ctypes.create_string_buffer(FLOW_STATE.size)
        while self._libbpf.bpf_map_get_next_key(table, None, key) == 0:
            assert self._libbpf.bpf_map_lookup_elem(table, key, value) == 0
            assert self._libbpf.bpf_map_delete_elem(table, key) == 0
            yield _flow(self._key, key.raw, value.raw)


class Wire:
    """A loopback interface in a namespace of its own, with one direction under the program's eye.

    The kernel there never answers: the frames' destination must not be the interface's address,
    which is all zero.
    """

    def __init__(self, program: FlowProgram, direction: attach.Direction) -> None:
        """Make it, and attach."""
        self._program = program
        self._namespace = Namespace()
        self._namespace.run("ip", "link", "set", "lo", "mtu", str(_MTU))
        with self._namespace.entered():
            loopback = interfaces()["lo"]
            if program.hook == "socket":
                loaded = program.objects.programs["vtap_socket"]
                self._detach = PacketSocket(loaded, loopback, (direction,))
            else:
                loaded = program.objects.programs[f"vtap_{direction.name.lower()}"]
                self._detach = attach.attach(loaded, loopback, direction)
        self._socket = self._namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind(("lo", 0))

    def __enter__(self) -> Self:
        """Made already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Detach and remove it."""
        self._detach.detach()
        self._socket.close()
        self._namespace.close()

    def send(self, frame: bytes) -> Outcome:
        """What the program made of FRAME on its way through the interface.

        Raises:
            OSError: The frame is longer than the interface bears.
        """
        return self._program.watch(lambda: self.put(frame))

    def put(self, frame: bytes) -> None:
        """Send FRAME, and do not wait for it."""
        assert self._socket.send(frame) == len(frame)


def _flow(layout: Layout, key: bytes, value: bytes) -> Flow:
    (k,) = layout.unpack(key)
    slots = list(FLOW_SLOT.unpack(value[FLOW_STATE.offsets["slot"] :]))
    gathers = value[FLOW_STATE.offsets["end"]] & 1  # the lowest byte's lowest bit
    slot = slots[gathers]
    assert not any(slots[1 - gathers].values())
    assert k["ports"] in (0, 1)
    assert k.get("tunnel", 0) in (0, 1)
    vlans = [k["vlan"] & 0xFFFF, k["vlan"] >> 16]
    return Flow(
        src=_address(k["src_ip"], k["family"]),
        dst=_address(k["dst_ip"], k["family"]),
        protocol=k["protocol"],
        ports=(k["src_port"], k["dst_port"]) if k["ports"] else None,
        vlans=tuple(vlan & ~_VLAN_PRESENT for vlan in vlans if vlan & _VLAN_PRESENT),
        tunnel=k["tunnel_id"] if k.get("tunnel") else None,
        egress=bool(k["direction"]),
        interface=k["interface"],
        packets=slot["arrivals"] + slot["merged"],
        bytes=slot["bytes"],
        payload_bytes=slot["payload"],
    )


def _address(data: bytes, family: int) -> IPv4Address | IPv6Address | None:
    if family == 4:
        assert not any(data[4:])
        return IPv4Address(data[:4])
    return IPv6Address(data) if family else None
