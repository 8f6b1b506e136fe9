# SPDX-License-Identifier: Apache-2.0
"""Attach programs to the two directions of an interface.

With tcx links where the kernel has them (6.6): they go with the process, whatever ends it, and leave
other programs alone. Else with clsact filters, which stay in the kernel until somebody removes them:
at exit, or, after SIGKILL, at the next start.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from typing import TYPE_CHECKING, Any

from trapstream_vtap.bpf import kernel
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.interfaces import Interface

_FILTER_NAME = "vtap-stream"
_PARENTS = {0: 0xFFFFFFF2, 1: 0xFFFFFFF3}  # clsact's ingress and egress, uapi/linux/pkt_sched.h


class Direction(enum.IntEnum):
    """Seen from this machine."""

    INGRESS = 0
    EGRESS = 1


def attach(program: int, interface: Interface, direction: Direction) -> Callable[[], None]:
    """Attach PROGRAM; what detaches it again.

    Raises:
        RunError: The kernel refuses, or is too old for tcx and pyroute2 is not there.
    """
    kind = (kernel.BPF_TCX_INGRESS, kernel.BPF_TCX_EGRESS)[direction]
    try:
        link = kernel.link_tcx(program, interface.index, kind)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return attach_clsact(program, interface, direction)
        why = os.strerror(error.errno or 0)
        raise RunError(f"Cannot attach to {direction.name.lower()} of {interface.name}: {why}.") from error
    return lambda: os.close(link)


def _netlink() -> Any:
    """A netlink socket; pyroute2 is large, and only kernels before 6.6 need it."""
    try:
        from pyroute2 import IPRoute  # noqa: PLC0415
    except ImportError as error:
        raise RunError(
            "This kernel has no tcx (6.6); attaching otherwise needs pyroute2: install the package "
            "python3-pyroute2."
        ) from error
    return IPRoute()


def _alive(name: str) -> bool:
    """Whether the process that a filter is named after still runs."""
    pid = name.rpartition(":")[2]
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")  # noqa: PTH110 - asked, not opened


def _ours(route: Any, interface: Interface) -> list[tuple[int, int, int, str]]:
    """Filters of ours on INTERFACE: parent, preference, handle, name."""
    found = []
    for parent in _PARENTS.values():
        with contextlib.suppress(Exception):  # no clsact there
            for message in route.get_filters(index=interface.index, parent=parent):
                options = dict(message.get("attrs", [])).get("TCA_OPTIONS")
                name = dict(options["attrs"]).get("TCA_BPF_NAME", "") if options else ""
                if name.startswith(_FILTER_NAME):
                    found.append((parent, message["info"] >> 16, message["handle"], name))
    return found


def _remove(route: Any, interface: Interface, parent: int, preference: int, handle: int) -> None:
    """Remove one filter, and clsact with it if it was the last of all."""
    with contextlib.suppress(Exception):  # somebody was faster
        route.tc(
            "del-filter", "bpf", interface.index, handle, parent=parent, prio=preference, protocol=3
        )
    if not any(
        route.get_filters(index=interface.index, parent=other) for other in _PARENTS.values()
    ):
        with contextlib.suppress(Exception):
            route.tc("del", "clsact", interface.index)


def attach_clsact(program: int, interface: Interface, direction: Direction) -> Callable[[], None]:
    """Attach by a filter of the clsact queueing discipline, which is made if it is not there."""
    name = f"{_FILTER_NAME}:{os.getpid()}"
    parent = _PARENTS[direction]
    with _netlink() as route:
        for at, preference, handle, owner in _ours(route, interface):
            if not _alive(owner):
                _remove(route, interface, at, preference, handle)
        with contextlib.suppress(Exception):  # it is there: EEXIST
            route.tc("add", "clsact", interface.index)
        try:
            route.tc(
                "add-filter",
                "bpf",
                interface.index,
                fd=program,
                name=name,
                parent=parent,
                direct_action=True,
                classid=1,
            )
        except Exception as error:
            raise RunError(
                f"Cannot attach to {direction.name.lower()} of {interface.name}: {error}."
            ) from error

    def detach() -> None:
        with _netlink() as route:
            for at, preference, handle, owner in _ours(route, interface):
                if owner == name and at == parent:
                    _remove(route, interface, at, preference, handle)

    return detach
