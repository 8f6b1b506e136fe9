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

from trapstream_vtap.config import NS
from trapstream_vtap.delivery import Delivery, Schemas
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.ledger import Amount
from trapstream_vtap.probes.flow import FlowProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.config import Settings
    from trapstream_vtap.delivery import Plans

_GRACE_NS = 5_000_000  # after the grid line, for packets that close their flows themselves
_DRAIN_SECONDS = 5.0  # at the end, for the collector to take what is left
_LAST_SWEEPS = 100
_NO_LIMIT = 1 << 62
_FIXED = (
    *("sinks", "interfaces", "directions", "format", "device", "max_datagram"),
    *("max_memory", "spool", "spool_size", "duration"),
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
        self._probe = FlowProbe(settings)
        self._delivery = Delivery(settings, report)
        self._delivery.use(self._plans_of(self._probe))
        self._evicted = {i.index: Amount() for i in settings.interfaces}
        self._before = {i.index: Counter[str]() for i in settings.interfaces}  # by earlier probes
        self._stop = False
        self._reload = False
        self._loading: Future[tuple[FlowProbe, Settings]] | None = None

    def _plans_of(self, probe: FlowProbe) -> Plans:
        """How the records of PROBE are rendered."""
        return self._delivery.plans(Schemas(probe.schema, probe.event_schema, probe.coarse_shift))

    def run(self) -> None:
        """Measure and stream until told to stop.

        Raises:
            RunError: Measuring cannot begin.
        """
        settings = self._settings
        with self._signals() as woken:
            self._probe.start()
            self._delivery.start()
            names = ", ".join(i.name for i in settings.interfaces)
            directions = " and ".join(d.name.lower() for d in settings.directions)
            sinks = ", ".join(str(address) for address in settings.sinks)
            report(f"measuring {directions} of {names}, streaming {settings.format} to {sinks}")
            try:
                self._loop(woken)
            finally:
                self._finish()

    def _loop(self, woken: socket.socket) -> None:
        probe = self._probe
        grace = min(_GRACE_NS, self._settings.interval // 20)
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
        old = self._probe
        new = None
        try:
            new, chosen = loading.result()
            plans = self._plans_of(new)
            moment = new.take_over(old)
        except (UsageError, RunError, OSError) as error:
            if new:
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
        self._probe, self._settings = new, chosen
        self._delivery.use(plans)
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
        """Everything in the ring to the sinks."""
        while batch := self._probe.read(self._settings.batch_size):
            self._delivery.hand_flows(batch)

    def _drain_events(self) -> None:
        """Sequence errors to the sinks."""
        while batch := self._probe.read_events(self._settings.batch_size):
            self._delivery.hand_events(batch)

    def _account_evicted(self, counters: dict[int, dict[str, int]]) -> None:
        """What is neither handed over nor in the table any more went with evicted flows.

        The counters were read before the table, so that packets in between make this too small,
        never too large; it only grows, and without traffic it is exact.
        """
        held = self._probe.held()
        for interface, counts in counters.items():
            handed = self._delivery.flows.of(interface)
            _, packets, octets = held.get(interface, (0, 0, 0))
            evicted = self._evicted[interface]
            missing = counts["counted_packets"] - handed.packets - packets
            if missing > evicted.packets:
                evicted.packets = missing
                evicted.bytes = max(evicted.bytes, counts["counted_bytes"] - handed.bytes - octets)

    def _agent(self, line: int) -> None:
        """The records of `vtap_agent`, as of the grid line (CLOCK_MONOTONIC, ns)."""
        interfaces = {}
        for interface, counts in self._counters().items():
            evicted, handed = self._evicted[interface], self._delivery.flows.of(interface)
            interfaces[interface] = {
                **counts,
                "evicted_packets": evicted.packets,
                "evicted_bytes": evicted.bytes,
                "summaries_handed": handed.records,
                "packets_handed": handed.packets,
                "bytes_handed": handed.bytes,
                "events_handed": self._delivery.events.of(interface).records,
            }
        self._delivery.hand_account(self._probe.wall(line), interfaces)
        if self._settings.verbose:
            seen = sum(counts["seen_packets"] for counts in interfaces.values())
            report(f"{seen} packets seen; {self._delivery.progress()}")

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._probe.detach()
        self._drain_events()
        for _ in range(_LAST_SWEEPS):
            self._sweep(force=True)
            if not self._probe.held():  # nor stragglers in the slot that the sweep before left
                break
        self._delivery.drain(_DRAIN_SECONDS)
        self._agent(time.monotonic_ns())
        self._delivery.drain(_DRAIN_SECONDS)
        self._delivery.close()
        for sentence in self._delivery.summaries():
            report(sentence + self._kernel_losses())

    def _kernel_losses(self) -> str:
        """What was lost before it came to the sinks, for the last line; nothing, if nothing was."""
        evicted = sum(amount.packets for amount in self._evicted.values())
        suppressed = sum(c["events_suppressed"] for c in self._counters().values())
        return (f"; evicted {evicted} packets" if evicted else "") + (
            f"; {suppressed} events suppressed" if suppressed else ""
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
