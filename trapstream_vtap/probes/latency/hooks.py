# SPDX-License-Identifier: Apache-2.0
"""Which hooks of the running kernel see a packet at each stage: the best that it has."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import AnyPlace, CgroupPlace, NetfilterPlace, TracingPlace
from trapstream_vtap.bpf.code import KINDS
from trapstream_vtap.bpf.source import Program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.bpf.btf import Btf

_RETURN_1 = bytes.fromhex("b700000001000000 9500000000000000")  # r0 = 1; exit
_FAMILIES = {"4": 2, "6": 10}  # NFPROTO_IPV4, NFPROTO_IPV6, include/uapi/linux/netfilter.h
_PRE_ROUTING, _LOCAL_IN = 0, 1
_FIRST, _LAST = -(1 << 31) + 1, (1 << 31) - 3  # with the next one, which a reload takes in turn
_NO_FENTRY = "this kernel lets no program trace its functions"
_NO_NETFILTER = "this kernel has no programs in netfilter (6.4 and newer have)"
_NO_CGROUPS = "no cgroup2 file system is mounted"


@dataclass(frozen=True)
class Hook:
    """A program of bpf/latency/latency.c at its place.

    Args:
        text: What is to be defined so that it is compiled.
        program: To be loaded.
        place: Where.
    """

    text: str
    program: Program
    place: AnyPlace


@dataclass(frozen=True)
class Found:
    """What a kernel has for a stage.

    Args:
        hooks: All of them are needed; none: it has not what it takes.
        missing: What is not seen, and why; empty: nothing.
    """

    hooks: tuple[Hook, ...] = ()
    missing: str = ""


class Kernel:
    """The running kernel.

    Args:
        types: Its BTF.
    """

    def __init__(self, types: Btf) -> None:
        self._types = types

    @cached_property
    def _traces(self) -> bool:
        return _traces_functions(self._types)

    @cached_property
    def _netfilter(self) -> bool:
        return _loads("NETFILTER")

    def find(self, stage: str) -> Found:
        """What there is for STAGE."""
        return _FINDERS[stage](self)

    def _tracing(self, kind: str, name: str, function: str, target: str) -> Hook | None:
        traced = self._types.traced(target, tracepoint=kind == "TRACEPOINT")
        if not traced or (kind != "TRACEPOINT" and not self._traces):
            return None
        program = Program(name, kind, function, traced=traced, shared=True)
        return Hook(function.removeprefix("vtap_").upper(), program, TracingPlace(name))

    def _netfilters(self, name: str, hook: int, priority: int) -> Found:
        if not self._netfilter:
            return Found(missing=_NO_NETFILTER)
        function = f"vtap_{name}"
        return Found(
            tuple(
                Hook(
                    name.upper(),
                    Program(f"{function}{version}", "NETFILTER", function, shared=True),
                    NetfilterPlace(f"{function}{version}", family, hook, priority),
                )
                for version, family in _FAMILIES.items()
            )
        )

    def _stack(self) -> Found:
        hook = self._tracing("TRACEPOINT", "vtap_stack", "vtap_stack", "netif_receive_skb")
        return Found((hook,)) if hook else Found(missing="there is no tracepoint netif_receive_skb")

    def _ip(self) -> Found:
        traced = [
            self._tracing("FENTRY", "vtap_ip4", "vtap_ip", "ip_rcv_core"),
            self._tracing("FENTRY", "vtap_ip6", "vtap_ip", "ip6_rcv_core"),
        ]
        return self._all(traced) or self._netfilters("ip_rules", _PRE_ROUTING, _FIRST)

    def _rules(self) -> Found:
        return self._netfilters("rules", _PRE_ROUTING, _LAST)

    def _local(self) -> Found:
        traced = [
            self._tracing("FENTRY", "vtap_local4", "vtap_local", "ip_local_deliver"),
            self._tracing("FENTRY", "vtap_local6", "vtap_local", "ip6_input"),
        ]
        return self._all(traced) or self._netfilters("local_rules", _LOCAL_IN, _FIRST)

    def _socket(self) -> Found:
        path = cgroups()
        if not path:
            return Found(missing=_NO_CGROUPS)
        program = Program("vtap_socket", "CGROUP_SKB", shared=True)
        return Found((Hook("SOCKET", program, CgroupPlace("vtap_socket", path)),))

    def _queued(self) -> Found:
        traced = [
            self._tracing("FENTRY", "vtap_queued_tcp", "vtap_queued_tcp", "tcp_queue_rcv"),
            self._tracing(
                "FEXIT", "vtap_queued_udp", "vtap_queued_udp", "__udp_enqueue_schedule_skb"
            ),
        ]
        exact = self._all(traced)
        if exact:
            return exact
        hook = self._tracing("TRACEPOINT", "vtap_queued", "vtap_queued", "sk_data_ready")
        if hook:
            return Found((hook,))
        return Found(missing=f"there is no tracepoint sk_data_ready, and {_NO_FENTRY}")

    def _read(self) -> Found:
        tcp = self._tracing(
            "TRACEPOINT", "vtap_read_tcp", "vtap_read_tcp", "skb_copy_datagram_iovec"
        )
        udp = self._tracing("FENTRY", "vtap_read_udp", "vtap_read_udp", "skb_consume_udp")
        hooks = tuple(hook for hook in (tcp, udp) if hook)
        lost = [name for name, hook in (("TCP", tcp), ("UDP", udp)) if not hook]
        why = f"{' and '.join(lost)}: {_NO_FENTRY}" if lost else ""
        return Found(hooks, why)

    @staticmethod
    def _all(hooks: Sequence[Hook | None]) -> Found | None:
        found = tuple(hook for hook in hooks if hook)
        return Found(found) if len(found) == len(hooks) else None


_FINDERS = {
    "stack": Kernel._stack,  # noqa: SLF001 - ours
    "ip": Kernel._ip,  # noqa: SLF001
    "rules": Kernel._rules,  # noqa: SLF001
    "local": Kernel._local,  # noqa: SLF001
    "socket": Kernel._socket,  # noqa: SLF001
    "queued": Kernel._queued,  # noqa: SLF001
    "read": Kernel._read,  # noqa: SLF001
}


def cgroups() -> str:
    """Where the file system of control groups (version 2) is mounted; empty: nowhere."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123
        words = (line.split() for line in mounts)
        path = next((found[1] for found in words if found[2] == "cgroup2"), "")
    return re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), path)  # proc(5): space, tab


def _loads(kind: str) -> bool:
    """Whether the kernel takes programs of that kind at all."""
    number, attach_type = KINDS[kind]
    try:
        program = kernel.load_program(number, "vtap_try", _RETURN_1, attach_type)
    except OSError:
        return False
    os.close(program)
    return True


def _traces_functions(types: Btf) -> bool:
    """Whether a program can be had to run at a function; only trying says so."""
    traced = types.traced("skb_consume_udp")
    number, attach_type = KINDS["FENTRY"]
    returns_0 = _RETURN_1.replace(b"\x01", b"\x00", 1)
    try:
        program = kernel.load_program(number, "vtap_try", returns_0, attach_type, traced=traced)
    except OSError:
        return False
    try:
        os.close(kernel.attach_raw_tracepoint(program, None))
    except OSError:
        return False
    finally:
        os.close(program)
    return True
