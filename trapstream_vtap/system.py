# SPDX-License-Identifier: Apache-2.0
"""System calls for which the C library has no function, or one that does more.

See: syscall(2)
"""

from __future__ import annotations

import ctypes
import os

_NUMBERS = {  # x86-64; arm64
    "bpf": (321, 280),
    "membarrier": (324, 283),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
}


def call(name: str, *arguments: object) -> int:
    """What the kernel answers; it is this thread's call alone.

    Raises:
        OSError: It refuses.
    """
    number = _NUMBERS[name][os.uname().machine == "aarch64"]
    result: int = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
