# SPDX-License-Identifier: Apache-2.0
"""Netfilter, in this network namespace (kernel 6.4 and newer).

See: include/uapi/linux/bpf.h, BPF_NETFILTER; net/netfilter/nf_bpf_link.c
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.beside import Beside

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
        super().__init__(program, f"{place.program} to netfilter")

    def _opened(self, program: int) -> int:
        place = self._place
        link = partial(kernel.link_netfilter, program, place.family, place.hook)
        try:
            return link(place.priority)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        return link(place.priority + 1)  # beside the one before: no two have the same priority
