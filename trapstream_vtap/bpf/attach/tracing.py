# SPDX-License-Identifier: Apache-2.0
"""What a program was loaded to trace: a tracepoint with types, or a function of the kernel.

See: bpf(2), BPF_RAW_TRACEPOINT_OPEN; include/uapi/linux/bpf.h, BPF_TRACE_RAW_TP, BPF_TRACE_FENTRY
"""

from __future__ import annotations

import os

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.errors import RunError


class Tracing(Attachment):
    """Has a program run whenever the kernel comes by.

    Args:
        program: The descriptor.
        name: Of the program, for messages.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, name: str) -> None:
        self._name = name
        try:
            self._held = self._opened(program)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot attach {self._name}: {why}.") from error

    def _opened(self, program: int) -> int:
        return kernel.attach_tracing(program)

    def replace(self, program: int) -> None:
        """Not in one step, which the kernel has not: for a moment both see what happens."""
        before, self._held = self._held, self._opened(program)
        os.close(before)

    def detach(self) -> None:
        """The kernel lets go when the descriptor is closed."""
        os.close(self._held)
