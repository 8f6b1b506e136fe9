# SPDX-License-Identifier: Apache-2.0
"""TLS over TCP: settled is what the peer's kernel has acknowledged of the encrypted stream.

An `SSLSocket` does not tell how many bytes it writes, so TLS runs between buffers here, and the
socket is our own.
"""

from __future__ import annotations

import select
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError
from trapstream_vtap.sinks.connection import CONNECT_SECONDS, Step, refused
from trapstream_vtap.sinks.tcp import TcpSink

if TYPE_CHECKING:
    import socket

    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.tls import Contexts

_CHUNK = 1 << 18
_DOUBT_SECONDS = 1.0
"""TLS 1.3 lets a client send before the server has looked at its certificate (RFC 8446, 4.4.2).

What a server then throws away its kernel has acknowledged. So nothing has settled before the server
has said something, which most do at once (session tickets), or has had so long to say no.
"""


class TlsSink(TcpSink):
    """One encrypted connection at a time to a collector's TCP port.

    Args:
        address: Where to.
        contexts: Whom to trust, and who we are.
    """

    def __init__(self, address: Address, contexts: Contexts) -> None:
        super().__init__(address)
        self._contexts = contexts
        self._tls: ssl.SSLObject | None = None

    def renew(self) -> bool:
        """Read the credentials again, for new connections; whether they have changed.

        Raises:
            UsageError: They cannot be used; the old ones stay.
        """
        return self._contexts.renew()

    def _greet(self, connection: socket.socket) -> None:
        """Shake hands.

        Raises:
            OSError: One side does not trust the other, or does not speak TLS.
        """
        with suppress(UsageError):  # they may have been renewed; if not rightly, the old ones stay
            self.renew()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = self._address.hosts[0][0]
        self._tls = self._contexts.latest.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name
        )
        step = Step(CONNECT_SECONDS, self._given_up, "no TLS handshake in time")
        shaken = False
        while not shaken:
            try:
                self._tls.do_handshake()
                shaken = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                with suppress(OSError):
                    connection.send(self._outgoing.read())  # so that the server knows why
                raise refused(error) from error
            while said := self._outgoing.read(_CHUNK):
                self._say(connection, said, step)
            if not shaken:
                step.wait(connection, select.POLLIN)
                self._incoming.write(self._received(connection))
        doubtful = self._tls.version() == "TLSv1.3"
        self._settles_from = time.monotonic() + _DOUBT_SECONDS if doubtful else 0.0

    def _say(self, connection: socket.socket, said: bytes, step: Step) -> None:
        while said:
            step.wait(connection, select.POLLOUT)
            done = connection.send(said)
            self._written += done
            said = said[done:]

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._secured().write(rest[:_CHUNK]) :]
            super()._put(self._outgoing.read())

    def settled(self) -> list[None]:
        """One for each payload that the peer has acknowledged since the last call.

        Raises:
            OSError: The connection is lost.
        """
        self.check()
        return super().settled() if time.monotonic() >= self._settles_from else []

    def _listen(self, connection: socket.socket) -> None:
        super()._listen(connection)
        super()._put(self._outgoing.read())  # what TLS itself has to say to it

    def _take_in(self, connection: socket.socket) -> None:
        self._incoming.write(self._received(connection))
        tls = self._secured()
        try:
            while tls.read(1 << 16):
                pass  # answers are nothing to us
        except ssl.SSLWantReadError:
            self._settles_from = 0.0
        except ssl.SSLError as error:
            raise refused(error) from error

    def close(self) -> None:
        """Say that this is the end, and close the connection, if there is one."""
        if self._socket and self._tls:
            with suppress(OSError):
                self._listen(self._socket)  # or the kernel resets what is closed unread
            with suppress(OSError):
                self._tls.unwrap()
            with suppress(OSError):
                self._socket.send(self._outgoing.read())
        super().close()

    def _secured(self) -> ssl.SSLObject:
        if not self._tls:
            raise ConnectionError("not connected")
        return self._tls
