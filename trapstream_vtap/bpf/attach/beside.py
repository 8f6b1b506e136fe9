# SPDX-License-Identifier: Apache-2.0
"""Places where the kernel puts no program into another one's place: both are there for a while."""

from __future__ import annotations

import os
from abc import abstractmethod

from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.errors import RunError


class Beside(Attachment):
    """A place whose programs are held by a descriptor each.

    Args:
        program: The descriptor of the first.
        where: The place, as a message has it.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, where: str) -> None:
        try:
            self._held = program, self._opened(program)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot attach {where}: {why}.") from error
        self._before: tuple[int, int] | None = None

    @abstractmethod
    def _opened(self, program: int) -> int:
        """The descriptor that holds PROGRAM there."""

    def replace(self, program: int) -> None:
        """Have it beside the one that is there; or that alone, if it was there before."""
        if self._before and self._before[0] == program:
            (_, last), self._held, self._before = self._held, self._before, None
            os.close(last)
            return
        self.settle()
        self._held, self._before = (program, self._opened(program)), self._held

    def settle(self) -> None:
        """The one before lets go."""
        before, self._before = self._before, None
        if before:
            os.close(before[1])

    def detach(self) -> None:
        """The kernel lets go when the descriptor is closed."""
        self.settle()
        os.close(self._held[1])
