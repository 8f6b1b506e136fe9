# SPDX-License-Identifier: Apache-2.0
"""What a program was loaded to trace: a tracepoint with types, or a function of the kernel.

See: bpf(2), BPF_RAW_TRACEPOINT_OPEN; include/uapi/linux/bpf.h, BPF_TRACE_RAW_TP, BPF_TRACE_FENTRY
"""

from __future__ import annotations

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.beside import Beside


class Tracing(Beside):
    """Has a program run whenever the kernel comes by.

    Args:
        program: The descriptor.
        name: Of the program, for messages.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, name: str) -> None:
        super().__init__(program, name)

    def _opened(self, program: int) -> int:
        return kernel.attach_raw_tracepoint(program, None)
