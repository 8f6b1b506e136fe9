# SPDX-License-Identifier: Apache-2.0
"""Holds a probe's programs at their places, of every kind, until it is told to let go."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import tcx, xdp
from trapstream_vtap.bpf.attach.cgroup import Cgroup
from trapstream_vtap.bpf.attach.netfilter import Netfilter
from trapstream_vtap.bpf.attach.packet_socket import PacketSocket
from trapstream_vtap.bpf.attach.place import (
    GENERIC,
    AnyPlace,
    CgroupPlace,
    Direction,
    NetfilterPlace,
    Place,
    TracepointPlace,
)
from trapstream_vtap.bpf.attach.promiscuous import promiscuous
from trapstream_vtap.bpf.attach.raw_tracepoint import RawTracepoint
from trapstream_vtap.bpf.attach.tracing import Tracing
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from trapstream_vtap.bpf.attach.attachment import Attachment
    from trapstream_vtap.interfaces import Interface

    _Key = tuple[str, tuple[Direction, ...]]

_GONE = (errno.ENOLINK, errno.ENODEV)


@dataclass
class _Attached:
    """A program at its place."""

    index: int
    program: int
    attachment: Attachment
    hook: str = ""
    generic: bool = False  # XDP behind the driver, which takes another program


@dataclass
class Change:
    """What `Holder.begin` has done, which is to be finished or undone."""

    notes: list[str] = field(default_factory=list)
    """Sentences for the person at the terminal."""
    wanted: set[_Key] = field(default_factory=set)
    added: dict[_Key, _Attached] = field(default_factory=dict)
    before: list[tuple[_Attached, int]] = field(default_factory=list)
    were_promiscuous: set[str] = field(default_factory=set)


def _index(place: AnyPlace) -> int:
    return place.interface.index if isinstance(place, Place) else 0


def _elsewhere(place: AnyPlace, program: int) -> Attachment:
    """PROGRAM at a PLACE that is at no interface."""
    match place:
        case TracepointPlace():
            return RawTracepoint(program, place.tracepoint)
        case NetfilterPlace():
            return Netfilter(program, place)
        case CgroupPlace():
            return Cgroup(program, place.path)
    return Tracing(program, place.program)


def _is_there(interface: Interface) -> bool:
    try:
        return socket.if_indextoname(interface.index) == interface.name
    except OSError:
        return False


class Holder:
    """What is attached, by place, and which interfaces are promiscuous by it.

    All of it goes with the process, too, but for the filters of kernels before 6.6.
    """

    def __init__(self) -> None:
        self._held: dict[_Key, _Attached] = {}
        self._promiscuous: dict[str, tuple[int, Callable[[], None]]] = {}
        self._said: set[str] = set()  # of those ahead of us

    def begin(
        self,
        places: Sequence[AnyPlace],
        programs: Mapping[str, int],
        renewed: Collection[str] = (),
    ) -> Change:
        """Have PROGRAMS at PLACES; or all stays as it was.

        Places at interfaces that have gone by now are passed over.

        Args:
            places: Where what belongs. Where there is a program already it is replaced in one step:
                no packet sees none of them, or both.
            programs: Their descriptors by name; they stay open as long as they are attached.
            renewed: Names of interfaces that have been removed meanwhile, and are there again.

        Returns:
            What `finish` or `undo` is to be called with.

        Raises:
            RunError: The kernel refuses.
            OSError: The kernel refuses to replace.
        """
        self.let_go(renewed)
        change = Change(were_promiscuous=set(self._promiscuous))
        kept = {
            place.key: there
            for place in places
            if (there := self._held.get(place.key)) and there.index == _index(place)
        }
        try:
            # first what may well be refused: so far the new program has counted nothing elsewhere
            for place in places:
                change.wanted.add(place.key)
                held = self._prepare(place, programs, change.notes, attached=place.key in kept)
                if held:
                    change.added[place.key] = held
            for place in places:
                if there := kept.get(place.key):
                    program = programs[place.program + (GENERIC if there.generic else "")]
                    self._replace(there, program)
                    change.before.append((there, there.program))
                    there.program = program
        except BaseException:
            self.undo(change)
            raise
        return change

    def undo(self, change: Change) -> None:
        """All is as it was before that CHANGE began."""
        for held in change.added.values():
            with contextlib.suppress(Exception):  # whatever it is, the others are undone
                held.attachment.detach()
        for held, program in change.before:
            with contextlib.suppress(Exception):  # its interface is going just now
                held.attachment.replace(program)
            held.program = program
        self._keep_promiscuous(change.were_promiscuous)

    def finish(self, change: Change) -> None:
        """The CHANGE is for good: nothing is attached anywhere else."""
        for key in [k for k in self._held if k not in change.wanted or k in change.added]:
            self._let_go(key)
        self._held |= change.added
        self._keep_promiscuous({key[0] for key in self._held})

    def settle(self) -> None:
        """Nobody but the programs put there last sees anything any more."""
        for held in self._held.values():
            held.attachment.settle()

    @property
    def programs(self) -> set[int]:
        """Descriptors of all that is attached."""
        return {held.program for held in self._held.values()}

    def ahead(self, ours: Collection[int]) -> list[str]:
        """A sentence for each program of somebody else that has come ahead of OURS."""
        found = []
        for (name, directions), held in self._held.items():
            with contextlib.suppress(OSError):  # its interface is going just now
                if not held.attachment.is_first(ours):
                    side = " and ".join(direction.name.lower() for direction in directions)
                    found.append(
                        f"Another program sees {side} of {name} ahead of ours: what it does not "
                        "let through is not measured."
                    )
                if held.hook != "xdp" and 0 in directions and kernel.xdp_id(held.index):
                    found.append(
                        f"An XDP program sees what comes in at {name} ahead of ours: what it "
                        "drops or redirects is not measured."
                    )
        news = [sentence for sentence in found if sentence not in self._said]
        self._said = {*found}
        return news

    def let_go(self, names: Collection[str]) -> None:
        """Of interfaces of these NAMES, which are gone, in this namespace or under this name."""
        for key in [key for key in self._held if key[0] in names]:
            self._let_go(key)
        self._keep_promiscuous({*self._promiscuous} - {*names})

    @staticmethod
    def _replace(there: _Attached, program: int) -> None:
        try:
            there.attachment.replace(program)
        except OSError as error:
            if error.errno not in _GONE:  # else nobody sees anything there any more
                raise

    def detach(self) -> None:
        """Let go of all."""
        while self._held:
            self._let_go(next(iter(self._held)))
        self._keep_promiscuous(())

    def _let_go(self, key: _Key) -> None:
        self._held.pop(key).attachment.detach()

    def _keep_promiscuous(self, names: Collection[str]) -> None:
        for name in [name for name in self._promiscuous if name not in names]:
            self._promiscuous.pop(name)[1]()

    def _make_promiscuous(self, place: Place) -> None:
        interface = place.interface
        if not place.promiscuous:
            return
        index, let_go = self._promiscuous.get(interface.name, (0, None))
        if index == interface.index:
            return
        asking = promiscuous([interface])
        self._promiscuous[interface.name] = interface.index, asking
        if let_go:
            let_go()

    def _prepare(
        self,
        place: AnyPlace,
        programs: Mapping[str, int],
        notes: list[str],
        *,
        attached: bool,
    ) -> _Attached | None:
        """Make PLACE ready, and attach there unless something is ATTACHED; if it is still there."""
        if not isinstance(place, Place):
            program = programs[place.program]
            return None if attached else _Attached(0, program, _elsewhere(place, program))
        try:
            self._make_promiscuous(place)
            return None if attached else self._attach(place, programs, notes)
        except RunError:
            if _is_there(place.interface):
                raise
            return None

    @staticmethod
    def _attach(place: Place, programs: Mapping[str, int], notes: list[str]) -> _Attached:
        interface, program = place.interface, programs[place.program]
        attached: Attachment
        if place.hook == "socket":
            attached = PacketSocket(program, interface, place.directions)
        elif place.hook == "tc":
            attached = tcx.attach(program, interface, place.directions[0])
        else:
            generic = programs[place.program + GENERIC]
            attached, native = xdp.attach(program, generic, interface)
            if not native:
                notes.append(
                    f"{interface.name} has no XDP of its own: its packets are seen by generic XDP, "
                    "which is slower than --hook tc."
                )
                return _Attached(interface.index, generic, attached, place.hook, generic=True)
        return _Attached(interface.index, program, attached, place.hook)
