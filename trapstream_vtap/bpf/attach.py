# SPDX-License-Identifier: Apache-2.0
"""Attach programs to the two directions of an interface.

With tcx links where the kernel has them (6.6): they go with the process, whatever ends it, and
leave other programs alone. Else with clsact filters, which stay in the kernel until somebody
removes them: at exit, or, after SIGKILL, at the next start.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trapstream_vtap.bpf import kernel
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trapstream_vtap.interfaces import Interface

_FILTER_NAME = "vtap-stream"
_DIRECT = {"direct_action": True, "classid": 1}
_FIRST = {"prio": 1, "protocol": 3}
"""Ahead of all others: of filters with one preference, the kernel asks the newest first."""
_PARENTS = {0: 0xFFFFFFF2, 1: 0xFFFFFFF3}  # clsact's ingress and egress, uapi/linux/pkt_sched.h


class Direction(enum.IntEnum):
    """Seen from this machine."""

    INGRESS = 0
    EGRESS = 1


@dataclass(frozen=True)
class Attachment:
    """A program at its place; called, it detaches it.

    Args:
        detach: Detaches whatever is there.
        replace: Puts another program there in one step: no packet sees none of them, or both.
        first: Whether one of these programs sees packets ahead of all others at that place.
    """

    detach: Callable[[], None]
    replace: Callable[[int], None]
    first: Callable[[Collection[int]], bool] = lambda _programs: True

    def __call__(self) -> None:
        """Detach."""
        self.detach()


def attach(program: int, interface: Interface, direction: Direction) -> Attachment:
    """Attach PROGRAM ahead of all others; what replaces it, or detaches it again.

    Raises:
        RunError: The kernel refuses.
    """
    kind = (kernel.BPF_TCX_INGRESS, kernel.BPF_TCX_EGRESS)[direction]
    try:
        link = kernel.link_tcx(program, interface.index, kind)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return attach_clsact(program, interface, direction)
        why = os.strerror(error.errno or 0)
        if error.errno == errno.EMFILE:
            why += "; each place takes an open file: raise the limit (ulimit -n, LimitNOFILE=)"
        raise RunError(
            f"Cannot attach to {direction.name.lower()} of {interface.name}: {why}."
        ) from error
    return Attachment(
        lambda: os.close(link),
        lambda other: kernel.update_link(link, other),
        lambda ours: kernel.first_tcx(interface.index, kind) in map(kernel.program_id, ours),
    )


def _netlink() -> Any:
    """A netlink socket; pyroute2 is large, and only kernels before 6.6 need it."""
    from pyroute2 import IPRoute  # noqa: PLC0415

    return IPRoute()


@dataclass(frozen=True)
class _Filter:
    """A filter of ours, as its name says: whose it is, and whether clsact was made for it."""

    parent: int
    preference: int
    handle: int
    name: str

    @property
    def pid(self) -> int:
        """The process that attached it."""
        return int(self.name.split(":")[1])

    @property
    def made_clsact(self) -> bool:
        """Whether clsact was not there before."""
        return self.name.endswith(":made")


def _ours(route: Any, interface: Interface) -> list[_Filter]:
    """Filters of vtap-stream on INTERFACE."""
    found = []
    for parent in _PARENTS.values():
        for message in _filters(route, interface, parent):
            options = message.get_attr("TCA_OPTIONS")
            name = (options and options.get_attr("TCA_BPF_NAME")) or ""
            if name.startswith(f"{_FILTER_NAME}:"):
                found.append(_Filter(parent, message["info"] >> 16, message["handle"], name))
    return found


def _lives(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _filters(route: Any, interface: Interface, parent: int) -> list[Any]:
    with contextlib.suppress(Exception):  # there is no clsact
        return list(route.get_filters(index=interface.index, parent=parent))
    return []


def _remove(route: Any, interface: Interface, mine: _Filter) -> None:
    """Remove one filter, and with the last of all a clsact that was made for it."""
    with contextlib.suppress(Exception):  # somebody was faster
        route.tc(
            "del-filter",
            "bpf",
            interface.index,
            mine.handle,
            parent=mine.parent,
            prio=mine.preference,
            protocol=3,
        )
    if mine.made_clsact and not any(
        _filters(route, interface, parent) for parent in _PARENTS.values()
    ):
        with contextlib.suppress(Exception):
            route.tc("del", "clsact", interface.index)


def attach_clsact(program: int, interface: Interface, direction: Direction) -> Attachment:
    """Attach by a filter of the clsact queueing discipline, which is made if it is not there."""
    parent = _PARENTS[direction]
    with _netlink() as route:
        there = _ours(route, interface)
        for old in there:
            if not _lives(old.pid):
                _remove(route, interface, old)
        made = any(mine.pid == os.getpid() and mine.made_clsact for mine in there)
        with contextlib.suppress(Exception):  # EEXIST
            route.tc("add", "clsact", interface.index)
            made = True
        name = f"{_FILTER_NAME}:{os.getpid()}" + (":made" if made else "")
        added = {"fd": program, "name": name, "parent": parent, **_DIRECT}
        try:
            _add_ahead(route, interface, added)
        except Exception as error:
            raise RunError(
                f"Cannot attach to {direction.name.lower()} of {interface.name}: {error}."
            ) from error

    def mine(route: Any) -> list[_Filter]:
        return [f for f in _ours(route, interface) if (f.name, f.parent) == (name, parent)]

    def detach() -> None:
        with _netlink() as route:
            for there in mine(route):
                _remove(route, interface, there)

    def replace(other: int) -> None:
        with _netlink() as route:
            for there in mine(route):
                changed = {**added, **_FIRST, "fd": other, "prio": there.preference}
                route.tc("replace-filter", "bpf", interface.index, there.handle, **changed)

    def first(_programs: Collection[int]) -> bool:
        with _netlink() as route:
            turns = [(m["info"] >> 16, m["handle"]) for m in _filters(route, interface, parent)]
            ours = {(f.preference, f.handle) for f in mine(route)}
        # entries without a handle only say which preferences there are
        return next((turn for turn in turns if turn[1]), None) in ours

    return Attachment(detach, replace, first)


def _add_ahead(route: Any, interface: Interface, filter_: dict[str, Any]) -> None:
    """Add a filter ahead of all others, or wherever it may be if the first is of another kind."""
    try:
        route.tc("add-filter", "bpf", interface.index, **filter_, **_FIRST)
    except Exception:  # noqa: BLE001 - pyroute2 has many
        route.tc("add-filter", "bpf", interface.index, **filter_)
