# SPDX-License-Identifier: Apache-2.0
"""Connections to collectors: each step has one time limit as a whole, and the end ends it.

A peer that answers a byte at a time, or a resolver that does not, holds nobody up for longer.
"""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import ssl
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer, WriteableBuffer

_Result = TypeVar("_Result")
_Where = tuple[socket.AddressFamily, Any]
"""Family and address, for `socket.connect`."""

CONNECT_SECONDS = 5.0
"""For each address, and for its name."""
_POLL_SECONDS = 0.2  # how soon the end is noticed
_CHUNK = 1 << 18
_MOST_RECEIVED = 1 << 20  # bytes of an answer with its head


class Step:
    """One step with a collector, as a whole.

    Args:
        seconds: It may take.
        given_up: Set at the end.
        late: What to say of one that takes longer.
    """

    def __init__(self, seconds: float, given_up: threading.Event, late: str) -> None:
        self._until = time.monotonic() + seconds
        self._given_up = given_up
        self._late = late

    def wait(self, connection: socket.socket, events: int) -> None:
        """Until CONNECTION is ready for EVENTS of poll(2).

        Raises:
            TimeoutError: It takes too long, or this is the end.
        """
        poll = select.poll()  # select(2) takes no descriptor above 1023
        poll.register(connection, events)
        while not poll.poll(1000 * self.patience()):
            pass

    def patience(self) -> float:
        """Seconds to wait now, before it is asked again.

        Raises:
            TimeoutError: It takes too long, or this is the end.
        """
        left = self._until - time.monotonic()
        if left <= 0 or self._given_up.is_set():
            raise TimeoutError(0, self._late)
        return min(left, _POLL_SECONDS)


class Route:
    """The addresses of a collector: all are tried in turn, first the one that worked last.

    Args:
        host: Name or IP address, and port.
        kind: SOCK_STREAM or SOCK_DGRAM.
        given_up: Set at the end.
    """

    def __init__(
        self, host: tuple[str, int], kind: socket.SocketKind, given_up: threading.Event
    ) -> None:
        self._host = host
        self._kind = kind
        self._given_up = given_up
        self._latest: _Where | None = None
        self._worked = False

    def worked(self) -> None:
        """The address that was connected to last has taken something."""
        self._worked = True

    def connect(self) -> socket.socket:
        """A socket that is connected and never blocks.

        Raises:
            OSError: With none of the addresses; why the last of them was none.
        """
        failure: OSError = ConnectionError(0, "its name has no address")
        for family, where in self._in_turn():
            self._latest, self._worked = (family, where), False
            connection = socket.socket(family, self._kind)
            try:
                self._connect(connection, where)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return connection
        raise failure

    def _connect(self, connection: socket.socket, where: Any) -> None:
        connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
        step = Step(CONNECT_SECONDS, self._given_up, "timed out")
        code = connection.connect_ex(where)
        if code == errno.EINPROGRESS:
            step.wait(connection, select.POLLOUT)
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _in_turn(self) -> Sequence[_Where]:
        """All addresses; those that follow one that did not work come first."""
        found = self._resolved()
        first = 0
        if self._latest in found:
            first = found.index(self._latest) + (not self._worked)
        return found[first:] + found[:first]

    def _resolved(self) -> list[_Where]:
        """What the name stands for now; the resolver has no time limit of its own that is short.

        Raises:
            OSError: It stands for nothing.
        """
        answer: futures.Future[list[_Where]] = futures.Future()

        def ask(flags: int = 0) -> list[_Where]:
            found = socket.getaddrinfo(*self._host, type=self._kind, flags=flags)
            return list(dict.fromkeys((family, where) for family, _, _, _, where in found))

        def ask_anybody() -> None:
            try:
                answer.set_result(ask())
            except UnicodeError:
                answer.set_exception(OSError(0, "not a host name"))
            except Exception as error:  # noqa: BLE001 - it is raised in the thread that asks
                answer.set_exception(error)

        try:
            return ask(socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            threading.Thread(target=ask_anybody, name="resolver", daemon=True).start()
        step = Step(CONNECT_SECONDS, self._given_up, "its name is not resolved in time")
        while not futures.wait((answer,), step.patience()).done:
            pass
        return answer.result()


class Stream:
    """A connection as `http.client` uses a socket; between two calls of `settimeout` is one step.

    Args:
        connection: Connected, and never blocks.
        seconds: That a step may take.
        given_up: Set at the end.
    """

    def __init__(
        self, connection: socket.socket, seconds: float, given_up: threading.Event
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._given_up = given_up
        self._received = 0  # in this step
        self.settimeout(seconds)

    def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Shake hands with the server called NAME.

        Raises:
            OSError: One side does not trust the other, or does not speak TLS.
        """
        self._step = Step(CONNECT_SECONDS, self._given_up, "no TLS handshake in time")
        secured = context.wrap_socket(
            self._connection, server_hostname=name, do_handshake_on_connect=False
        )
        self._connection = secured
        self._done(secured.do_handshake, select.POLLIN)

    def settimeout(self, _: object) -> None:
        """A new step begins."""
        self._step = Step(self._seconds, self._given_up, "no answer in time")
        self._received = 0

    def _done(self, action: Callable[[], _Result], events: int) -> _Result:
        """ACTION's result, when it can be done.

        Raises:
            OSError: It cannot be, or not in time.
        """
        while True:
            try:
                return action()
            except ssl.SSLWantReadError:
                awaited = select.POLLIN
            except ssl.SSLWantWriteError:
                awaited = select.POLLOUT
            except ssl.SSLError as error:
                raise refused(error) from error
            except BlockingIOError:
                awaited = events
            self._step.wait(self._connection, awaited)

    def sendall(self, data: ReadableBuffer) -> None:
        """Send all of DATA.

        Raises:
            OSError: That was not possible, or not in time.
        """
        rest = memoryview(data).cast("B")
        while rest:
            sent = self._done(lambda: self._connection.send(rest[:_CHUNK]), select.POLLOUT)  # noqa: B023 - called at once
            rest = rest[sent:]

    def recv_into(self, buffer: WriteableBuffer) -> int:
        """How many bytes came into BUFFER; 0 at the end.

        Raises:
            OSError: None came in time, or too many have come.
        """
        self._step.patience()  # also where a drop comes each moment
        if self._received > _MOST_RECEIVED:
            raise ConnectionError(0, "an answer without end")
        count = self._done(lambda: self._connection.recv_into(buffer), select.POLLIN)
        self._received += count
        return count

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        """For reading; closing it leaves the connection open."""
        return io.BufferedReader(_Raw(self))

    def fileno(self) -> int:
        """Of the socket."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _Raw(io.RawIOBase):
    """What a stream receives."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """As `Stream.recv_into`."""
        return self._stream.recv_into(buffer)


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
"""What OpenSSL says of an answer that is something else."""


def refused(error: ssl.SSLError) -> OSError:
    """ERROR in words for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionError(0, f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLZeroReturnError):
        return ConnectionResetError("the collector closed the connection")
    if error.reason in _NO_TLS:
        return ConnectionError(0, "no TLS is spoken there: say http://, or leave --tls out")
    return ConnectionError(0, f"TLS: {error.reason or error}")
