# SPDX-License-Identifier: Apache-2.0
"""A raw tracepoint of the kernel.

See: bpf(2), BPF_RAW_TRACEPOINT_OPEN
"""

from __future__ import annotations

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.beside import Beside


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
        super().__init__(program, f"to the tracepoint {name}")

    def _opened(self, program: int) -> int:
        return kernel.attach_raw_tracepoint(program, self._name)
