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
from typing import TYPE_CHECKING

from trapstream_vtap import formats
from trapstream_vtap.config import JSON_LINE_LIMIT, NS
from trapstream_vtap.errors import UsageError
from trapstream_vtap.ledger import Amount, Ledger
from trapstream_vtap.probes.flow import FlowProbe
from trapstream_vtap.records import AGENT
from trapstream_vtap.sinks import Payload, Sender, TcpSink, UdpSink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.config import Settings
    from trapstream_vtap.sinks import Sink

_GRACE_NS = 5_000_000  # after the grid line, for packets that close their flows themselves
_DRAIN_SECONDS = 5.0  # at the end, for the collector to take what is left
_LAST_SWEEPS = 100
_NO_LIMIT = 1 << 62


def report(sentence: str) -> None:
    """Say something to the person at the terminal."""
    print(f"vtap-stream: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


class Stream:
    """One run of vtap-stream.

    Raises:
        UsageError: A record could be longer than a datagram may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probe = FlowProbe(settings)
        datagrams = settings.transport == "udp"
        labels = formats.Labels(settings.device, {i.index: i.name for i in settings.interfaces})
        form: formats.Format
        if settings.format == "json":
            form = formats.JSON_DATAGRAM if datagrams else formats.JSON
        else:
            form = formats.INFLUX
        self._flow_plan = formats.compile_plan(
            form, self._probe.schema, labels, coarse_shift=self._probe.coarse_shift
        )
        self._agent_plan = formats.compile_plan(form, AGENT, labels)
        self._most_bytes = _NO_LIMIT
        if datagrams:
            self._most_bytes = settings.max_datagram
        elif settings.format == "json":
            self._most_bytes = JSON_LINE_LIMIT
        longest = max(self._flow_plan.longest, self._agent_plan.longest)
        if longest > self._most_bytes:
            raise UsageError(
                f"--max-datagram {self._most_bytes} is too small: with these options a record may "
                f"take {longest} bytes."
            )
        self._ledger = Ledger()
        self._evicted = {i.index: Amount() for i in settings.interfaces}
        self._stop = False

    def run(self) -> None:
        """Measure and stream until told to stop.

        Raises:
            RunError: Measuring cannot begin.
        """
        settings = self._settings
        with self._signals() as woken:
            self._probe.start()
            for note in self._probe.notes:
                report(note)
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
        grace = min(_GRACE_NS, self._settings.interval // 20)
        deadline = (
            time.monotonic_ns() + int(self._settings.duration * NS)
            if self._settings.duration is not None
            else _NO_LIMIT
        )
        with select.epoll() as poll:
            poll.register(woken, select.EPOLLIN)
            poll.register(probe.fileno(), select.EPOLLIN)
            line, swept = probe.next_line(), True  # the next grid line; the one before is done
            while not self._stop:
                now = time.monotonic_ns()
                due = min(deadline, line if swept else line + grace)
                if now < due:
                    if poll.poll((due - now) / NS) and probe.pressed():
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

    def _keep_clock(self) -> None:
        """Follow the wall clock when somebody sets it."""
        if self._probe.keep_clock():
            report("the clock was set; the grid of intervals follows it")
            self._sweep(force=True)

    def _sweep(self, *, force: bool = False) -> None:
        counters = self._probe.counters()
        for _ in self._probe.sweep(force=force):
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
        for interface, counts in self._probe.counters().items():
            evicted = self._evicted[interface]
            batch += AGENT.layout.pack(
                {
                    "interface": interface,
                    "time": self._probe.wall(line),
                    "evicted_packets": evicted.packets,
                    "evicted_bytes": evicted.bytes,
                    **counts,
                    **self._ledger.values(interface),
                }
            )
        payloads, _ = self._agent_plan.render(batch, self._settings.batch_size, self._most_bytes)
        for data, _, _ in payloads:
            self._sender.put(Payload(data, {}))
        if self._settings.verbose:
            report(self._progress())

    def _progress(self) -> str:
        """One line: packets seen, records sent, pending, lost."""
        seen = sum(counts["seen_packets"] for counts in self._probe.counters().values())
        handed, sent, lost = self._ledger.totals()
        gone = sum(amount.records for amount in lost.values())
        pending = handed.records - sent.records - gone
        return f"{seen} packets seen, {sent.records} records sent, {pending} pending, {gone} lost"

    def _finish(self) -> None:
        """Close every interval, send it, detach, account for everything, say so."""
        self._probe.detach()
        for _ in range(_LAST_SWEEPS):
            self._sweep(force=True)
            if not self._probe.held():  # nor stragglers in the slot that the sweep before left
                break
        self._sender.drain(_DRAIN_SECONDS)
        self._agent(time.monotonic_ns())
        self._sender.drain(_DRAIN_SECONDS)
        self._sender.close()
        report(self._summary())

    def _summary(self) -> str:
        """The last line: records sent, and lost by reason."""
        _, sent, lost = self._ledger.totals()
        evicted = sum(amount.packets for amount in self._evicted.values())
        losses = [
            f"{reason} {amount.records} ({amount.packets} packets)"
            for reason, amount in sorted(lost.items())
            if amount.records
        ]
        if evicted:
            losses.append(f"evicted {evicted} packets")
        return (
            f"{sent.records} records sent ({sent.packets} packets), "
            f"{sum(amount.records for amount in lost.values())} records lost"
            + (": " + ", ".join(losses) if losses else "")
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

            before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
            wakeup = signal.set_wakeup_fd(waking.fileno())
            try:
                yield woken
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
