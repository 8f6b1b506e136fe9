# SPDX-License-Identifier: Apache-2.0
"""The sender: a queue with a limit, and a thread that brings it to a sink, again if need be.

A sink that hangs or is gone holds up its thread, never the measuring. What a connection that broke
had not settled is sent again, from the oldest on; what no longer fits in memory is given up, oldest
first, and booked as lost.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import tenacity

from trapstream_vtap.ledger import NOTHING, Account, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.sinks.pace import Pace

_FIRST_WAIT = 0.25  # seconds until the first new attempt
_LONGEST_WAIT = 15.0
_SETTLE_SECONDS = 0.02  # how often to ask a sink that has all whether it has settled


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes that are sent as a whole, what they hold, and since when (CLOCK_MONOTONIC, s)."""

    data: bytes
    held: Held = NOTHING
    born: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a collector will never take, and says so: all of a payload, or a part of it.

    Args:
        held: What it refused.
        why: Its reason, for a person.
        octets: How many bytes of payload that is.
    """

    held: Held
    why: str
    octets: int


class TryLaterError(OSError):
    """The collector asks not to be tried again for some seconds."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(0, why)
        self.seconds = seconds


class EndError(OSError):
    """Whoever took the payloads has gone for good: the run is over."""


class Sink(Protocol):
    """A way to a collector. One thread uses it; `open` to `check` may raise OSError."""

    def open(self) -> None:
        """Connect, or make ready to send; also again after an error."""

    def send(self, payload: Payload) -> None:
        """Hand over one whole payload."""

    def settled(self) -> Sequence[Refusal | None]:
        """What became of payloads since the last call, oldest first: None has arrived for certain.

        A payload of which a part was refused has arrived but for that part.
        """

    def check(self) -> None:
        """Raise if the collector has gone meanwhile."""

    def give_up(self) -> None:
        """Have a `send` that waits raise instead; from any thread, and for good."""

    def close(self) -> None:
        """Let go of it."""


class Sender:
    """Feeds one sink from a queue.

    Args:
        sink: Where payloads go.
        max_memory: Most bytes that may wait.
        report: Takes a sentence for the person at the terminal.
        pace: How fast payloads may go; as fast as the sink takes them, if there is none.
        end: Ends the run, because the sink has gone for good.
    """

    def __init__(
        self,
        sink: Sink,
        max_memory: int,
        report: Callable[[str], None],
        pace: Pace | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._sink = sink
        self.account = Account()
        self._max_memory = max_memory
        self._report = report
        self._pace = pace
        self._end = end
        self._ended = False
        self._give_up = threading.Event()
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._queue: deque[Payload] = deque()
        self._unsettled: deque[Payload] = deque()
        self._waiting_bytes = 0
        self._failures = 0  # connections lost since a payload has settled
        self._refusals = 0
        self._down = False
        self._up = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def put(self, payload: Payload) -> None:
        """Queue PAYLOAD; never waits."""
        self.account.handed(payload.held)
        with self._changed:
            self._queue.append(payload)
            self._waiting_bytes += len(payload.data)
            while self._waiting_bytes > self._max_memory and self._queue:
                oldest = self._queue.popleft()
                self._waiting_bytes -= len(oldest.data)
                self.account.lost("memory", oldest.held)
            self._changed.notify_all()

    def hurry(self) -> None:
        """The end is near: do not wait long for a collector that is down."""
        self._closing.set()

    def drain(self, seconds: float) -> bool:
        """Wait until all has settled, at most so long; whether it has."""
        self.hurry()
        with self._changed:
            return self._changed.wait_for(
                lambda: self._ended or not (self._queue or self._unsettled), seconds
            )

    def close(self) -> None:
        """Stop at once; what has not settled is booked as lost."""
        self._closing.set()
        self._give_up.set()
        self._sink.give_up()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()
        self._sink.close()
        for payload in (*self._unsettled, *self._queue):
            self.account.lost("undelivered", payload.held)
        self._unsettled.clear()
        self._queue.clear()

    def _run(self) -> None:
        while not self._give_up.is_set():
            try:
                self._connect()
                while payload := self._next():
                    self._wait_for_turn()
                    self._sink.send(payload)
                    self._settle()
            except tenacity.RetryError:
                return  # given up
            except EndError:
                with self._changed:
                    self._ended, self._up = True, False
                    self._changed.notify_all()
                self._end()
                return
            except OSError as error:
                self._lost_connection(error)

    def _wait_for_turn(self) -> None:
        if self._pace:
            delay = self._pace.delay(len(self._queue), time.monotonic())
            if delay:
                self._give_up.wait(delay)

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
        self._up = not self._failures  # what some sinks open says nothing of the collector

    def _sleep(self, seconds: float) -> None:
        """Wait; when the end is near, not for long."""
        if self._closing.wait(seconds):
            self._give_up.wait(min(seconds, _FIRST_WAIT))

    def _not_open(self, state: tenacity.RetryCallState) -> None:
        """Say that the collector is down, at once and then ever more rarely."""
        self._down, self._up = True, False
        if _worth_saying(state.attempt_number) and state.outcome:
            why = _reason(state.outcome.exception())
            self._report(f"Collector {self._sink} is down ({why}); records wait in memory.")

    def _lost_connection(self, error: OSError) -> None:
        """Put what has not settled back to the head of the queue, and wait ever longer."""
        with self._changed:
            if self._give_up.is_set():
                return
            for payload in reversed(self._unsettled):
                self.account.retried(payload.held)
                self._queue.appendleft(payload)
            self._unsettled.clear()
        self._down, self._up = True, False
        self._failures += 1
        if _worth_saying(self._failures):
            self._report(f"Collector {self._sink}: {_reason(error)}; sending again.")
        wait = min(_FIRST_WAIT * 2.0 ** min(self._failures - 1, 9), _LONGEST_WAIT)
        self._sleep(max(wait, error.seconds) if isinstance(error, TryLaterError) else wait)

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
        outcomes = self._sink.settled()
        if not outcomes:
            return
        with self._changed:
            for refusal in outcomes:
                payload = self._unsettled.popleft()
                self._waiting_bytes -= len(payload.data)
                refused, octets = (refusal.held, refusal.octets) if refusal else (NOTHING, 0)
                self.account.lost("refused", refused)
                self.account.delivered(payload.held - refused, len(payload.data) - octets)
            self._changed.notify_all()
        for refusal in outcomes:
            if refusal:
                self._refused(refusal)
        if self._down:
            self._report(f"Collector {self._sink} is back.")
        self._failures, self._down, self._up = 0, False, True

    def _refused(self, refusal: Refusal) -> None:
        self._refusals += 1
        if _worth_saying(self._refusals):
            what = f"{refusal.held.records} records" if refusal.held.records else "vtap_agent"
            self._report(f"Collector {self._sink} refuses {what}: {refusal.why}.")

    @property
    def up(self) -> bool:
        """Whether the collector was there when it was last tried."""
        return self._up

    def values(self) -> dict[str, int]:
        """The columns of `vtap_agent` that tell of this sink, by name."""
        with self._changed:
            oldest = next(iter((*self._unsettled, *self._queue)), None)
            age = time.monotonic() - oldest.born if oldest else 0.0
        account = self.account.values()
        return {**account, "oldest_age_ms": round(age * 1000), "up": int(self._up)}


def _worth_saying(attempt: int) -> bool:
    """Whether it is a power of two: at once, and then ever more rarely."""
    return attempt & (attempt - 1) == 0


def _reason(error: BaseException | None) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
