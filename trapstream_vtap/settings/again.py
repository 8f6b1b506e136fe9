# SPDX-License-Identifier: Apache-2.0
"""How the configuration file is read again: by the same words, from the same place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.settings.settings import Settings


@dataclass(frozen=True)
class Again:
    """The command line that names the file.

    Args:
        arguments: Without the command's name.
        directory: What a path in them is relative to, wherever the process is later.
    """

    arguments: tuple[str, ...]
    directory: str

    @classmethod
    def from_here(cls, arguments: Sequence[str]) -> Self:
        """ARGUMENTS, as they are meant in the working directory of this moment."""
        try:
            directory = str(Path.cwd())
        except FileNotFoundError:  # it has been removed
            directory = "."
        return cls(tuple(arguments), directory)

    def settings(self, known: Sequence[str]) -> Settings:
        """What they ask for now; this process is in that directory from then on.

        Args:
            known: Names of interfaces that are measured, and need not be up.

        Raises:
            UsageError: They cannot be.
        """
        from trapstream_vtap.settings.command import load_settings  # noqa: PLC0415 - large

        try:
            os.chdir(self.directory)
        except OSError as error:
            raise UsageError(f"{self.directory}: cannot be entered ({error.strerror}).") from error
        return load_settings(self.arguments, known)
