# SPDX-License-Identifier: Apache-2.0
"""Files of credentials: read at the start as root, and again later, when root has been given up.

What `--user` may not read then, the keeper opens: exactly the files that are configured.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap import places
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trapstream_vtap.settings.core import Core

_MOST_BYTES = 1 << 20


def paths(settings: Core) -> tuple[str, ...]:
    """Of all files of credentials that SETTINGS name."""
    kafka = settings.kafka_config
    named = (
        settings.token_file,
        *(settings.tls_ca, settings.tls_cert, settings.tls_key),
        *(kafka, _key_in(kafka) if kafka else None),
    )
    return tuple(dict.fromkeys(filter(None, named)))


def _key_in(path: str) -> str | None:
    """The file of the private key that the properties of Kafka at PATH name, if any."""
    found = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return None  # a pipe has it once, and not for us
        for line in read_file(path).decode().splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "ssl.key.location":
                found = value.strip()
    return found


def opened(path: str) -> int:
    """A descriptor of the file at PATH, for reading.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    descriptor = places.open_file(Path(path), os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a plain file", path)
    return descriptor


class Reader:
    """Reads files of credentials; in any thread."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._ask: Callable[[], dict[str, int]] | None = None

    def through(self, ask: Callable[[], dict[str, int]]) -> None:
        """From now on ASK for descriptors of what we may not open, by path."""
        self._ask = ask

    def read(self, path: str) -> bytes:
        """What the file at PATH holds; a pipe has it once.

        Raises:
            OSError: It cannot be read, or is larger than any such file.
        """
        first = path not in self._known
        try:
            descriptor = places.open_file(Path(path), os.O_RDONLY) if first else opened(path)
        except PermissionError:
            if not self._ask:
                raise
            try:
                descriptors = self._ask()
            except RunError as error:
                raise OSError(0, str(error), path) from error
            mine = descriptors.pop(path, None)
            for other in descriptors.values():
                os.close(other)
            if mine is None:
                raise
            descriptor = mine
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        self._known.add(path)
        if len(data) > _MOST_BYTES:
            raise OSError(0, "larger than a file of credentials", path)
        return data


def read_file(path: str) -> bytes:
    """As `Reader.read`, without anybody to ask."""
    return Reader().read(path)
