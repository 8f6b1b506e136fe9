# SPDX-License-Identifier: Apache-2.0
"""A raw tracepoint of the kernel.

See: bpf(2), BPF_RAW_TRACEPOINT_OPEN
"""

from __future__ import annotations

import os

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.beside import Beside
from trapstream_vtap.errors import RunError


class RawTracepoint(Beside):
    """Has a program run whenever the kernel comes by.

    Args:
        program: The descriptor.
        name: The tracepoint's.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, name: str) -> None:
        self._name = name
        try:
            super().__init__(program)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot attach to the tracepoint {self._name}: {why}.") from error

    def _opened(self, program: int) -> int:
        return kernel.attach_raw_tracepoint(program, self._name)
