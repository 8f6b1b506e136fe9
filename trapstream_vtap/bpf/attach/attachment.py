# SPDX-License-Identifier: Apache-2.0
"""A program at its place, of whichever kind that is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Attachment(ABC):
    """Holds a program at its place."""

    @abstractmethod
    def replace(self, program: int) -> None:
        """Put PROGRAM, a descriptor, there in one step, or else beside the other until `settle`.

        Raises:
            OSError: The kernel refuses.
        """

    def settle(self) -> None:  # noqa: B027 - most places replace in one step
        """See that nobody but the program of the last `replace` sees anything there any more.

        Where the kernel cannot replace one in one step, both see all until then, and it is for them
        to agree who measures what.
        """

    @abstractmethod
    def detach(self) -> None:
        """Detach whatever is there."""

    def is_first(self, programs: Collection[int]) -> bool:  # noqa: ARG002 - most places have one
        """Whether one of PROGRAMS sees packets ahead of all others at that place."""
        return True
