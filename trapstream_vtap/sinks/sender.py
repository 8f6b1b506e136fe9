# SPDX-License-Identifier: Apache-2.0
"""The sender: a queue with a limit, and a thread that brings it to a sink, again if need be.

A sink that hangs or is gone holds up its thread, never the measuring. What a connection that broke
had not settled is sent again, from the oldest on; what no longer fits in memory is given up, oldest
first, and booked as lost.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import tenacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap._native import Tallies
    from trapstream_vtap.ledger import Ledger

_FIRST_WAIT = 0.25  # seconds until the first new attempt
_LONGEST_WAIT = 15.0
_SETTLE_SECONDS = 0.02  # how often to ask a sink that has all whether it has settled


class Sink(Protocol):
    """A way to a collector. One thread uses it; every method but `close` may raise OSError."""

    def open(self) -> None:
        """Connect, or make ready to send; also again after an error."""

    def send(self, data: bytes) -> None:
        """Hand over one whole payload."""

    def settled(self) -> int:
        """How many more payloads, oldest first, have arrived for certain since the last call."""

    def check(self) -> None:
        """Raise if the collector has gone meanwhile."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes that are sent as a whole, and what to book for them (nothing: not counted)."""

    data: bytes
    tallies: Tallies
    ledger: Ledger | None = None  # where to book them, if not where the sender books


class Sender:
    """Feeds one sink from a queue.

    Args:
        sink: Where payloads go.
        ledger: Where they are booked.
        max_memory: Most bytes that may wait.
        report: Takes a sentence for the person at the terminal.
        give_up: Set by `close` when time is up; the sink has it, too.
    """

    def __init__(
        self,
        sink: Sink,
        ledger: Ledger,
        max_memory: int,
        report: Callable[[str], None],
        give_up: threading.Event,
    ) -> None:
        self._sink = sink
        self._ledger = ledger
        self._max_memory = max_memory
        self._report = report
        self._give_up = give_up
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._queue: deque[Payload] = deque()
        self._unsettled: deque[Payload] = deque()
        self._waiting_bytes = 0
        self._failures = 0  # connections lost since a payload has settled
        self._down = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def _book(self, payload: Payload) -> Ledger:
        return payload.ledger or self._ledger

    def put(self, payload: Payload) -> None:
        """Queue PAYLOAD; never waits."""
        with self._changed:
            self._queue.append(payload)
            self._waiting_bytes += len(payload.data)
            while self._waiting_bytes > self._max_memory and self._queue:
                oldest = self._queue.popleft()
                self._waiting_bytes -= len(oldest.data)
                self._book(oldest).lost("memory", oldest.tallies)
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until all has settled, at most so long; whether it has."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._queue or self._unsettled), seconds)

    def close(self) -> None:
        """Stop at once; what has not settled is booked as lost."""
        self._closing.set()
        self._give_up.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._sink.close()
        for payload in (*self._unsettled, *self._queue):
            self._book(payload).lost("undelivered", payload.tallies)
        self._unsettled.clear()
        self._queue.clear()

    def _run(self) -> None:
        while not self._give_up.is_set():
            try:
                self._connect()
                while payload := self._next():
                    self._sink.send(payload.data)
                    self._settle()
            except tenacity.RetryError:
                return  # given up
            except OSError as error:
                self._lost_connection(error)

    def _connect(self) -> None:
        """Open the sink, however long it takes."""
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
            + tenacity.wait_random(0, _FIRST_WAIT),
            stop=tenacity.stop_when_event_set(self._give_up),
            sleep=self._sleep,
            before_sleep=self._not_open,
        )
        attempts(self._sink.open)

    def _sleep(self, seconds: float) -> None:
        """Wait; when the end is near, not for long."""
        if self._closing.wait(seconds):
            self._give_up.wait(min(seconds, _FIRST_WAIT))

    def _not_open(self, state: tenacity.RetryCallState) -> None:
        """Say that the collector is down, at once and then ever more rarely."""
        self._down = True
        if _worth_saying(state.attempt_number) and state.outcome:
            why = _reason(state.outcome.exception())
            self._report(f"Collector {self._sink} is down ({why}); records wait in memory.")

    def _lost_connection(self, error: OSError) -> None:
        """Put what has not settled back to the head of the queue, and wait ever longer."""
        with self._changed:
            if self._give_up.is_set():
                return
            for payload in reversed(self._unsettled):
                self._book(payload).failed(payload.tallies)
                self._queue.appendleft(payload)
            self._unsettled.clear()
        self._down = True
        self._failures += 1
        if _worth_saying(self._failures):
            self._report(f"Collector {self._sink}: {_reason(error)}; sending again.")
        self._sleep(min(_FIRST_WAIT * 2.0 ** min(self._failures - 1, 9), _LONGEST_WAIT))

    def _next(self) -> Payload | None:
        """The next payload, from now on unsettled; meanwhile see to the others. None: give up."""
        while True:
            with self._changed:
                if self._give_up.is_set():
                    return None
                if self._queue:
                    self._unsettled.append(self._queue.popleft())
                    return self._unsettled[-1]
                self._changed.wait(_SETTLE_SECONDS if self._unsettled else 1.0)
                if self._queue or self._give_up.is_set():
                    continue
            self._settle()
            self._sink.check()

    def _settle(self) -> None:
        count = self._sink.settled()
        if not count:
            return
        with self._changed:
            for _ in range(count):
                payload = self._unsettled.popleft()
                self._waiting_bytes -= len(payload.data)
                self._book(payload).sent(payload.tallies)
            self._changed.notify_all()
        if self._down:
            self._report(f"Collector {self._sink} is back.")
        self._failures, self._down = 0, False


def _worth_saying(attempt: int) -> bool:
    """Whether it is a power of two: at once, and then ever more rarely."""
    return attempt & (attempt - 1) == 0


def _reason(error: BaseException | None) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
