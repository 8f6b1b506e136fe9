# SPDX-License-Identifier: Apache-2.0
"""The loop: interval by interval from the probe through the format to the sink."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from trapstream_vtap import credentials, numbering, privileges
from trapstream_vtap.bpf import kernel
from trapstream_vtap.config import NS, fixed_changes
from trapstream_vtap.delivery import Delivery, Schemas
from trapstream_vtap.device import Device
from trapstream_vtap.drops import Drops
from trapstream_vtap.endpoint import Endpoints
from trapstream_vtap.errors import RunError, UsageError, printable
from trapstream_vtap.health import Health
from trapstream_vtap.interfaces import choose, interfaces, is_pattern
from trapstream_vtap.keeper.client import Keeper
from trapstream_vtap.links import Links
from trapstream_vtap.probes.drop import DropProbe, reason_names
from trapstream_vtap.probes.flow import FlowProbe
from trapstream_vtap.probes.none import NoFlows
from trapstream_vtap.seen import Seen
from trapstream_vtap.symbols import KALLSYMS, Symbols
from trapstream_vtap.words import amount, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.config import Settings
    from trapstream_vtap.delivery import Plans
    from trapstream_vtap.metrics.exporter import Metrics

_GRACE_NS = 5_000_000  # after the grid line, for packets that close their flows themselves
_DEVICE_SECONDS = 1.0  # at the start, for the resolver to say where the collector is
_DRAIN_SECONDS = 5.0  # at the end, for the collector to take what is left
_LAST_SWEEPS = 100
_LOOK_NS = 10 * NS  # from one look at who else is at our places to the next
_SETTLE_NS = NS // 2  # from a change of an interface till all are looked at
_RETRY_NS = 2 * NS
_NO_LIMIT = 1 << 62
_speaking = threading.Lock()


def report(sentence: str) -> None:
    """Say something to the person at the terminal; from any thread, each a line of its own."""
    with _speaking:
        sys.stderr.write(f"vtap-stream: {printable(sentence)}\n")
        sys.stderr.flush()


def _metrics(settings: Settings, delivery: Delivery) -> Metrics | None:
    """What Prometheus scrapes, if it does; else its library is not even loaded."""
    if not settings.metrics:
        return None
    from trapstream_vtap.metrics.exporter import Metrics  # noqa: PLC0415 - only where it is used

    return Metrics(settings, delivery.accounts)


class Stream:
    """One run of vtap-stream.

    Args:
        settings: Of this run.
        again: The command line by which SIGHUP has the configuration file read again, or None.

    Raises:
        UsageError: A record could be longer than a datagram may be.
    """

    def __init__(self, settings: Settings, again: Sequence[str] | None = None) -> None:
        self._settings = settings
        self._again = again
        self._delivery = Delivery(settings, report, self._end)
        self._flows = "flows" in settings.probes
        self._drops = Drops()
        self._seen = Seen(self._delivery.flows, self._delivery.events)
        self._delivery.use(self._plans_of(self._flow_probe(settings), settings))
        self._metrics = _metrics(settings, self._delivery)
        self._gone: set[str] = set()
        self._stop = False
        self._reload = False
        self._look_at_links = _NO_LIMIT  # when; not before they have settled
        self._refused = ""  # why an interface that has come is not measured
        self._doubted = False  # whether the sequence numbers are numbers; said once
        self._loading: Future[tuple[FlowProbe, Settings]] | None = None

    def _flow_probe(self, settings: Settings, keeper: Keeper | None = None) -> FlowProbe:
        """What measures flows, or does not, not loaded yet."""
        return (FlowProbe if self._flows else NoFlows)(settings, keeper)

    def _plans_of(self, probe: FlowProbe, settings: Settings) -> Plans:
        """How the records of PROBE, made from SETTINGS, are rendered."""
        indices = {interface.index: interface.name for interface in settings.interfaces}
        names = sorted({*settings.names, *self._seen.names})
        return self._delivery.plans(
            Schemas(probe.schema, probe.event_schema, probe.coarse_shift, indices, names)
        )

    def run(self) -> bool:
        """Measure and stream until told to stop.

        Returns:
            Whether that was of use: False if all records were lost, or if something that was
            counted could not be handed over.

        Raises:
            RunError: Measuring cannot begin, or cannot go on.
        """
        settings = self._settings
        privileges.raise_descriptor_limit()
        with contextlib.ExitStack() as stack:
            woken = stack.enter_context(self._signals())
            self._links = stack.enter_context(contextlib.closing(Links()))
            self._keeper = stack.enter_context(contextlib.closing(Keeper(settings, self._again)))
            self._delivery.credentials.through(self._keeper.credentials)
            endpoints = stack.enter_context(contextlib.closing(Endpoints(report)))
            health = endpoints.at(settings.health, "--health")
            self._health = stack.enter_context(
                contextlib.closing(Health(health, self._delivery.up))
            )
            listed = KALLSYMS if "drops" in settings.probes else None
            symbols = stack.enter_context(contextlib.closing(Symbols(listed)))
            scraped = endpoints.at(settings.metrics, "--metrics")
            notes = self._give_up_root()
            if listed and symbols.hidden():
                notes.append(
                    "the kernel does not show where its functions are (CAP_SYSLOG, "
                    "kernel.kptr_restrict): records of drops have no location."
                )
            self._delivery.try_files()
            device = Device(settings.device, settings.sinks, report, self._wake)
            self._device = stack.enter_context(contextlib.closing(device))
            self._device.start()
            endpoints.start()
            self._probe, self._settings = self._load(read=False)
            self._use(self._plans_of(self._probe, self._settings))
            if self._metrics and scraped:
                scraped.add("/metrics", self._metrics.page)
            self._note_missing()
            self._load_drops(symbols)
            self._device.wait(_DEVICE_SECONDS)
            self._follow_device()
            self._probe.attach()
            for kind in self._drops.kinds:
                self._keeper.attach(kind)
            for note in notes + self._probe.notes:
                report(note)
            self._delivery.start()
            self._health.started()
            sinks = ", ".join(self._delivery.names)
            streaming = f", streaming {settings.format} to {sinks}" if sinks else ""
            report(f"measuring {self._measured()}{streaming}")
            if health:
                report(f"health at {health.url}/healthz and /readyz")
            if scraped:
                report(f"metrics at {scraped.url}/metrics")
            try:
                self._loop(woken)
            finally:
                self._finish()
        return not self._delivery.in_vain() and not self._seen.totals()["stranded_packets"]

    def _use(self, plans: Plans) -> None:
        """The present probe counts from now on, and its records are rendered by PLANS."""
        self._delivery.use(plans)
        self._seen.begin(self._probe, self._settings.interfaces, self._settings.gone)
        if self._metrics:
            self._metrics.use(self._probe, self._settings, self._seen.values())

    def _follow_device(self) -> None:
        """Records say which device they are of, as far as that is known."""
        name = self._device.name
        if name != self._delivery.device:
            self._delivery.name_device(name)
            if self._metrics:
                self._metrics.name_device(name)

    def _load_drops(self, symbols: Symbols) -> None:
        """The probes for drops and traps; where in the kernel drops were SYMBOLS say."""
        settings = self._settings
        for kind in settings.probes:
            if kind != "flows":
                objects, _ = self._keeper.load(kind)
                self._delivery.use_drops(kind, reason_names(), symbols.names)
                probe = DropProbe(settings, kind, objects)
                self._drops.add(probe, self._delivery, self._metrics, settings.batch_size)
                if self._metrics:
                    self._metrics.use_drops(reason_names())

    def _measured(self) -> str:
        """What is measured, in a few words."""
        settings = self._settings
        told = self._drops.kinds
        if settings.selected and told:
            told[-1] += f" of {', '.join(settings.selected)}"
        if self._flows:
            names = ", ".join(i.name for i in settings.interfaces)
            directions = " and ".join(d.name.lower() for d in settings.directions)
            told.insert(0, f"{directions} of {names or 'interfaces that are to come'}")
        return " and ".join(told)

    def _give_up_root(self) -> list[str]:
        """From here on only the keeper may do what root may; no thread has been started yet."""
        keep = () if privileges.bpf_is_for_all() else (privileges.CAP_BPF,)
        return privileges.become(self._settings.user, keep)

    def _loop(self, woken: socket.socket) -> None:
        probe = self._probe
        deadline = (
            time.monotonic_ns() + int(self._settings.duration * NS)
            if self._settings.duration is not None
            else _NO_LIMIT
        )
        with select.epoll() as poll:
            self._register(poll, woken)
            line, swept = probe.next_line(), True  # the next grid line; the one before is done
            looked = line
            while True:
                self._health.beat()
                self._follow_device()
                loaded = swept and self._loaded(woken)
                if self._stop:  # not before `woken` is emptied, which would not wake us again
                    return
                now = time.monotonic_ns()
                self._drops.attend()
                grace = 0 if swept else min(_GRACE_NS, self._settings.intervals[0] // 20)
                due = min(deadline, line + grace)
                if loaded:
                    self._switch(poll)
                    probe = self._probe
                    line = min(line, probe.next_line())  # intervals may be shorter now
                elif now < due:
                    rest = max(min(due, self._drops.due(), self._look_at_links) - now, 0) / NS
                    patience = min(rest, self._health.turn or rest)
                    self._attend({descriptor for descriptor, _ in poll.poll(patience)})
                elif now >= deadline:
                    return
                elif swept:
                    self._drain()  # what packets have closed by themselves
                    swept = False
                else:
                    ends = probe.ends_interval(line)
                    self._sweep(force=self._keep_clock())
                    if ends:
                        self._agent(line)
                    if line - looked > _LOOK_NS:
                        looked = line
                        for note in self._keeper.ahead():
                            report(note)
                    line, swept = probe.next_line(), True

    def _register(self, poll: select.epoll, woken: socket.socket) -> None:
        """All that wakes the loop."""
        ours = (woken, self._links, self._keeper)
        for descriptor in (*(our.fileno() for our in ours), *self._probe.descriptors()):
            poll.register(descriptor, select.EPOLLIN)
        for descriptor in self._drops.descriptors():
            poll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def _attend(self, woken_by: set[int]) -> None:
        """To what has woken the loop, by descriptor."""
        if self._probe.events_fileno() in woken_by:
            self._drain_events()
        if self._probe.fileno() in woken_by and self._probe.pressed():
            self._sweep(force=True)
        self._drops.woken(woken_by)
        if self._links.fileno() in woken_by:
            self._let_go_of_gone()
        if self._keeper.fileno() in woken_by:
            raise self._keeper.ended()

    def _let_go_of_gone(self) -> None:
        """Of interfaces that are gone; whether others are there is to be seen in a moment."""
        if self._look_at_links == _NO_LIMIT:
            self._look_at_links = time.monotonic_ns() + _SETTLE_NS
        measured = {index: name for name, index in self._measured_now()}
        self._let_go([measured[index] for index in self._links.gone(measured)])

    def _measured_now(self) -> set[tuple[str, int]]:
        """Names and indices of interfaces that are measured, as far as is known."""
        return {(i.name, i.index) for i in self._settings.interfaces if i.name not in self._gone}

    def _let_go(self, names: Sequence[str]) -> None:
        """Of interfaces of these NAMES, which are gone: elsewhere, or under another name."""
        if names:
            self._keeper.detach(names)
        self._note_gone(names)

    def _note_missing(self) -> None:
        """Say which interfaces are not there at the start, and which are: it may be a slip."""
        settings = self._settings
        known = sorted(interfaces())
        there = ", ".join(known)
        for name in settings.gone:
            when = f"it is measured when it is (there are {there})"
            report(f"{name} is not there yet; {when}.{nearest(name, known)}".removesuffix("."))
        self._gone.update(settings.gone)
        if self._flows and not settings.interfaces:
            if any(map(is_pattern, settings.selected)):
                report(f"no interface fits {','.join(settings.selected)} yet (there are {there})")
            if not settings.selected:
                report(f"no interface is up yet (there are {there})")

    def _note_gone(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._gone:
                report(f"{name} is gone; it is measured again when it is back")
        self._gone.update(names)

    def _loaded(self, woken: socket.socket) -> bool:
        """Have a new program loaded if there is reason to; whether it is there."""
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        if not self._loading and self._reload:
            self._reload = False
            self._delivery.renew()
            if self._again is not None and self._flows:
                self._begin_to_load(read=True)
            elif self._again is not None:  # else there are no files but those of credentials
                report("the configuration stays as it was: only that of flows can be read again")
        if not self._loading and time.monotonic_ns() >= self._look_at_links:
            self._look_at_links = _NO_LIMIT
            if self._flows and self._there_are_more():
                self._begin_to_load(read=False)
        return self._loading is not None and self._loading.done()

    def _there_are_more(self) -> bool:
        """Whether there are interfaces that are to be measured, and are not."""
        measured = self._measured_now()
        there = {(i.name, i.index) for i in interfaces().values()}
        self._let_go([name for name, _ in measured - there])  # while the program was loaded
        chosen, _ = choose(self._settings.selected, self._settings.names)
        return not measured.issuperset((i.name, i.index) for i in chosen)

    def _begin_to_load(self, *, read: bool) -> None:
        """In a thread of its own: the file READ, or not, and the program compiled and loaded."""
        loading: Future[tuple[FlowProbe, Settings]] = Future()
        self._loading = loading
        self._was_read = read

        def load() -> None:
            try:
                result = self._load(read=read)
            except Exception as error:  # noqa: BLE001 - whatever it is, the old program goes on
                loading.set_exception(error)
            else:
                loading.set_result(result)
            self._wake()

        threading.Thread(target=load, daemon=True).start()

    def _wake(self) -> None:
        """Have the loop look around; from any thread."""
        with contextlib.suppress(OSError):
            self._waking.send(b"\0")

    def _end(self) -> None:
        """End the run; from any thread."""
        self._stop = True
        self._wake()

    def _load(self, *, read: bool) -> tuple[FlowProbe, Settings]:
        """What the keeper has loaded, not attached yet, and the settings of it."""
        if not self._flows:
            return self._flow_probe(self._settings, self._keeper), self._settings
        objects, settings = self._keeper.load(read=read)
        probe = self._flow_probe(settings, self._keeper)
        probe.prepare(objects)
        return probe, settings

    def _check_fixed(self, chosen: Settings) -> None:
        if changed := fixed_changes(self._settings, chosen):
            words = ", ".join(changed)
            raise UsageError(f"a running program cannot change its {words}: start it again.")

    def _switch(self, poll: select.epoll) -> None:
        """The new program takes over, the old one's table is emptied; or all stays as it was."""
        assert self._loading  # noqa: S101 - it is done
        loading, self._loading = self._loading, None
        old = self._probe
        new = plans = None
        try:
            new, chosen = loading.result()
            self._check_fixed(chosen)
            plans = self._plans_of(new, chosen)
            names = {interface.name for interface in chosen.interfaces}
            joined = names - {i.name for i in self._settings.interfaces if i.name not in self._gone}
            moment = new.take_over(old, names & self._gone)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old program goes on
            if new and plans:
                self._hand_over_aside(new, chosen, plans)
            if new:
                new.close()
                self._keeper.forget()
            self._note_refused(error)
            return
        self._refused = ""
        for descriptor in old.descriptors():
            poll.unregister(descriptor)
        self._hand_over_all(moment)
        self._probe, self._settings = new, chosen
        self._use(plans)
        self._delivery.pace(chosen.interval)
        old.close()
        for descriptor in new.descriptors():
            poll.register(descriptor, select.EPOLLIN)
        for note in new.notes:
            report(note)
        self._gone &= set(chosen.gone)
        self._note_gone(chosen.gone)
        self._look_at_links = min(self._look_at_links, time.monotonic_ns() + _SETTLE_NS)
        for name in sorted(joined):
            again = self._seen.has_met(name)
            report(f"{name} is {'back, and measured again' if again else 'there, and measured'}")
        if self._was_read:
            report(f"the configuration was read again, {amount(len(chosen.rules), 'rule')}")

    def _note_refused(self, error: Exception) -> None:
        """Say why the old program goes on; for interfaces that have come it is tried again."""
        why = str(error) if isinstance(error, UsageError | RunError | OSError) else repr(error)
        if self._was_read:
            report(f"the configuration stays as it was: {why}")
            return
        self._look_at_links = min(self._look_at_links, time.monotonic_ns() + _RETRY_NS)
        if why != self._refused:
            report(f"an interface that has come is not measured yet: {why}")
        self._refused = why

    def _hand_over_all(self, moment: int | None = None) -> None:
        """All that the present probe holds, which counts no more; MOMENT: when it stopped."""
        self._drain_events()
        for attempt in range(_LAST_SWEEPS):
            self._sweep(force=True, now=None if attempt else moment)
            if not self._probe.held():  # nor stragglers in the slot that the sweep before left
                break
        self._seen.end()

    def _hand_over_aside(self, new: FlowProbe, chosen: Settings, plans: Plans) -> None:
        """What NEW has counted, which was in force at some places for a moment, and is no more."""
        kernel.wait_for_programs()
        present = self._probe, self._settings
        with self._seen.aside():
            self._probe, self._settings = new, chosen
            self._use(plans)
            self._hand_over_all()
        self._probe, self._settings = present
        self._delivery.use(self._plans_of(self._probe, self._settings))
        if self._metrics:
            self._metrics.use(self._probe, self._settings, self._seen.values())

    def _keep_clock(self) -> bool:
        """Follow the wall clock when somebody sets it; then all is to be swept by force.

        Ahead of the sweep, so that no interval ends on the old grid any more.
        """
        was_set = self._probe.keep_clock()
        if was_set:
            report("the clock was set; the grid of intervals follows it")
        return was_set

    def _sweep(self, *, force: bool = False, now: int | None = None) -> None:
        counters = self._probe.counters()
        for _ in self._probe.sweep(force=force, now=now):
            self._drain()
        self._seen.account_evicted(counters)

    def _drain(self) -> None:
        """Everything in the ring to the sinks."""
        while batch := self._probe.read(self._settings.batch_size):
            self._delivery.hand_flows(batch)
            if self._metrics:
                self._metrics.hand_flows(batch)

    def _drain_events(self) -> None:
        """Sequence errors to the sinks."""
        while batch := self._probe.read_events(self._settings.batch_size):
            self._delivery.hand_events(batch)

    def _agent(self, line: int) -> None:
        """The records of `vtap_agent`, as of the grid line (CLOCK_MONOTONIC, ns)."""
        now, interfaces, drops = self._probe.wall(line), self._seen.values(), self._drops.values()
        self._delivery.hand_account(now, interfaces, drops)
        if self._metrics:
            self._metrics.end_interval(now, interfaces, drops)
        self._seen.let_go()
        totals = self._seen.totals()
        seen = [amount(totals["seen_packets"], "packet")] if self._flows else []
        seen += [amount(counts["seen_packets"], kind[:-1]) for kind, counts in drops.items()]
        told = (f"{' and '.join(seen)} seen", self._delivery.progress())
        sentence = "; ".join(filter(None, told))
        self._health.status(sentence)
        if not self._doubted and (doubt := numbering.doubt(totals, self._settings)):
            self._doubted = True
            report(doubt)
        if self._settings.verbose:
            report(sentence)

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._health.stopping()
        self._probe.detach()
        self._drops.hand_all()
        self._hand_over_all()
        self._delivery.drain(_DRAIN_SECONDS)
        self._agent(time.monotonic_ns())
        self._delivery.drain(_DRAIN_SECONDS)
        self._delivery.close()
        for sentence in self._drops.summaries():
            report(sentence)
        told = [self._measurement()] if self._flows else []
        told += self._delivery.summaries()
        if told:
            report("; ".join(told))

    def _measurement(self) -> str:
        """What was measured, and what of it was lost before it came to the sinks."""
        totals = self._seen.totals()
        packets, flows = totals["counted_packets"], totals["flows_begun"]
        told = [f"{amount(packets, 'packet')} of {amount(flows, 'flow')} measured"]
        told += numbering.found(totals, self._settings)
        if totals["evicted_packets"]:
            told.append(f"{amount(totals['evicted_packets'], 'packet')} evicted with their flows")
        if totals["stranded_packets"]:
            told.append(f"{amount(totals['stranded_packets'], 'packet')} could not be handed over")
        if totals["no_flow_packets"]:
            told.append(f"{amount(totals['no_flow_packets'], 'packet')} found no room in the table")
        if totals["events_suppressed"]:
            told.append(f"{amount(totals['events_suppressed'], 'event')} suppressed")
        return ", ".join(told)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """SIGINT and SIGTERM end the loop; what the loop waits on to notice."""
        waking, woken = socket.socketpair()
        with waking, woken:
            for end in (waking, woken):
                end.setblocking(False)  # noqa: FBT003 - the standard library's signature

            def stop(_number: int, _frame: object) -> None:
                self._stop = True

            def reload(_number: int, _frame: object) -> None:
                self._reload = True

            self._waking = waking
            before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
            if self._again is not None or credentials.paths(self._settings):
                before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
            wakeup = signal.set_wakeup_fd(waking.fileno())
            try:
                yield woken
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
