# SPDX-License-Identifier: Apache-2.0
"""An error that nobody foresaw, in a thread of delivery: it costs one payload, and is said."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from sending import Peer, Sending, numbers_of, payload, read_until_end
from waiting import wait_for

from trapstream_vtap import threads
from trapstream_vtap.sinks import TcpSink, backlog, sender
from trapstream_vtap.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trapstream_vtap.ledger import Booked
    from trapstream_vtap.sinks import Payload

COUNT = 300


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A TCP port that listens."""
    new = Peer()
    new.socket.listen()
    yield new
    new.close()


class Broken(TcpSink):
    """Fails where a test wants it to."""

    opens = True
    settles = True

    def open(self) -> None:
        """Fail once."""
        if self.opens:
            self.opens = False
            raise RuntimeError("no\nopening")
        super().open()

    def send(self, sent: Payload) -> None:
        """Fail with number 7, always, when its half is written."""
        if sent.data.startswith(b"000007"):
            self._put(sent.data[:50])
            raise KeyError(7)
        super().send(sent)

    def settled(self) -> list[None]:
        """Fail once, with what was read."""
        found = super().settled()
        if found and self.settles:
            self.settles = False
            raise MemoryError
        return found


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "disk"])
def test_costs_one_payload(peer: Peer, tmp_path: Path, *, spooled: bool) -> None:
    """A sink that fails in opening, sending and settling loses what it fails at, and no more."""
    lines: list[bytes] = []

    def collect() -> None:
        try:
            while True:
                lines.extend(read_until_end(peer.accept()))
        except OSError:
            return

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    spool = Spool(tmp_path, 1 << 30, lambda _: None) if spooled else None
    with Sending(Broken, peer.port, spool=spool) as sending:
        sending.put(*(payload(i) for i in range(COUNT)))
        wait_for(lambda: sending.sent + sending.values["records_lost"] == COUNT)
    peer.close()
    reader.join()
    sending.check_books()
    found = set(numbers_of(line for line in lines if len(line) == 100))
    missing = set(range(COUNT)) - found
    assert missing == {7}
    # What it failed at in settling may have arrived: one more is given up than is missing.
    assert sending.lost("failed") == sending.values["records_lost"] == 2
    assert (
        "an error of vtap-stream itself, RuntimeError in sinks/sender.py, line" in sending.said[0]
    )
    assert sending.said[0].endswith("(no opening); sending again.")


@pytest.mark.parametrize("which", ["sink", "disk"])
def test_end_while_it_hangs(
    which: str, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call of a sink or the spool that does not return holds up no end; all is booked."""
    monkeypatch.setattr(backlog, "END_SECONDS", 0.2)
    monkeypatch.setattr(sender, "END_SECONDS", 0.2)
    entered, go_on = threading.Event(), threading.Event()

    def hang(kind: str) -> None:
        if which == kind:
            entered.set()
            go_on.wait(60)

    class Slow(TcpSink):
        def send(self, sent: Payload) -> None:
            hang("sink")
            super().send(sent)

    class Hanging(Spool):
        def append(self, data: bytes, booked: Booked, born: int) -> None:
            hang("disk")
            super().append(data, booked, born)

    if which == "disk":
        peer.reopen()  # nobody listens: all is to be spooled
    spool = Hanging(tmp_path, 1 << 20, lambda _: None)
    with Sending(Slow, peer.port, spool=spool) as sending:
        sending.put(*(payload(i) for i in range(COUNT)))
        assert entered.wait(20)
        begin = time.monotonic()
        sending.sender.close()
        assert time.monotonic() - begin < 5
        sending.check_books()
        assert sending.values["records_spooled" if which == "sink" else "records_lost"] == COUNT
        assert any("hangs" in sentence for sentence in sending.said)
        monkeypatch.setattr(sending.sender, "close", lambda: None)
    go_on.set()
    sending.sender._thread.join(20)
    sending.sender._sink.close()


def test_thread_goes_on() -> None:
    """What a thread raises is said, with its place, and it begins again until it returns."""
    said: list[str] = []
    results = iter((ValueError("a\nb"), ZeroDivisionError(), None))

    def work() -> None:
        if error := next(results):
            raise error

    threads.start("Spool x", work, said.append).join(20)
    assert [sentence.partition(", line")[0] for sentence in said] == [
        "Spool x: an error of vtap-stream itself, ValueError in threads.py",
        "Spool x: an error of vtap-stream itself, ZeroDivisionError in threads.py",
    ]
    assert said[0].endswith("(a b); it goes on.")
