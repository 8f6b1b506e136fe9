# SPDX-License-Identifier: Apache-2.0
"""Netfilter, in this network namespace (kernel 6.4 and newer).

See: include/uapi/linux/bpf.h, BPF_NETFILTER; net/netfilter/nf_bpf_link.c
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.beside import Beside
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from trapstream_vtap.bpf.attach.place import NetfilterPlace


class Netfilter(Beside):
    """Has a program see packets among the rules.

    Args:
        program: The descriptor.
        place: Where.

    Raises:
        RunError: The kernel refuses.
    """

    def __init__(self, program: int, place: NetfilterPlace) -> None:
        self._place = place
        self._later = 1
        try:
            super().__init__(program)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot attach {place.program} to netfilter: {why}.") from error

    def _opened(self, program: int) -> int:
        place, self._later = self._place, self._later ^ 1  # no two have the same priority
        return kernel.link_netfilter(
            program, place.family, place.hook, place.priority + self._later
        )
