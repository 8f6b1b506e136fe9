# SPDX-License-Identifier: Apache-2.0
"""New programs take over from old ones: all of them, or everything stays as it was.

In two phases. What has been loaded beside the old programs is made ready, which may fail without
anybody noticing; then each takes its places over, from one packet to the next. What a program
counted that was in force at some places when another place refused is taken, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trapstream_vtap.bpf import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.delivery import Delivery
    from trapstream_vtap.engine.room import Room
    from trapstream_vtap.keeper.client import Keeper
    from trapstream_vtap.probes.interface import Running
    from trapstream_vtap.settings.settings import Settings


class Next(NamedTuple):
    """What is to be in force next in a room, and the moment from which it counts (ns)."""

    room: Room
    running: Running
    moment: int


class Changeover:
    """What it takes to change over.

    Args:
        keeper: Attaches.
        delivery: Says whether records would fit.
        clock: What time it is.
        files: That probes need, opened.
    """

    def __init__(
        self, keeper: Keeper, delivery: Delivery, clock: Clock, files: Mapping[Path, BinaryIO]
    ) -> None:
        self._keeper = keeper
        self._delivery = delivery
        self._clock = clock
        self._files = files

    def load(self, room: Room, settings: Settings, objects: Objects) -> Running:
        """The probe of ROOM as it has been loaded from SETTINGS."""
        own = settings.of(room.probe)
        return room.probe.load(own, objects, self._clock, self._files)

    def change(
        self,
        rooms: Sequence[Room],
        settings: Settings,
        objects: Mapping[str, Objects],
        renewed: set[str],
    ) -> list[Next]:
        """Have what was loaded attached; the old programs, which count no more, are to be flushed.

        Args:
            rooms: All that have been loaded.
            settings: From which.
            objects: What, by probe.
            renewed: Names of interfaces that have gone, and are there again.

        Raises:
            Exception: Whatever it is, the old programs are in force everywhere.
        """
        made: dict[Room, Running] = {}
        try:
            for room in rooms:
                self._delivery.check(room.probe.schemas(settings.of(room.probe)))
                made[room] = self.load(room, settings, objects[room.probe.name])
        except BaseException:
            for room in rooms:
                (made.get(room) or objects[room.probe.name]).close()
            raise
        try:
            return self._take_over(made, renewed)
        except BaseException:
            kernel.wait_for_programs()
            for room, running in made.items():
                room.absorb(running, settings.of(room.probe))
                running.close()
            raise

    def _take_over(self, made: Mapping[Room, Running], renewed: set[str]) -> list[Next]:
        found = [
            Next(room, running, running.take_over(room.running)) for room, running in made.items()
        ]
        names = [room.probe.name for room in made if not room.is_guest]
        notes = self._keeper.attach(names, sorted(renewed))
        for room, running in made.items():
            running.notes += notes.get(room.probe.name, [])
        kernel.wait_for_programs()
        return found


def finish(each: Next, settings: Settings, listen: Callable[[Running, bool], None]) -> None:
    """Flush the old program of a room, and let the new one be in its place.

    Args:
        each: What is in force.
        settings: From which it was made.
        listen: Told of a program to which to listen, or not any more.
    """
    old = each.room.running
    listen(old, False)  # noqa: FBT003 - a callback
    each.room.flush(each.moment)
    each.room.begin(each.running, settings.of(each.room.probe))
    old.close()
    listen(each.running, True)  # noqa: FBT003 - likewise
