# SPDX-License-Identifier: Apache-2.0
"""The loop: each room one step, the account at each grid line, sleep until there is more to do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING, Protocol, TypeVar

from trapstream_vtap import credentials, privileges
from trapstream_vtap.bpf import kernel
from trapstream_vtap.clock import NEVER, NS, Grid, SystemClock
from trapstream_vtap.delivery import Delivery
from trapstream_vtap.device import Device
from trapstream_vtap.endpoint import Endpoints
from trapstream_vtap.engine import changeover, events
from trapstream_vtap.engine.accounting import Accounting
from trapstream_vtap.engine.bus import Bus
from trapstream_vtap.engine.changeover import Changeover
from trapstream_vtap.engine.loading import Loading, with_guests
from trapstream_vtap.engine.reporter import progress
from trapstream_vtap.engine.room import Room
from trapstream_vtap.engine.situation import Situation
from trapstream_vtap.engine.snapshot import Snapshot
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.health import Health
from trapstream_vtap.keeper.client import Keeper
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.probes import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.metrics.exporter import Metrics
    from trapstream_vtap.probes.interface import Probe, Running
    from trapstream_vtap.settings.again import Again
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


class Loop:
    """Everything that a run is made of, and the loop that keeps it going.

    Args:
        settings: Of this run.
        again: How `reload` reads the configuration file again, or None.
        report: Takes what happens, in any thread.
        clock: What time it is.
    """

    def __init__(
        self,
        settings: Settings,
        again: Again | None = None,
        report: Callable[[events.Event], None] = lambda _event: None,
        clock: Clock | None = None,
    ) -> None:
        self._settings, self._again = settings, again
        self._report = report
        self._clock = clock or SystemClock()
        self.bus = Bus()
        self._closing = contextlib.ExitStack()
        self._stop = self._reload = False
        self._waking: socket.socket | None = None
        self._status: Callable[[], Snapshot] = Snapshot
        self._rooms: list[Room] = []
        self.begun = threading.Event()
        """Set when everything is attached."""
        self.notes: list[str] = []
        """Sentences that are said when everything is attached."""

    def stop(self) -> None:
        """End the run; from any thread."""
        self._stop = True
        self.wake()

    def reload(self) -> None:
        """Have the configuration, and files of credentials, read again; from any thread."""
        self._reload = True
        self.wake()

    def status(self) -> Snapshot:
        """How the run stands; from any thread."""
        return self._status()

    def wake(self) -> None:
        """Have the loop look around; from any thread."""
        if self._waking:
            with contextlib.suppress(OSError):
                self._waking.send(b"\0")

    @property
    def waking(self) -> socket.socket:
        """What is written to it wakes the loop."""
        if not self._waking:
            self._waking, self._woken = map(self._closing.enter_context, socket.socketpair())
            for end in (self._waking, self._woken):
                end.setblocking(False)  # noqa: FBT003 - the standard library's signature
        return self._waking

    @property
    def rereads(self) -> bool:
        """Whether there is anything that `reload` reads."""
        return self._again is not None or bool(credentials.paths(self._settings.core))

    def close(self) -> None:
        """Let go of what `open` has taken."""
        self._closing.close()

    def open(self) -> None:
        """Take what only root may: the keeper, addresses to listen on, spools, files.

        Raises:
            UsageError: The settings say what cannot be.
            RunError: Something cannot be had.
        """
        settings, core, probes = self._settings, self._settings.core, self._settings.probes
        _ = self.waking  # made when it is asked for first
        self._delivery = self._hold(Delivery(core, self._note, self.stop))
        self.bus.subscribe(self._delivery.take)
        for probe in probes:
            self._delivery.check(probe.schemas(settings.of(probe)))
            self._delivery.check((probe.rows(settings.of(probe)).named(core.names),))
        self._delivery.check((SINK_ROWS.named(tuple(self._delivery.names)),))
        self._metrics = self._make_metrics(probes)
        self._rooms = [Room(probe, self.bus.publish, self._follow) for probe in probes]
        others = self._delivery, self._metrics, self.bus, self._report
        self._accounting = Accounting(self._rooms, *others)
        self._status = lambda: self._accounting.snapshot
        for room in self._rooms:
            self._closing.callback(room.close)
        privileges.raise_descriptor_limit()
        self._keeper = self._hold(Keeper(settings, self._again))
        self._situation = self._hold(Situation(core, self._clock, self._report))
        self._loading = Loading(self._keeper, probes, settings, self.wake)
        self._delivery.credentials.through(self._keeper.credentials)
        self._endpoints = self._hold(Endpoints(self._note))
        self._health_page = self._endpoints.at(core.health, "--health")
        self._health = self._hold(Health(self._health_page, self._delivery.up))
        files = {path: file for p in probes for path, file in self._opened(p).items()}
        self._changeover = Changeover(self._keeper, self._delivery, self._clock, files)
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
        made = Metrics(
            self._delivery.device, collectors, lambda: (SINK_ROWS, self._delivery.accounts())
        )
        self.bus.subscribe(made.take)
        return made

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
        self._device = self._hold(Device(core.device, core.sinks, self._note, self.wake))
        self._device.start()
        self._endpoints.start()
        if self._metrics and self._metrics_page:
            self._metrics_page.add("/metrics", self._metrics.page)
        self._load_all()
        self._situation.begin(self._settings)
        self._device.wait(_DEVICE_SECONDS)
        self._follow_device()
        for room in self._rooms:
            room.running.take_over(None)
        notes = self._keeper.attach([room.probe.name for room in self._rooms if not room.is_guest])
        for room in self._rooms:
            room.running.notes += notes.get(room.probe.name, [])
            self.notes += room.running.notes
        for note in self.notes:
            self._note(note)
        self._delivery.start()
        self._health.started()
        self._say_measuring()
        self._grid = Grid(self._clock, self._settings.core.interval)
        self._accounting.begin()
        self.begun.set()
        try:
            self._loop()
        finally:
            self._finish()
        return self._accounting.useful()

    def _load_all(self) -> None:
        objects: dict[str, Objects] = {}
        for room in self._rooms:
            if (name := room.probe.name) not in objects:
                own, self._settings = self._keeper.load(name, "same" if objects else "look")
                objects = with_guests({**objects, name: own}, self._settings)
            running = self._changeover.load(room, self._settings, objects[name])
            room.begin(running, self._settings.of(room.probe))

    def _say_measuring(self) -> None:
        told = [room.probe.measures(room.settings) for room in self._rooms]
        names = tuple(self._delivery.names)
        self._report(events.Measuring(" and ".join(told), self._settings.core.format, names))
        if self._health_page:
            url = self._health_page.url
            self._report(events.Serving("health", (f"{url}/healthz", "/readyz")))
        if self._metrics_page:
            self._report(events.Serving("metrics", (f"{self._metrics_page.url}/metrics",)))

    # The loop

    def _loop(self) -> None:
        now, duration = self._clock.now(), self._settings.core.duration
        end = NEVER if duration is None else now + int(duration * NS)
        self._line, self._offset, self._looked = self._grid.next_line(), self._clock.offset, now
        with select.epoll() as self._poll:
            for ours in (self._woken, self._situation, self._keeper):
                self._poll.register(ours.fileno(), select.EPOLLIN)
            for room in self._rooms:
                self._listen(room.running)
            while True:
                self._health.beat()
                self._follow_device()
                self._do_what_is_told()
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
                self._attend({descriptor for descriptor, _ in self._poll.poll(patience)})

    def _listen(self, running: Running, wanted: bool = True) -> None:  # noqa: FBT001, FBT002
        """To all that becomes readable when RUNNING has something to do, if that is WANTED."""
        for descriptor in running.descriptors():
            if wanted:
                self._poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
            else:
                self._poll.unregister(descriptor)

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

    def _do_what_is_told(self) -> None:
        """Read the configuration again, look at interfaces; the new program when it is there."""
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        reloads = any(room.probe.reloads for room in self._rooms)
        if self._loading.done:
            self._change_over()
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

    def _change_over(self) -> None:
        """New programs take over, and the old ones are flushed; or all stays as it was."""
        try:
            settings, objects = self._loading.result()
            rooms = [room for room in self._rooms if room.probe.name in objects]
            renewed = self._situation.renewed(settings.core)
            following = self._changeover.change(rooms, settings, objects, renewed)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old programs go on
            self._loading.forget()
            why = str(error) if isinstance(error, UsageError | RunError | OSError) else repr(error)
            self._situation.refused(why, was_read=self._loading.was_read)
            return
        joined = self._situation.joined(settings.core)
        for each in following:
            changeover.finish(each, settings, self._listen)
            for note in each.running.notes:
                if note not in self.notes:  # an interface that comes is no reason to say it again
                    self.notes.append(note)
                    self._note(note)
        self._keeper.settle()
        self._settings = settings
        self._delivery.pace(settings.core.interval)
        self._grid = Grid(self._clock, settings.core.interval)
        self._line = min(self._line, self._grid.next_line())
        self._situation.use(settings.core)
        for name in sorted(joined):
            again = any(room.has_met(name) for room in rooms)
            self._report(events.InterfaceThere(name, again))
        if self._loading.was_read:
            told = tuple(room.probe.reloaded(room.settings) for room in rooms)
            self._report(events.Reloaded(told))

    # The account

    def _follow(self, probe: Probe, running: Running, settings: Core) -> None:
        if self._metrics:
            self._metrics.use(probe.name, running, settings)

    def _follow_device(self) -> None:
        """Records say which device they are of, as far as that is known."""
        if (name := self._device.name) != self._delivery.device:
            self._delivery.name_device(name)
            if self._metrics:
                self._metrics.name_device(name)

    def _account(self, line: int, *, measuring: bool = True) -> None:
        """As of the moment LINE."""
        verbose = self._settings.core.verbose
        event = self._accounting.tell(self._grid.wall(line), verbose=verbose, measuring=measuring)
        self._health.status(progress(event))

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._health.stopping()
        try:
            self._keeper.detach()
            kernel.wait_for_programs()
            for room in self._rooms:
                room.flush()
        finally:  # what has been handed over is delivered, whatever went wrong
            self._delivery.drain(_DRAIN_SECONDS)
            self._account(self._clock.now(), measuring=False)
            self._delivery.drain(_DRAIN_SECONDS)
            self._delivery.close()
            self._accounting.sum_up()

    def _note(self, sentence: str) -> None:
        self._report(events.Note(sentence))
