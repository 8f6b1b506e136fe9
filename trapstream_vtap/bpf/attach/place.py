# SPDX-License-Identifier: Apache-2.0
"""Where a program belongs: at an interface, or at a tracepoint."""

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
