# SPDX-License-Identifier: Apache-2.0
"""What waits for one sink: in memory, in the spool, and on its way; and the books of it.

Fresh payloads wait in memory. While the sink is down all of them go to the spool, while it is slow
the oldest do; without a spool the oldest are given up once memory is full. The spool is written by
a thread of its own, so that a disk that hangs holds up neither measuring nor sending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap import threads
from trapstream_vtap.errors import worth_saying
from trapstream_vtap.ledger import NOTHING, Account
from trapstream_vtap.sinks.payload import Payload, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.segment import Frame
    from trapstream_vtap.spool import Spool

_NS = 1_000_000_000
_SYNC_SECONDS = 1.0  # what a power failure may cost
_RETRY_SECONDS = 1.0  # until the next attempt to write to a full disk
END_SECONDS = 5.0  # that a thread in a system call is waited for at the end
_PATIENCE = 1.0  # seconds that measuring waits for the disk before it gives records up


@dataclass(frozen=True, slots=True)
class _Sent:
    """A payload that was handed to the sink, and where in the spool it is, if it is there."""

    payload: Payload
    frame: Frame | None = None


class Backlog:
    """What waits for one sink. One thread puts, one takes.

    Args:
        max_memory: Most bytes that may wait in memory.
        report: Takes a sentence for the person at the terminal.
        spool: Where the others wait; None: they are lost.
    """

    def __init__(
        self, max_memory: int, report: Callable[[str], None], spool: Spool | None = None
    ) -> None:
        self.account = Account()
        self._max_memory = max_memory
        self._report = report
        self._spool = spool
        self._changed = threading.Condition()
        self._queue: deque[Payload] = deque()
        self._in_flight: deque[_Sent] = deque()
        self._again: deque[_Sent] = deque()  # from the spool, and to be sent once more
        self._moving: Payload | None = None  # on its way to the spool
        self._memory = 0  # bytes of all of these
        self._fresh = True  # whose turn it is
        self._down = self._stuck = self._closed = self._ended = False
        self._downs = 0  # how often the sink was found down
        self._failures = 0  # to write to the disk
        self._retry = 0.0  # when to write to the disk again
        self._thread: threading.Thread | None = None
        if spool:
            spool.begin(self.account)
            self._thread = threads.start(f"Spool {spool.directory}", self._keep, report)

    def put(self, payload: Payload) -> None:
        """Queue PAYLOAD; waits for nothing but the disk, and not long for that."""
        self.account.handed(payload.booked)
        with self._changed:
            self._queue.append(payload)
            self._memory += len(payload.data)
            self._changed.notify_all()
            if self._spool and not self._stuck:
                self._stuck = not self._changed.wait_for(self._fits, _PATIENCE)
            while self._memory > self._max_memory and self._queue:
                oldest = self._queue.popleft()
                self._memory -= len(oldest.data)
                self.account.lost("memory", oldest.booked)

    def _fits(self) -> bool:
        """Whether nothing has to be given up, or there is no point in waiting."""
        waits = self._queue or self._moving
        return self._memory <= self._max_memory or not waits or self._stuck

    def take(self, seconds: float) -> Payload | None:
        """The next payload to send, from now on in flight; None: nothing waits for SECONDS.

        Fresh ones and those of the spool take turns.

        Raises:
            OSError: The spool cannot be read now.
        """
        with self._changed:
            if not (self._again or self._queue or self._drains()):
                self._changed.wait(seconds)
            if self._again:
                return self._send(self._again.popleft())
            if self._queue and (self._fresh or not self._drains()):
                self._fresh = False
                return self._send(_Sent(self._queue.popleft()))
            if not self._spool or not self._drains():
                return None
        self._fresh = True
        frame = self._spool.read()
        if not frame:
            return None
        age = max(time.time_ns() - frame.born, 0) / _NS
        payload = Payload.unpacked(frame.data, frame.booked, time.monotonic() - age)
        with self._changed:
            self._memory += len(payload.data)
            return self._send(_Sent(payload, frame))

    def _drains(self) -> bool:
        """Whether the spool has something, and memory has room for it."""
        return bool(self._spool and self._spool.readable and self._memory <= self._max_memory // 2)

    def _send(self, sent: _Sent) -> Payload:
        self._in_flight.append(sent)
        return sent.payload

    @property
    def in_flight(self) -> bool:
        """Whether something was taken that has not settled."""
        return bool(self._in_flight)

    @property
    def oldest_in_flight(self) -> Payload | None:
        """The payload that settles next, if there is one."""
        return self._in_flight[0].payload if self._in_flight else None

    def settled(self, outcomes: Sequence[Refusal | None]) -> None:
        """What became of the oldest payloads in flight: None is delivered."""
        for refusal in outcomes:
            payload = self._settle()
            refused, less = (refusal.booked, refusal.octets) if refusal else (NOTHING, 0)
            self.account.lost("refused", refused)
            self.account.delivered(payload.booked - refused, len(payload.data) - less)
            self._let_go()

    def failed(self) -> None:
        """The oldest payload in flight is given up, because of an error of our own."""
        self.account.lost("failed", self._settle().booked)
        self._let_go()

    def _settle(self) -> Payload:
        """The oldest payload in flight, which the spool need not keep any more."""
        sent = self._in_flight[0]
        if sent.frame and self._spool:
            self._spool.settle(sent.frame)
        return sent.payload

    def _let_go(self) -> None:
        """Have no oldest payload in flight any more, after it was booked."""
        with self._changed:
            self._memory -= len(self._in_flight.popleft().payload.data)
            self._changed.notify_all()

    def again(self) -> None:
        """The connection is lost: what is in flight is sent once more, ahead of the others."""
        with self._changed:
            for sent in reversed(self._in_flight):
                self.account.retried(sent.payload.booked, len(sent.payload.data))
                if sent.frame:
                    self._again.appendleft(sent)
                else:
                    self._queue.appendleft(sent.payload)
            self._in_flight.clear()
            self._changed.notify_all()

    def down(self, *, down: bool) -> None:
        """Whether the sink takes nothing now."""
        with self._changed:
            self._down = down
            self._downs += down
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many payloads wait in memory to be taken."""
        return len(self._queue) + len(self._again)

    def end(self) -> None:
        """Nobody will take anything any more: there is nothing to wait for."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def place(self) -> str:
        """Where records wait while the sink is down."""
        return "on disk" if self._spool else "in memory"

    def wake(self) -> None:
        """Have `take` look up."""
        with self._changed:
            self._changed.notify_all()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until all has settled, at most so long; whether it has.

        What is on disk is not waited for once the sink was found down again.
        """
        with self._changed:
            before = self._downs
            self._changed.wait_for(
                lambda: self._ended or self._empty() or (self._downs > before and self._safe()),
                seconds,
            )
            return self._empty()

    def _safe(self) -> bool:
        """Whether all that waits is on disk."""
        return self._spool is not None and not (self._queue or self._in_flight or self._moving)

    def _empty(self) -> bool:
        memory = self._queue or self._in_flight or self._again or self._moving
        return not memory and (not self._spool or self._spool.empty)

    def close(self) -> None:
        """After the last `settled`: what is left goes to the spool, or is booked as lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join(END_SECONDS)
        hangs = bool(self._thread and self._thread.is_alive())  # and has the spool to itself
        if hangs:
            self._report("The spool's disk hangs; what waits in memory is lost.")
        spool = None if hangs else self._spool
        left = self._left(spool)
        if spool:
            spool.give_back()
        for payload in left:
            if not (spool and self._kept(spool, payload)):
                self.account.lost("undelivered", payload.booked)
        for waiting in (self._in_flight, self._again, self._queue):
            waiting.clear()
        if spool:
            spool.close()

    def _kept(self, spool: Spool, payload: Payload) -> bool:
        """Whether PAYLOAD is in the spool now."""
        try:
            self._append(spool, payload)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def _left(self, spool: Spool | None) -> list[Payload]:
        """What is in memory alone, oldest first; None: a spool that cannot be asked."""
        sent = [
            sent.payload
            for sent in (*self._in_flight, *self._again)
            if not (sent.frame and (spool is None or spool.holds(sent.frame)))
        ]
        moving = (self._moving,) if self._moving else ()
        return [*sent, *moving, *self._queue]

    def _keep(self) -> None:
        """The spool's thread: what overflows goes to disk, and the disk writes it down."""
        assert self._spool  # noqa: S101 - else there is no thread
        due = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._overflows(), _SYNC_SECONDS)
                if self._closed:
                    return
                if self._overflows():
                    self._moving = self._queue.popleft()
            if self._moving:
                self._move(self._spool, self._moving)
            if time.monotonic() >= due:
                try:
                    self._spool.sync()
                except OSError as error:
                    self._failed(error)
                due = time.monotonic() + _SYNC_SECONDS

    def _overflows(self) -> bool:
        full = self._down or self._memory > self._max_memory // 2
        return bool(self._queue) and full and time.monotonic() >= self._retry

    def _move(self, spool: Spool, payload: Payload) -> None:
        """PAYLOAD to the spool, or back to the head of the queue."""
        try:
            self._append(spool, payload)
        except Exception as error:
            with self._changed:
                self._moving, self._stuck = None, True
                self._retry = time.monotonic() + _RETRY_SECONDS
                self._queue.appendleft(payload)
                self._changed.notify_all()
            if not isinstance(error, OSError):
                raise
            self._failed(error)
            return
        with self._changed:
            self._moving, self._stuck = None, False
            self._memory -= len(payload.data)
            self._changed.notify_all()
        self._failures = 0

    @staticmethod
    def _append(spool: Spool, payload: Payload) -> None:
        born = time.time_ns() - round((time.monotonic() - payload.born) * _NS)
        spool.append(payload.packed(), payload.booked, born)

    def _failed(self, error: OSError) -> None:
        self._failures += 1
        if worth_saying(self._failures):
            self._report(f"Cannot spool ({error.strerror}); what waits is in memory alone.")

    def values(self) -> dict[str, int]:
        """The columns of `vtap_agent` that tell what waits and what became of it, by name."""
        with self._changed:
            sent = (*self._in_flight, *self._again)
            moving = (self._moving,) if self._moving else ()
            waiting = (*(s.payload for s in sent), *moving, *self._queue)
            queued = self._memory
            now = time.monotonic()
            age = max((now - payload.born for payload in waiting), default=0.0)
        if self._spool:
            age = max(age, self._spool.age / _NS)
        return {
            **self.account.values(),
            "bytes_queued": queued,
            "bytes_spooled": self._spool.bytes if self._spool else 0,
            "oldest_age_ms": round(age * 1000),
        }
