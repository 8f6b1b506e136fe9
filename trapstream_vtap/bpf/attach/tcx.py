# SPDX-License-Identifier: Apache-2.0
"""Traffic control by tcx links (kernel 6.6 and newer).

They go with the process, whatever ends it, and leave other programs alone.

See: include/uapi/linux/bpf.h, BPF_TCX_INGRESS; net/core/dev.c, sch_handle_ingress()
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.bpf.attach.clsact import Clsact
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Collection

    from trapstream_vtap.bpf.attach.place import Direction
    from trapstream_vtap.interfaces import Interface


class Tcx(Attachment):
    """A link, ahead of all other programs of that direction.

    Raises:
        OSError: The kernel refuses; EINVAL: it has no tcx.
    """

    def __init__(self, program: int, interface: Interface, direction: Direction) -> None:
        self._kind = (kernel.BPF_TCX_INGRESS, kernel.BPF_TCX_EGRESS)[direction]
        self._index = interface.index
        self._link = kernel.link_tcx(program, interface.index, self._kind)

    def replace(self, program: int) -> None:
        """By the link's update."""
        kernel.update_link(self._link, program)

    def detach(self) -> None:
        """The kernel takes the link's program away when the link is closed."""
        os.close(self._link)

    def is_first(self, programs: Collection[int]) -> bool:
        """By the kernel's own list."""
        return kernel.first_tcx(self._index, self._kind) in map(kernel.program_id, programs)


def attach(program: int, interface: Interface, direction: Direction) -> Attachment:
    """Attach PROGRAM ahead of all others, by tcx or, where the kernel has none, by clsact.

    Raises:
        RunError: The kernel refuses.
    """
    try:
        return Tcx(program, interface, direction)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return Clsact(program, interface, direction)
        why = os.strerror(error.errno or 0)
        if error.errno == errno.EMFILE:
            why += "; each place takes an open file: raise the limit (ulimit -n, LimitNOFILE=)"
        raise RunError(
            f"Cannot attach to {direction.name.lower()} of {interface.name}: {why}."
        ) from error
