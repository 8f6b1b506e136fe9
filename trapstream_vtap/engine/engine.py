# SPDX-License-Identifier: Apache-2.0
"""The loop: each room one step, the account at each grid line, sleep until there is more to do."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Protocol, TypeVar

from trapstream_vtap import account, credentials, privileges
from trapstream_vtap.bpf import kernel
from trapstream_vtap.clock import NEVER, NS, Grid, SystemClock
from trapstream_vtap.delivery import Delivery
from trapstream_vtap.device import Device
from trapstream_vtap.endpoint import Endpoints
from trapstream_vtap.engine import events
from trapstream_vtap.engine.bus import Bus
from trapstream_vtap.engine.loading import Loading
from trapstream_vtap.engine.reporter import progress
from trapstream_vtap.engine.room import Room
from trapstream_vtap.engine.situation import Situation
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.health import Health
from trapstream_vtap.keeper.client import Keeper
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.probes import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Account, Rows
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.metrics.exporter import Metrics
    from trapstream_vtap.probes.interface import Probe, Running
    from trapstream_vtap.schema import Schema
    from trapstream_vtap.settings.core import Core
    from trapstream_vtap.settings.settings import Settings

_Closes = TypeVar("_Closes", bound="Closes")

_DEVICE_SECONDS = 1.0  # at the start, for the resolver to say where the collector is
_DRAIN_SECONDS = 5.0  # at the end, for the collector to take what is left
_LOOK_NS = 10 * NS  # from one look at who else is at our places to the next


class Closes(Protocol):
    """What is let go of."""

    def close(self) -> None:
        """Let go."""


class Engine:
    """One run of everything that is to be measured and streamed.

    Making one does nothing yet. `open` takes what only root may, `run` measures until `stop`.

    Args:
        settings: Of this run.
        again: The command line by which the configuration file is read again, or None.
        report: Takes what happens, in any thread.
        clock: What time it is.
    """

    def __init__(
        self,
        settings: Settings,
        again: Sequence[str] | None = None,
        report: Callable[[events.Event], None] = lambda _event: None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._again = again
        self._report = report
        self._clock = clock or SystemClock()
        self.bus = Bus()
        self._closing = contextlib.ExitStack()
        self._stop = False
        self._reload = False
        self._rooms: list[Room] = []
        self.notes: list[str] = []
        """Sentences that are said when everything is attached."""
        self._schemas: dict[Rows, tuple[tuple[str, ...], Schema]] = {}
        self._waking, self._woken = socket.socketpair()
        for end in (self._waking, self._woken):
            end.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self._closing.enter_context(end)

    # --- what only root may

    def open(self) -> None:
        """Take what only root may: the keeper, addresses to listen on, spools, files.

        Raises:
            UsageError: The settings say what cannot be.
            RunError: Something cannot be had.
        """
        settings, core = self._settings, self._settings.core
        self._delivery = Delivery(core, self._note, self.stop)
        probes = settings.probes
        for probe in probes:
            self._delivery.check(probe.schemas(settings.of(probe)))
            self._delivery.check((probe.rows(settings.of(probe)).named(core.names),))
        self._delivery.check((SINK_ROWS.named(tuple(self._delivery.names)),))
        self._metrics = self._make_metrics(probes)
        self._rooms = [Room(probe, self.bus.publish, self._follow) for probe in probes]
        privileges.raise_descriptor_limit()
        self._keeper = self._hold(Keeper(settings, self._again))
        self._situation = self._hold(Situation(settings.core, self._clock, self._report))
        self._loading = Loading(self._keeper, probes, settings, self.wake)
        self._delivery.credentials.through(self._keeper.credentials)
        self._endpoints = self._hold(Endpoints(self._note))
        self._health_page = self._endpoints.at(core.health, "--health")
        self._health = self._hold(Health(self._health_page, self._delivery.up))
        self._files = {path: file for p in probes for path, file in self._opened(p).items()}
        self._metrics_page = self._endpoints.at(core.metrics, "--metrics")

    def _hold(self, thing: _Closes) -> _Closes:
        """THING, which `close` lets go of."""
        return self._closing.enter_context(contextlib.closing(thing))

    def _opened(self, probe: Probe) -> dict[Path, BinaryIO]:
        found: dict[Path, BinaryIO] = {}
        for path in probe.needs(self._settings.of(probe)).files:
            with contextlib.suppress(OSError):  # this kernel has none
                found[path] = self._closing.enter_context(path.open("rb"))
        return found

    def _make_metrics(self, probes: Iterable[Probe]) -> Metrics | None:
        """What Prometheus scrapes, if it does; else its library is not even loaded."""
        if not self._settings.core.metrics:
            return None
        from trapstream_vtap.metrics.exporter import Metrics  # noqa: PLC0415 - only where used

        collectors = {probe.name: probe.collector(self._settings.of(probe)) for probe in probes}
        return Metrics(
            self._delivery.device, collectors, lambda: (SINK_ROWS, self._delivery.accounts())
        )

    # --- the run

    def run(self) -> bool:
        """Measure and stream until told to stop.

        Returns:
            Whether that was of use: False if all records were lost, or if something that was
            counted could not be handed over.

        Raises:
            RunError: Measuring cannot begin, or cannot go on.
        """
        core = self._settings.core
        self._delivery.try_files()
        device = Device(core.device, core.sinks, self._note, self.wake)
        self._device = self._hold(device)
        self._device.start()
        self._endpoints.start()
        self.bus.subscribe(self._delivery.take)
        if self._metrics:
            self.bus.subscribe(self._metrics.take)
            if self._metrics_page:
                self._metrics_page.add("/metrics", self._metrics.page)
        self._load_all()
        self._situation.begin(self._settings)
        self._device.wait(_DEVICE_SECONDS)
        self._follow_device()
        for room in self._rooms:
            room.running.take_over(None)
            attached = self._keeper.attach(room.probe.name)
            self.notes += [*room.running.notes, *attached]
        for note in self.notes:
            self._note(note)
        self._delivery.start()
        self._health.started()
        self._say_measuring()
        try:
            self._loop()
        finally:
            self._finish()
        failed = any(
            room.totals()[count.name]
            for room in self._rooms
            for count in room.probe.rows(room.settings).counts
            if count.fails
        )
        return not self._delivery.in_vain() and not failed

    def _load_all(self) -> None:
        for room in self._rooms:
            objects, self._settings = self._keeper.load(room.probe.name)
            own = self._settings.of(room.probe)
            room.begin(room.probe.load(own, objects, self._clock, self._files), own)

    def _say_measuring(self) -> None:
        told = [room.probe.measures(room.settings) for room in self._rooms]
        names = tuple(self._delivery.names)
        self._report(events.Measuring(" and ".join(told), self._settings.core.format, names))
        if self._health_page:
            url = self._health_page.url
            self._report(events.Serving("health", (f"{url}/healthz", "/readyz")))
        if self._metrics_page:
            self._report(events.Serving("metrics", (f"{self._metrics_page.url}/metrics",)))

    def _loop(self) -> None:
        now = self._clock.now()
        duration = self._settings.core.duration
        end = NEVER if duration is None else now + int(duration * NS)
        self._begin_grid()
        self._looked = now
        with select.epoll() as poll:
            for ours in (self._woken, self._situation, self._keeper):
                poll.register(ours.fileno(), select.EPOLLIN)
            for room in self._rooms:
                _listen(poll, room.running)
            while True:
                self._health.beat()
                self._follow_device()
                self._do_what_is_told(poll)
                if self._stop:  # not before `woken` is emptied, which would not wake us again
                    return
                for room in self._rooms:
                    room.step()
                self._account_if_closed()
                if self._clock.now() >= end:
                    return
                due = min(end, self._situation.due(), *(r.running.due() for r in self._rooms))
                rest = max(due - self._clock.now(), 0) / NS
                patience = min(rest, self._health.turn or rest)
                self._attend({descriptor for descriptor, _ in poll.poll(patience)})

    def _begin_grid(self) -> None:
        self._grid = Grid(self._clock, self._settings.core.interval)
        self._line = self._grid.next_line()
        self._offset = self._clock.offset

    def _account_if_closed(self) -> None:
        """The account, when all rooms have closed the interval that ends."""
        if self._clock.offset != self._offset:
            self._offset = self._clock.offset
            self._report(events.ClockSet())
            self._line = min(self._line, self._grid.next_line())
        if any(room.running.closed() < self._line for room in self._rooms):
            return
        line, self._line = self._line, self._grid.next_line()
        self._account(line)
        if line - self._looked > _LOOK_NS:
            self._looked = line
            for note in self._keeper.ahead():
                self._note(note)

    def _attend(self, ready: set[int]) -> None:
        """To what has woken the loop, by descriptor."""
        for room in self._rooms:
            room.running.woken(ready)
        if self._situation.fileno() in ready:
            self._let_go(self._situation.gone())
        if self._keeper.fileno() in ready:
            raise self._keeper.ended()

    def _let_go(self, names: Sequence[str]) -> None:
        """Of interfaces of these NAMES, which are gone: elsewhere, or under another name."""
        if names:
            self._keeper.detach(names)
            self._situation.note_gone(names)

    # --- other programs

    def _do_what_is_told(self, poll: select.epoll) -> None:
        """Read the configuration again, look at interfaces; the new program when it is there."""
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        reloads = any(room.probe.reloads for room in self._rooms)
        if self._reload and not self._loading.busy:
            self._reload = False
            self._delivery.renew()
            if self._again is not None and reloads:
                self._loading.begin(read=True)
            elif self._again is not None:  # else there are no files but those of credentials
                names = ", ".join(probe.name for probe in REGISTRY if probe.reloads)
                self._report(events.ReloadRefused(f"only that of {names} can be read again"))
        if not self._loading.busy and self._situation.is_to_look():
            elsewhere, more = self._situation.look()
            self._let_go(elsewhere)  # while a program was loaded
            if more and reloads:
                self._loading.begin(read=False)
        if self._loading.done:
            self._switch(poll)

    def _switch(self, poll: select.epoll) -> None:
        """New programs take over, the old ones are flushed; or all stays as it was."""
        made: dict[str, Running] = {}
        ready = False
        try:
            settings, objects = self._loading.result()
            rooms = [room for room in self._rooms if room.probe.name in objects]
            for room in rooms:
                own = settings.of(room.probe)
                self._delivery.check(room.probe.schemas(own))
                made[room.probe.name] = room.probe.load(
                    own, objects[room.probe.name], self._clock, self._files
                )
            renewed = self._situation.renewed(settings.core)
            ready = True
            moments = {room: self._take_over(room, made, renewed) for room in rooms}
        except Exception as error:  # noqa: BLE001 - whatever it is, the old programs go on
            self._refuse(error, made, settings if ready else None)
            return
        joined = self._situation.joined(settings.core)
        for room in rooms:
            old, new = room.running, made[room.probe.name]
            _listen(poll, old, no_more=True)
            room.flush(moments[room])
            room.begin(new, settings.of(room.probe))
            old.close()
            _listen(poll, new)
            for note in new.notes:
                self._note(note)
        self._settings = settings
        self._delivery.pace(settings.core.interval)
        self._grid = Grid(self._clock, settings.core.interval)
        self._line = min(self._line, self._grid.next_line())
        self._situation.use(settings.core)
        for name in sorted(joined):
            again = any(room.has_met(name) for room in rooms)
            self._report(events.InterfaceThere(name, again))
        if self._loading.was_read:
            self._report(events.Reloaded(tuple(r.probe.reloaded(r.settings) for r in rooms)))

    def _take_over(self, room: Room, made: Mapping[str, Running], renewed: set[str]) -> int:
        """The program MADE for ROOM, from one packet to the next; when."""
        new = made[room.probe.name]
        moment = new.take_over(room.running)
        for note in self._keeper.attach(room.probe.name, renewed):
            self._note(note)
        kernel.wait_for_programs()
        return moment

    def _refuse(
        self, error: Exception, made: Mapping[str, Running], settings: Settings | None
    ) -> None:
        """The old programs go on; what new ones have counted at some places for a moment is kept.

        Args:
            error: Why.
            made: The new programs, by probe.
            settings: From which they were made, if they may have been attached.
        """
        if settings:
            kernel.wait_for_programs()
        for room in self._rooms:
            if new := made.get(room.probe.name):
                if settings:
                    room.absorb(new, settings.of(room.probe))
                new.close()
        self._loading.forget()
        why = str(error) if isinstance(error, UsageError | RunError | OSError) else repr(error)
        self._situation.refused(why, was_read=self._loading.was_read)

    # --- the account

    def _follow(self, probe: Probe, running: Running, settings: Core) -> None:
        if self._metrics:
            self._metrics.use(probe.name, running, settings)

    def _follow_device(self) -> None:
        """Records say which device they are of, as far as that is known."""
        name = self._device.name
        if name != self._delivery.device:
            self._delivery.name_device(name)
            if self._metrics:
                self._metrics.name_device(name)

    def _account(self, line: int) -> None:
        """The records of `vtap_agent`, as of the moment LINE."""
        now = self._grid.wall(line)
        accounts: list[Account] = [room.account() for room in self._rooms]
        sinks: Account = SINK_ROWS, self._delivery.accounts()
        for rows, counts in (*accounts, sinks):
            if counts:
                self.bus.publish(account.batch(self._named(rows, tuple(counts)), now, counts))
        if self._metrics:
            self._metrics.end_interval(now, accounts)
        seen = []
        for room in self._rooms:
            room.let_go()
            totals = room.totals()
            seen.append((room.probe.noun, totals["seen_packets"]))
            if doubt := room.doubt(totals):
                self._note(doubt)
        asked = self._settings.core.verbose
        event = events.Progress(tuple(seen), self._delivery.progress(), asked=asked)
        self._health.status(progress(event))
        self._report(event)

    def _named(self, rows: Rows, names: tuple[str, ...]) -> Schema:
        """The records of ROWS of these NAMES: the same object as long as these are the same."""
        known, schema = self._schemas.get(rows, ((), rows.schema))
        if known != names:
            schema = rows.named(names)
            self._schemas[rows] = names, schema
        return schema

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._health.stopping()
        self._keeper.detach()
        kernel.wait_for_programs()
        for room in self._rooms:
            room.flush()
        self._delivery.drain(_DRAIN_SECONDS)
        self._account(self._clock.now())
        self._delivery.drain(_DRAIN_SECONDS)
        self._delivery.close()
        told = []
        for room in self._rooms:
            summary = room.probe.summary(room.settings, room.totals())
            if room.probe.at_interfaces:
                told.append(summary)
            else:
                self._report(events.Ended((summary,)))
        told += self._delivery.summaries()
        if told:
            self._report(events.Ended(tuple(told)))

    # --- from other threads

    def stop(self) -> None:
        """End the run; from any thread."""
        self._stop = True
        self.wake()

    def reload(self) -> None:
        """Have the configuration, and files of credentials, read again; from any thread."""
        self._reload = True
        self.wake()

    def wake(self) -> None:
        """Have the loop look around; from any thread."""
        with contextlib.suppress(OSError):
            self._waking.send(b"\0")

    @property
    def waking(self) -> socket.socket:
        """What is written to it wakes the loop."""
        return self._waking

    @property
    def rereads(self) -> bool:
        """Whether there is anything that `reload` reads."""
        return self._again is not None or bool(credentials.paths(self._settings.core))

    def close(self) -> None:
        """Let go of what `open` has taken."""
        self._closing.close()

    def _note(self, sentence: str) -> None:
        self._report(events.Note(sentence))


def _listen(poll: select.epoll, running: Running, *, no_more: bool = False) -> None:
    """To all that becomes readable when RUNNING has something to do, or NO MORE."""
    for descriptor in running.descriptors():
        if no_more:
            poll.unregister(descriptor)
        else:
            poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
