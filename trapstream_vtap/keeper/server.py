# SPDX-License-Identifier: Apache-2.0
"""The keeper's own side: what it does when it is asked, and that it lets go when nobody asks.

Its peer is unprivileged. A request says that something is to be loaded or attached, never what:
that follows from the command line, the configuration file, and the interfaces that are there. The
keeper lets go of everything when its peer ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from trapstream_vtap import credentials, privileges
from trapstream_vtap.bpf.attach import Holder
from trapstream_vtap.errors import RunError
from trapstream_vtap.keeper import handover

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.bpf.attach.holder import Change

_LONGEST_REQUEST = 1 << 16
_LOADER = """
import sys
sys.path[:] = sys.argv.pop(1).split(":")
from trapstream_vtap.keeper.loader import main
main()
"""


class _Loaded:
    """Programs that are loaded, and what they were made from."""

    def __init__(self, answer: tuple[Any, ...], descriptors: list[int]) -> None:
        self.places, self.notes, shared, self.maps, self.settings = answer
        self.programs = dict(zip(shared, descriptors, strict=False))
        self.shared = [name for name in shared if shared[name]]
        """The programs that the peer gets, too."""
        self.others = descriptors[len(shared) :]

    def close(self) -> None:
        """The kernel gives back what nobody else has open."""
        for descriptor in self.programs.values():
            os.close(descriptor)


class Server:
    """Serves one peer.

    Args:
        orders: Requests about what is attached; each is answered at once.
        loads: Requests to load; the answer comes when it is done.
        files: Requests for the files of credentials; each is answered at once.
    """

    def __init__(self, orders: socket.socket, loads: socket.socket, files: socket.socket) -> None:
        self._orders, self._loads, self._files = orders, loads, files
        first = pickle.loads(handover.receive(loads)[0])  # noqa: S301 - of its parent, still root
        self._again, self._settings, self._credentials, self._configured = first
        self._latest = self._settings  # that anything was loaded from
        self._holders = {probe: Holder() for probe in self._configured}
        self._loaded: dict[str, _Loaded] = {}  # by probe
        self._attached: dict[str, _Loaded] = {}
        self._loader: tuple[int, socket.socket] | None = None
        self._probe = ""  # that is being loaded

    def serve(self) -> None:
        """Return when the peer has ended and nothing is attached any more."""
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._serve_one()
        finally:
            self._let_go()
            if self._loader:
                os.kill(self._loader[0], signal.SIGKILL)
                self._reap()

    def _serve_one(self) -> None:
        awaited = self._loader[1] if self._loader else self._loads
        poll = select.poll()  # select(2) takes no descriptor above 1023
        for source in (self._orders, self._files, awaited):
            poll.register(source, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        if self._orders.fileno() in ready:
            self._order()
        elif self._files.fileno() in ready:
            self._hand_files()
        elif self._loader:
            self._take_loaded(awaited)
        else:
            self._load()

    def _order(self) -> None:
        request = handover.request(self._orders, _LONGEST_REQUEST)
        verb, *words = request.decode(errors="surrogateescape").split("\n")
        answer: object = None
        try:
            answer = _ORDERS.get(verb, Server._refuse)(self, words)
        except Exception as error:  # noqa: BLE001 - whatever it is, what is attached stays
            answer = error if isinstance(error, RunError | OSError) else RunError(repr(error))
        handover.send(self._orders, pickle.dumps(answer))

    def _refuse(self, _words: list[str]) -> None:
        raise RunError("The keeper knows no such order.")

    def _check_way(self, how: str) -> None:
        if how not in handover.WAYS:
            self._refuse([how])

    def _check_configured(self, probe: str) -> None:
        if probe not in self._configured:
            raise RunError(f"The keeper loads and attaches no {probe!r}: it is not configured.")

    def _forget(self, words: list[str]) -> None:
        """PROBE's program loaded last will not be attached."""
        (probe,) = words
        self._check_configured(probe)
        if probe in self._loaded:
            self._loaded.pop(probe).close()

    def _ahead(self, _words: list[str]) -> list[str]:
        """Who has come ahead of ours."""
        ours = set().union(*(holder.programs for holder in self._holders.values()))
        found = (holder.ahead(ours) for holder in self._holders.values())
        return list(dict.fromkeys(sentence for each in found for sentence in each))

    def _settle(self, _words: list[str]) -> None:
        """What has been replaced is let go of everywhere."""
        for holder in self._holders.values():
            holder.settle()

    def _detach(self, names: list[str]) -> None:
        """From interfaces of these names; without any, all that is attached."""
        if names:
            for holder in self._holders.values():
                holder.let_go(names)
        else:
            self._let_go()

    def _hand_files(self) -> None:
        """The configured files of credentials, opened: no others, whatever the request says."""
        handover.request(self._files, _LONGEST_REQUEST)
        found = {}
        for path in self._credentials:
            with contextlib.suppress(OSError):
                found[path] = credentials.opened(path)
        try:
            handover.send(self._files, pickle.dumps([*found]), [*found.values()])
        finally:
            for descriptor in found.values():
                os.close(descriptor)

    def _attach(self, words: list[str]) -> dict[str, list[str]]:
        """What was loaded last for all of these probes, or for none; the notes, by probe.

        The first word names the probes; the others name interfaces that are there again.
        """
        names, *renewed = words
        probes = [*dict.fromkeys(names.split(","))]
        for probe in probes:
            self._check_configured(probe)
            if probe not in self._loaded:
                raise RunError("There is nothing to attach.")
        changes: dict[str, Change] = {}
        try:
            for probe in probes:
                new = self._loaded[probe]
                changes[probe] = self._holders[probe].begin(new.places, new.programs, renewed)
        except BaseException:
            for probe, change in changes.items():
                with contextlib.suppress(Exception):  # the others are to be undone all the same
                    self._holders[probe].undo(change)
            raise
        for probe, change in changes.items():
            self._holders[probe].finish(change)
            old = self._attached.get(probe)
            self._attached[probe] = new = self._loaded.pop(probe)
            change.notes += new.notes
            self._settings = new.settings
            if old:
                old.close()
        changes[probes[0]].notes += self._ahead([])
        return {probe: change.notes for probe, change in changes.items()}

    def _let_go(self) -> None:
        for holder in self._holders.values():
            holder.detach()

    def _load(self) -> None:
        """Start what loads: from the configuration read anew, or from what is loaded already."""
        request = handover.request(self._loads, _LONGEST_REQUEST)
        how, _, self._probe = request.decode(errors="surrogateescape").partition(" ")
        try:
            self._check_configured(self._probe)
            self._check_way(how)
        except RunError as error:
            handover.send(self._loads, pickle.dumps(error))
            return
        settings = self._latest if how == "same" else self._settings
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            # without the site module, which takes as long as much of the rest
            start = (sys.executable, "-S", "-P", "-c", _LOADER, ":".join(filter(None, sys.path)))
            command = [*start, str(theirs.fileno())]
            child = os.posix_spawn(
                sys.executable,
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
            )
        self._loader = child, ours
        with contextlib.suppress(OSError):  # it ended at once: the answer will say so
            handover.send(ours, pickle.dumps((how, self._again, settings, self._probe)))

    def _take_loaded(self, loader: socket.socket) -> None:
        """What the loader answers, and to the peer what it needs of it."""
        try:
            data, descriptors = handover.receive(loader)
            answer = pickle.loads(data)  # noqa: S301 - the loader is ours
        except (EOFError, OSError):
            answer, descriptors = RunError(""), []
        if isinstance(answer, Exception):
            status = self._reap()
            if not str(answer):
                answer = RunError(f"What compiles the program ended with exit code {status}.")
            handover.send(self._loads, pickle.dumps(answer))
            return
        if self._probe in self._loaded:
            self._loaded[self._probe].close()
        self._loaded[self._probe] = loaded = _Loaded(answer, descriptors)
        self._latest = loaded.settings
        reply = pickle.dumps((loaded.shared, loaded.maps, loaded.settings))
        shared = [loaded.programs[name] for name in loaded.shared]
        try:
            handover.send(self._loads, reply, [*shared, *loaded.others])
        finally:
            for descriptor in loaded.others:
                os.close(descriptor)
            self._reap()  # after that: the peer need not wait until it has ended

    def _reap(self) -> int:
        assert self._loader  # noqa: S101 - it is asked for only then
        (child, answers), self._loader = self._loader, None
        answers.close()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_ORDERS: dict[str, Callable[[Server, list[str]], object]] = {
    "attach": Server._attach,  # noqa: SLF001 - ours
    "ahead": Server._ahead,  # noqa: SLF001
    "forget": Server._forget,  # noqa: SLF001
    "settle": Server._settle,  # noqa: SLF001
    "detach": Server._detach,  # noqa: SLF001
}
"""All that it can be told; a word that is none of these is refused."""


def main() -> None:
    """With the three sockets' descriptors and the capabilities to keep as arguments."""
    orders, loads, files = (socket.socket(fileno=int(number)) for number in sys.argv[1:4])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody could wait for what compiles
    privileges.reduce([int(number) for number in sys.argv[4].split(",")])
    with orders, loads, files:
        Server(orders, loads, files).serve()
