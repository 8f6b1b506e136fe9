# SPDX-License-Identifier: Apache-2.0
"""Other programs, compiled and loaded in a thread of their own while the old ones measure."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError
from trapstream_vtap.settings.settings import fixed_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.keeper.client import Keeper
    from trapstream_vtap.probes.interface import Probe
    from trapstream_vtap.settings.settings import Settings

    Result = tuple[Settings, dict[str, Objects]]


def with_guests(objects: Mapping[str, Objects], settings: Settings) -> dict[str, Objects]:
    """What was loaded by probe, with what guests have of their host's; made from SETTINGS."""
    guest, host = settings.core.guest, settings.host
    if not guest or not host or host.name not in objects or guest.probe in objects:
        return dict(objects)
    return {**objects, guest.probe: objects[host.name].shared(guest.maps)}


class Loading:
    """One attempt at a time.

    Args:
        keeper: Has programs loaded.
        probes: Of the run.
        settings: Of the run; what they fix cannot be changed.
        wake: Called, in another thread, when an attempt is over.
    """

    def __init__(
        self,
        keeper: Keeper,
        probes: Iterable[Probe],
        settings: Settings,
        wake: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        guests = settings.core.guests
        self._names = [probe.name for probe in probes if probe.reloads and probe.name not in guests]
        self._settings = settings
        self._wake = wake
        self._attempt: Future[Result] | None = None
        self.was_read = False
        """Whether the configuration was read again for the latest attempt."""

    @property
    def busy(self) -> bool:
        """Whether an attempt has begun whose result nobody has taken."""
        return self._attempt is not None

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self._attempt is not None and self._attempt.done()

    def begin(self, *, read: bool) -> None:
        """Have all programs loaded anew, for the interfaces that are there now.

        Args:
            read: The configuration, first.
        """
        attempt: Future[Result] = Future()
        self._attempt, self.was_read = attempt, read

        def load() -> None:
            try:
                result = self._load(read=read)
            except Exception as error:  # noqa: BLE001 - whatever it is, the old programs go on
                attempt.set_exception(error)
            else:
                attempt.set_result(result)
            self._wake()

        threading.Thread(target=load, daemon=True).start()

    def _load(self, *, read: bool) -> Result:
        objects: dict[str, Objects] = {}
        settings, how = self._settings, "read" if read else "look"
        try:
            for name in self._names:
                objects[name], settings = self._keeper.load(name, how)
                how = "same"
        except BaseException:
            for each in objects.values():
                each.close()
            raise
        return settings, objects

    def result(self) -> Result:
        """Settings, and what was loaded by probe; the next attempt may begin.

        Raises:
            UsageError: The settings change what a running program cannot.
            Exception: Whatever went wrong.
        """
        assert self._attempt  # noqa: S101 - it is done
        attempt, self._attempt = self._attempt, None
        settings, objects = attempt.result()
        if changed := fixed_changes(self._settings, settings):
            for each in objects.values():
                each.close()
            words = ", ".join(changed)
            raise UsageError(f"a running program cannot change its {words}: start it again.")
        try:
            return settings, with_guests(objects, settings)
        except BaseException:
            for each in objects.values():
                each.close()
            raise

    def forget(self) -> None:
        """What was loaded last will not be attached."""
        for name in self._names:
            self._keeper.forget(name)
