# SPDX-License-Identifier: Apache-2.0
"""The sender: a thread that brings a backlog to a sink, again if need be.

A sink that hangs or is gone holds up its thread, never the measuring. What a connection that broke
had not settled is sent again, from the oldest on.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

import tenacity

from trapstream_vtap import threads
from trapstream_vtap.errors import UsageError, worth_saying
from trapstream_vtap.sinks.backlog import END_SECONDS, Backlog
from trapstream_vtap.sinks.payload import Payload, Refusal
from trapstream_vtap.words import amount, are

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.sinks.pace import Pace
    from trapstream_vtap.spool import Spool

__all__ = ["EndError", "Payload", "Refusal", "Sender", "Sink", "TryLaterError"]

_FIRST_WAIT = 0.25  # seconds until the first new attempt
_LONGEST_WAIT = 15.0
_SETTLE_SECONDS = 0.02  # how often to ask a sink that has all whether it has settled
_LONGEST_REASON = 200  # characters
_IDLE_SECONDS = 1.0  # how often to see whether it is still there


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

    def renew(self) -> bool:
        """Read the credentials again, for new connections; whether they have changed.

        Where they cannot be used, UsageError says why, and the old ones stay.
        """

    def check(self) -> None:
        """Raise if the collector has gone meanwhile."""

    def give_up(self) -> None:
        """Have a `send` that waits raise instead; from any thread, and for good."""

    def close(self) -> None:
        """Let go of it."""


class Sender:
    """Feeds one sink from a backlog.

    Args:
        sink: Where payloads go.
        max_memory: Most bytes that may wait in memory.
        report: Takes a sentence for the person at the terminal.
        pace: How fast payloads may go; as fast as the sink takes them, if there is none.
        end: Ends the run, because the sink has gone for good.
        spool: Where to keep what cannot be delivered; None: in memory alone.
    """

    def __init__(
        self,
        sink: Sink,
        max_memory: int,
        report: Callable[[str], None],
        *,
        pace: Pace | None = None,
        spool: Spool | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._sink = sink
        self._backlog = Backlog(max_memory, report, spool)
        self.account = self._backlog.account
        self._report = report
        self._pace = pace
        self._end = end
        self._give_up = threading.Event()
        self._closing = threading.Event()
        self._renewing = threading.Event()
        self._failures = 0  # connections lost since a payload has settled
        self._refusals = 0
        self._sending: Payload | None = None  # that the sink is being handed
        self._condemned: Payload | None = None  # in which we failed: it is not sent again
        self._down = False
        self._up = False
        self._thread = threads.start(f"Collector {sink}", self._run, report)

    def put(self, payload: Payload) -> None:
        """Queue PAYLOAD; waits for nothing but the spool's disk, and not long for that."""
        self._backlog.put(payload)

    def renew(self) -> None:
        """Have the sink's credentials read again; from any thread."""
        self._renewing.set()
        self._backlog.wake()

    def keep_pace(self, interval: float) -> None:
        """Records come every INTERVAL seconds; from any thread."""
        if self._pace:
            self._pace.follow(interval)

    def hurry(self) -> None:
        """The end is near: do not wait long for a collector that is down."""
        if self._pace:
            self._pace.hurry()
        self._closing.set()

    def drain(self, seconds: float) -> bool:
        """Wait until all has settled, at most so long; whether it has."""
        self.hurry()
        return self._backlog.wait_until_empty(seconds)

    def close(self) -> None:
        """Stop at once; what has not settled goes to the spool, or is booked as lost."""
        self._closing.set()
        self._give_up.set()
        self._sink.give_up()
        self._backlog.wake()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():  # in a system call that does not return
            self._report(f"Collector {self._sink} hangs; what it has not taken is left.")
        else:
            self._sink.close()
        self._backlog.close()

    def _run(self) -> None:
        while not self._give_up.is_set():
            try:
                self._connect()
                while not self._give_up.is_set():
                    self._bring()
            except tenacity.RetryError:
                return  # given up
            except EndError:
                self._up = False
                self._backlog.end()
                self._end()
                return
            except OSError as error:
                self._lost_connection(error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are delivered
                self._condemned = self._sending or self._backlog.oldest_in_flight
                self._lost_connection(OSError(0, threads.own_error(error)))

    def _bring(self) -> None:
        """One payload more to the sink; if there is none, see to those on their way."""
        payload = None
        if not self._renewing.is_set():
            wait = _SETTLE_SECONDS if self._backlog.in_flight else _IDLE_SECONDS
            payload = self._backlog.take(wait)
        elif self._backlog.in_flight:  # then what is on its way need not be sent again
            self._give_up.wait(_SETTLE_SECONDS)
        else:
            self._renew()
        if payload and payload is self._condemned:
            self._drop(payload)
        elif payload:
            self._wait_for_turn()
            self._sending = payload
            self._sink.send(payload)
            self._sending = None
        self._settle()
        if not payload:
            self._sink.check()

    def _renew(self) -> None:
        """Connect with credentials that have changed."""
        self._renewing.clear()
        try:
            changed = self._sink.renew()
        except UsageError as error:
            self._report(f"Collector {self._sink}: credentials stay as they were: {error}")
            return
        if changed:
            self._report(f"Collector {self._sink}: credentials were read again.")
            self._sink.open()

    def _drop(self, payload: Payload) -> None:
        """Give up PAYLOAD, the latest in flight, when those ahead of it have settled."""
        while self._backlog.oldest_in_flight is not payload:
            self._settle()
            self._sink.check()
            if self._give_up.wait(_SETTLE_SECONDS):
                return
        self._condemned = None
        self._backlog.failed()
        if payload.booked.records:
            records = payload.booked.records
            what = f"{amount(records, 'record')} {are(records)} given up"
            self._report(f"Collector {self._sink}: {what}.")

    def _wait_for_turn(self) -> None:
        if self._pace:
            delay = self._pace.delay(self._backlog.waiting, time.monotonic())
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
        self._not_up()
        if worth_saying(state.attempt_number) and state.outcome:
            why = _reason(state.outcome.exception())
            place = self._backlog.place
            self._report(f"Collector {self._sink} is down ({why}); records wait {place}.")

    def _lost_connection(self, error: OSError) -> None:
        """Have what has not settled sent again, and wait ever longer."""
        self._sending = None
        if self._give_up.is_set():
            return
        self._backlog.again()
        self._not_up()
        self._failures += 1
        if worth_saying(self._failures):
            self._report(f"Collector {self._sink}: {_reason(error)}; sending again.")
        wait = min(_FIRST_WAIT * 2.0 ** min(self._failures - 1, 9), _LONGEST_WAIT)
        self._sleep(max(wait, error.seconds) if isinstance(error, TryLaterError) else wait)

    def _not_up(self) -> None:
        self._down, self._up = True, False
        self._backlog.down(down=True)

    def _settle(self) -> None:
        outcomes = self._sink.settled()
        if not outcomes:
            return
        self._backlog.settled(outcomes)
        for refusal in outcomes:
            if refusal:
                self._refused(refusal)
        if self._down:
            self._backlog.down(down=False)
            self._report(f"Collector {self._sink} is back.")
        self._failures, self._down, self._up = 0, False, True

    def _refused(self, refusal: Refusal) -> None:
        self._refusals += 1
        if worth_saying(self._refusals):
            records = refusal.booked.records
            what = amount(records, "record") if records else "vtap_agent"
            self._report(f"Collector {self._sink} refuses {what}: {refusal.why}.")

    @property
    def up(self) -> bool:
        """Whether the collector was there when it was last tried."""
        return self._up

    def values(self) -> dict[str, int]:
        """The columns of `vtap_agent` that tell of this sink, by name."""
        return {**self._backlog.values(), "up": int(self._up)}


def _reason(error: BaseException | None) -> str:
    """Why, in a sentence; what a collector has answered may be long."""
    why = (isinstance(error, OSError) and error.strerror) or str(error)
    return why if len(why) <= _LONGEST_REASON else f"{why[:_LONGEST_REASON]}..."
