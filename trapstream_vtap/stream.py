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
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING

from trapstream_vtap import formats
from trapstream_vtap.config import JSON_LINE_LIMIT, NS
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.ledger import Amount, Ledger
from trapstream_vtap.probes.flow import FlowProbe
from trapstream_vtap.records import agent_schema
from trapstream_vtap.sinks import Payload, Sender, TcpSink, UdpSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.config import Settings
    from trapstream_vtap.sinks import Sink

_GRACE_NS = 5_000_000  # after the grid line, for packets that close their flows themselves
_DRAIN_SECONDS = 5.0  # at the end, for the collector to take what is left
_LAST_SWEEPS = 100
_NO_LIMIT = 1 << 62
_FIXED = (
    *("collector", "interfaces", "directions", "format", "transport", "device"),
    *("max_memory", "duration"),
)
"""Settings that a reload cannot change."""


def report(sentence: str) -> None:
    """Say something to the person at the terminal."""
    print(f"vtap-stream: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


class Stream:
    """One run of vtap-stream.

    Raises:
        UsageError: A record could be longer than a datagram may be.
    """

    def __init__(self, settings: Settings, again: Callable[[], Settings] | None = None) -> None:
        self._settings = settings
        self._again = again
        self._use(FlowProbe(settings), settings)
        self._ledger = Ledger()
        self._events = Ledger()
        self._evicted = {i.index: Amount() for i in settings.interfaces}
        self._before = {i.index: Counter[str]() for i in settings.interfaces}  # by earlier probes
        self._stop = False
        self._reload = False
        self._loading: Future[tuple[FlowProbe, Settings]] | None = None

    def _use(self, probe: FlowProbe, settings: Settings) -> None:
        """From now on, read from PROBE."""
        datagrams = settings.transport == "udp"
        labels = formats.Labels(settings.device, {i.index: i.name for i in settings.interfaces})
        form: formats.Format
        if settings.format == "json":
            form = formats.JSON_DATAGRAM if datagrams else formats.JSON
        else:
            form = formats.INFLUX
        flow_plan = formats.compile_plan(
            form, probe.schema, labels, coarse_shift=probe.coarse_shift
        )
        agent_columns = agent_schema(events=settings.sequences)
        agent_plan = formats.compile_plan(form, agent_columns, labels)
        event_plan = (
            formats.compile_plan(form, probe.event_schema, labels) if probe.event_schema else None
        )
        most_bytes = _NO_LIMIT
        if datagrams:
            most_bytes = settings.max_datagram
        elif settings.format == "json":
            most_bytes = JSON_LINE_LIMIT
        plans = (flow_plan, agent_plan, event_plan)
        longest = max(plan.longest for plan in plans if plan)
        if longest > most_bytes:
            raise UsageError(
                f"--max-datagram {most_bytes} is too small: with these options a record may "
                f"take {longest} bytes."
            )
        self._probe, self._settings, self._most_bytes = probe, settings, most_bytes
        self._flow_plan, self._agent_plan = flow_plan, agent_plan
        self._agent_schema, self._event_plan = agent_columns, event_plan

    def run(self) -> None:
        """Measure and stream until told to stop.

        Raises:
            RunError: Measuring cannot begin.
        """
        settings = self._settings
        with self._signals() as woken:
            self._probe.start()
            give_up = threading.Event()
            sink: Sink = (
                UdpSink(settings.collector)
                if settings.transport == "udp"
                else TcpSink(settings.collector, give_up)
            )
            self._sender = Sender(sink, self._ledger, settings.max_memory, report, give_up)
            names = ", ".join(i.name for i in settings.interfaces)
            directions = " and ".join(d.name.lower() for d in settings.directions)
            report(f"measuring {directions} of {names}, streaming {settings.format} to {sink}")
            try:
                self._loop(woken)
            finally:
                self._finish()

    def _loop(self, woken: socket.socket) -> None:
        probe = self._probe
        grace = min(_GRACE_NS, self._settings.intervals[0] // 20)
        deadline = (
            time.monotonic_ns() + int(self._settings.duration * NS)
            if self._settings.duration is not None
            else _NO_LIMIT
        )
        with select.epoll() as poll:
            poll.register(woken, select.EPOLLIN)
            for descriptor in probe.descriptors():
                poll.register(descriptor, select.EPOLLIN)
            line, swept = probe.next_line(), True  # the next grid line; the one before is done
            while not self._stop:
                now = time.monotonic_ns()
                due = min(deadline, line if swept else line + grace)
                if swept and self._reloaded(woken):
                    self._switch(poll)
                    probe = self._probe
                elif now < due:
                    woken_by = {descriptor for descriptor, _ in poll.poll((due - now) / NS)}
                    if probe.events_fileno() in woken_by:
                        self._drain_events()
                    if probe.fileno() in woken_by and probe.pressed():
                        self._sweep(force=True)
                elif now >= deadline:
                    return
                elif swept:
                    self._drain()  # what packets have closed by themselves
                    swept = False
                else:
                    self._sweep()
                    if probe.ends_interval(line):
                        self._agent(line)
                    self._keep_clock()
                    line, swept = probe.next_line(), True

    def _reloaded(self, woken: socket.socket) -> bool:
        """Have the file read again if that was asked for; whether a new program is there."""
        with contextlib.suppress(BlockingIOError):
            woken.recv(4096)
        if self._reload and self._again and not self._loading:
            self._reload = False
            self._loading = Future()
            threading.Thread(target=self._load, args=(self._loading,), daemon=True).start()
        return self._loading is not None and self._loading.done()

    def _load(self, result: Future[tuple[FlowProbe, Settings]]) -> None:
        """In a thread of its own: the file read, and its program compiled and loaded."""
        try:
            settings = self._chosen_again()
            probe = FlowProbe(settings)
            probe.load()
        except Exception as error:  # noqa: BLE001 - whatever it is, the old program goes on
            result.set_exception(error)
        else:
            result.set_result((probe, settings))
        with contextlib.suppress(OSError):
            self._waking.send(b"\0")

    def _chosen_again(self) -> Settings:
        settings = self._again() if self._again else self._settings
        for name in _FIXED:
            if getattr(settings, name) != getattr(self._settings, name):
                words = name.replace("_", " ")
                raise UsageError(f"a running program cannot change its {words}: start it again.")
        return settings

    def _switch(self, poll: select.epoll) -> None:
        """The new program takes over, the old one's table is emptied; or all stays as it was."""
        assert self._loading  # noqa: S101 - it is done
        loading, self._loading = self._loading, None
        old, settings = self._probe, self._settings
        new = None
        try:
            new, chosen = loading.result()
            self._use(new, chosen)  # for its checks
            self._use(old, settings)
            moment = new.take_over(old)
        except (UsageError, RunError, OSError) as error:
            if new:
                self._use(old, settings)
                new.close()
            report(f"the configuration stays as it was: {error}")
            return
        for descriptor in old.descriptors():
            poll.unregister(descriptor)
        self._drain_events()
        for attempt in range(_LAST_SWEEPS):
            self._sweep(force=True, now=0 if attempt else moment)
            if not old.held():
                break
        for interface, counts in old.counters().items():
            self._before[interface].update(counts)
        old.close()
        self._use(new, chosen)
        for descriptor in new.descriptors():
            poll.register(descriptor, select.EPOLLIN)
        report(f"the configuration was read again, {len(chosen.rules)} rules")

    def _counters(self) -> dict[int, dict[str, int]]:
        """What this probe and those before it have counted, by interface index."""
        return {
            interface: {name: n + self._before[interface][name] for name, n in counts.items()}
            for interface, counts in self._probe.counters().items()
        }

    def _keep_clock(self) -> None:
        """Follow the wall clock when somebody sets it."""
        if self._probe.keep_clock():
            report("the clock was set; the grid of intervals follows it")
            self._sweep(force=True)

    def _sweep(self, *, force: bool = False, now: int = 0) -> None:
        counters = self._counters()
        for _ in self._probe.sweep(force=force, now=now):
            self._drain()
        self._account_evicted(counters)

    def _drain(self) -> None:
        """Everything in the ring into the sender's queue."""
        most = self._settings.batch_size
        while batch := self._probe.read(most):
            payloads, (too_large, tallies) = self._flow_plan.render(batch, most, self._most_bytes)
            if too_large:
                self._ledger.handed(tallies)
                self._ledger.lost("too_large", tallies)
            for data, _, held in payloads:
                self._ledger.handed(held)
                self._sender.put(Payload(data, held))

    def _drain_events(self) -> None:
        """Sequence errors into the sender's queue."""
        most, plan = self._settings.batch_size, self._event_plan
        while plan and (batch := self._probe.read_events(most)):
            payloads, _ = plan.render(batch, most, self._most_bytes)
            for data, _, held in payloads:
                self._events.handed(held)
                self._sender.put(Payload(data, held, self._events))

    def _account_evicted(self, counters: dict[int, dict[str, int]]) -> None:
        """What is neither handed over nor in the table any more went with evicted flows.

        The counters were read before the table, so that packets in between make this too small,
        never too large; it only grows, and without traffic it is exact.
        """
        held = self._probe.held()
        for interface, counts in counters.items():
            handed = self._ledger.handed_over(interface)
            _, packets, octets = held.get(interface, (0, 0, 0))
            evicted = self._evicted[interface]
            missing = counts["counted_packets"] - handed.packets - packets
            if missing > evicted.packets:
                evicted.packets = missing
                evicted.bytes = max(evicted.bytes, counts["counted_bytes"] - handed.bytes - octets)

    def _agent(self, line: int) -> None:
        """One record of `vtap_agent` per interface, as of the grid line (CLOCK_MONOTONIC, ns)."""
        batch = bytearray()
        for interface, counts in self._counters().items():
            evicted = self._evicted[interface]
            values = {
                "interface": interface,
                "time": self._probe.wall(line),
                "evicted_packets": evicted.packets,
                "evicted_bytes": evicted.bytes,
                **counts,
                **self._ledger.values(interface),
                **self._event_values(interface, counts),
            }
            layout = self._agent_schema.layout
            batch += layout.pack({n: v for n, v in values.items() if n in layout.offsets})
        payloads, _ = self._agent_plan.render(batch, self._settings.batch_size, self._most_bytes)
        for data, _, _ in payloads:
            self._sender.put(Payload(data, {}))
        if self._settings.verbose:
            report(self._progress())

    def _event_values(self, interface: int, counts: dict[str, int]) -> dict[str, int]:
        """What became of the events of INTERFACE; those in the kernel's hands wait, too."""
        booked = self._events.values(interface)
        sent, lost = booked["summaries_sent"], booked["summaries_lost"]
        return {
            "events_sent": sent,
            "events_pending": counts["events_handed"] - sent - lost,
            "events_lost": lost,
        }

    def _progress(self) -> str:
        """One line: packets seen, records sent, pending, lost."""
        seen = sum(counts["seen_packets"] for counts in self._counters().values())
        handed, sent, lost = self._ledger.totals()
        gone = sum(amount.records for amount in lost.values())
        pending = handed.records - sent.records - gone
        return f"{seen} packets seen, {sent.records} records sent, {pending} pending, {gone} lost"

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._probe.detach()
        self._drain_events()
        for _ in range(_LAST_SWEEPS):
            self._sweep(force=True)
            if not self._probe.held():  # nor stragglers in the slot that the sweep before left
                break
        delivered = self._sender.drain(_DRAIN_SECONDS)
        self._agent(time.monotonic_ns())
        self._sender.drain(_DRAIN_SECONDS if delivered else 0)
        self._sender.close()
        report(self._summary())

    def _summary(self) -> str:
        """The last line: records sent, and lost by reason."""
        _, sent, lost = self._ledger.totals()
        suppressed = sum(c["events_suppressed"] for c in self._counters().values())
        evicted = sum(amount.packets for amount in self._evicted.values())
        losses = [
            f"{reason} {amount.records} ({amount.packets} packets)"
            for reason, amount in sorted(lost.items())
            if amount.records
        ]
        if evicted:
            losses.append(f"evicted {evicted} packets")
        events = ""
        if self._settings.sequences:
            _, told, _ = self._events.totals()
            events = f"; {told.records} events sent, {suppressed} suppressed"
        return (
            f"{sent.records} records sent ({sent.packets} packets), "
            f"{sum(amount.records for amount in lost.values())} records lost"
            + (": " + ", ".join(losses) if losses else "")
            + events
        )

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
            if self._again:
                before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
            wakeup = signal.set_wakeup_fd(waking.fileno())
            try:
                yield woken
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
