# SPDX-License-Identifier: Apache-2.0
"""Where a program belongs: at an interface, or elsewhere in the kernel."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapstream_vtap.interfaces import Interface

GENERIC = "_generic"
"""What the names of programs for generic XDP end with."""


class Direction(enum.IntEnum):
    """Seen from this machine."""

    INGRESS = 0
    EGRESS = 1


@dataclass(frozen=True)
class Place:
    """At an interface.

    Args:
        interface: Which one.
        directions: Of its packets; only a packet socket sees both.
        hook: `tc`, `xdp` or `socket`.
        program: The program's name.
        promiscuous: Whether the interface takes frames for other machines too.
    """

    interface: Interface
    directions: tuple[Direction, ...]
    hook: str
    program: str
    promiscuous: bool = False

    @property
    def key(self) -> tuple[str, tuple[Direction, ...]]:
        """The same for a program that takes another's place."""
        return self.interface.name, self.directions


@dataclass(frozen=True)
class TracepointPlace:
    """At a tracepoint of the kernel.

    Args:
        tracepoint: Its name.
        program: The program's.
    """

    tracepoint: str
    program: str

    @property
    def key(self) -> tuple[str, tuple[Direction, ...]]:
        """As of `Place`; no interface has a name with a colon."""
        return f"tracepoint:{self.tracepoint}", ()


@dataclass(frozen=True)
class TracingPlace:
    """At what the program was loaded for: a tracepoint with types, or a function of the kernel.

    Args:
        program: The program's name.
    """

    program: str

    @property
    def key(self) -> tuple[str, tuple[Direction, ...]]:
        """As of `Place`; no interface has a name with a colon."""
        return f"tracing:{self.program}", ()


@dataclass(frozen=True)
class NetfilterPlace:
    """Among the rules of netfilter in this network namespace.

    Args:
        program: The program's name.
        family: NFPROTO_IPV4 or NFPROTO_IPV6.
        hook: NF_INET_PRE_ROUTING or another.
        priority: Where among the rules, the least comes first; the next one must be free, too.
    """

    program: str
    family: int
    hook: int
    priority: int

    @property
    def key(self) -> tuple[str, tuple[Direction, ...]]:
        """As of `Place`."""
        return f"netfilter:{self.family}:{self.hook}:{self.priority}", ()


@dataclass(frozen=True)
class CgroupPlace:
    """At what comes in for the sockets of a control group and all below it.

    Args:
        program: The program's name.
        path: Of the control group.
    """

    program: str
    path: str

    @property
    def key(self) -> tuple[str, tuple[Direction, ...]]:
        """As of `Place`."""
        return f"cgroup:{self.path}", ()


AnyPlace = Place | TracepointPlace | TracingPlace | NetfilterPlace | CgroupPlace
