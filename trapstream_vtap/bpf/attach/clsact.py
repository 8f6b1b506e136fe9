# SPDX-License-Identifier: Apache-2.0
"""Traffic control by filters of the clsact queueing discipline, for kernels before 6.6.

They stay in the kernel until somebody removes them: at exit, or, after SIGKILL, at the next start.

See: tc-bpf(8), include/uapi/linux/pkt_sched.h
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection

    from trapstream_vtap.bpf.attach.place import Direction
    from trapstream_vtap.interfaces import Interface

_FILTER_NAME = "vtap-stream"
_NUMBERS = itertools.count(1)
_DIRECT = {"direct_action": True, "classid": 1}
_FIRST = {"prio": 1, "protocol": 3}
"""Ahead of all others: of filters with one preference, the kernel asks the newest first."""
_PARENTS = {0: 0xFFFFFFF2, 1: 0xFFFFFFF3}  # clsact's ingress and egress, uapi/linux/pkt_sched.h


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


class Clsact(Attachment):
    """A filter, ahead of all others where that can be; clsact is made if it is not there.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, interface: Interface, direction: Direction) -> None:
        self._interface = interface
        self._parent = _PARENTS[direction]
        with _netlink() as route:
            there = _ours(route, interface)
            for old in there:
                if not _lives(old.pid):
                    _remove(route, interface, old)
            made = any(mine.pid == os.getpid() and mine.made_clsact for mine in there)
            with contextlib.suppress(Exception):  # EEXIST
                route.tc("add", "clsact", interface.index)
                made = True
            number = next(_NUMBERS)  # another probe may have a filter at the same place
            self._name = f"{_FILTER_NAME}:{os.getpid()}:{number}" + (":made" if made else "")
            self._added = {"name": self._name, "parent": self._parent, **_DIRECT}
            try:
                _add_ahead(route, interface, {**self._added, "fd": program})
            except Exception as error:
                raise RunError(
                    f"Cannot attach to {direction.name.lower()} of {interface.name}: {error}."
                ) from error

    def _mine(self, route: Any) -> list[_Filter]:
        found = _ours(route, self._interface)
        return [f for f in found if (f.name, f.parent) == (self._name, self._parent)]

    def replace(self, program: int) -> None:
        """In the place of the filter that is there."""
        with _netlink() as route:
            for there in self._mine(route):
                changed = {**self._added, **_FIRST, "fd": program, "prio": there.preference}
                index = self._interface.index
                try:
                    route.tc("replace-filter", "bpf", index, there.handle, **changed)
                except Exception as error:  # pyroute2's own say what the kernel said
                    code = getattr(error, "code", None) or errno.EIO
                    raise OSError(code, os.strerror(code)) from error

    def detach(self) -> None:
        """And remove clsact, if it was made for filters of ours and no other is left."""
        with _netlink() as route:
            for there in self._mine(route):
                _remove(route, self._interface, there)

    def is_first(self, programs: Collection[int]) -> bool:  # noqa: ARG002 - names tell ours
        """By the order in which the kernel lists filters."""
        with _netlink() as route:
            listed = _filters(route, self._interface, self._parent)
            turns = [(message["info"] >> 16, message["handle"]) for message in listed]
            ours = {(f.preference, f.handle) for f in self._mine(route)}
        # entries without a handle only say which preferences there are
        return next((turn for turn in turns if turn[1]), None) in ours


def _add_ahead(route: Any, interface: Interface, filter_: dict[str, Any]) -> None:
    """Add a filter ahead of all others, or wherever it may be if the first is of another kind."""
    try:
        route.tc("add-filter", "bpf", interface.index, **filter_, **_FIRST)
    except Exception:  # noqa: BLE001 - pyroute2 has many
        route.tc("add-filter", "bpf", interface.index, **filter_)
