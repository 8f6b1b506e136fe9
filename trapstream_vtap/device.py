# SPDX-License-Identifier: Apache-2.0
"""What the tag `device` says where nobody has chosen it: which machine of many this is."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import TYPE_CHECKING

from trapstream_vtap import threads
from trapstream_vtap.sinks.connection import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trapstream_vtap.settings.address import Address

_AGAIN_SECONDS = 2.0


def address_toward(hosts: Sequence[tuple[str, int]], given_up: threading.Event) -> str:
    """The address that the kernel would send from, or the host name.

    The host name where that address is one that other machines have, too: loopback, link-local.

    Args:
        hosts: Names or addresses of one collector, with ports; the first to which there is a way.
        given_up: Set at the end.

    Raises:
        OSError: There is no way to any, as of now.
    """
    failure: OSError = ConnectionError(0, "it has no address")
    for host in hosts:
        try:
            with Route(host, socket.SOCK_DGRAM, given_up).connect() as probe:
                found = str(probe.getsockname()[0])
        except OSError as error:
            failure = error
        else:
            address = ipaddress.ip_address(found)
            mapped = getattr(address, "ipv4_mapped", None) or address
            shared = mapped.is_loopback or mapped.is_link_local
            return socket.gethostname() if shared else found
    raise failure


class Device:
    """Finds out what the tag says; as long as that is not known, it is the host name.

    Args:
        chosen: By the person, or None.
        sinks: The first with a host decides.
        report: Takes a sentence for the person at the terminal.
        found: Called, in any thread, when the name is another from now on.
    """

    def __init__(
        self,
        chosen: str | None,
        sinks: Sequence[Address],
        report: Callable[[str], None],
        found: Callable[[], None],
    ) -> None:
        self._remote = next((sink for sink in sinks if sink.hosts), None)
        self.name = chosen or socket.gethostname()
        self._report, self._found = report, found
        self._given_up = threading.Event()
        self._tried = threading.Event()
        if chosen or not self._remote:
            self._tried.set()

    def start(self) -> None:
        """Begin to look for it, in a thread."""
        if not self._tried.is_set():
            threads.start("Finding the own address", self._find, self._report)

    def wait(self, seconds: float) -> None:
        """At most so long, until it has been looked for once."""
        self._tried.wait(seconds)

    def close(self) -> None:
        """Look no more."""
        self._given_up.set()

    def _find(self) -> None:
        assert self._remote  # noqa: S101 - it is started only then
        while not self._given_up.is_set():
            try:
                name = address_toward(self._remote.hosts, self._given_up)
            except OSError as error:
                if not self._tried.is_set():
                    self._report(
                        f"There is no way to {self._remote} yet ({error.strerror or error}): until "
                        f"there is, the tag device says {self.name}."
                    )
                self._tried.set()
                self._given_up.wait(_AGAIN_SECONDS)
            else:
                if name != self.name:
                    self.name = name
                    if self._tried.is_set():
                        self._report(f"The tag device says {name} from now on.")
                    self._found()
                self._tried.set()
                return
