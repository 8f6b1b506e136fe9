# SPDX-License-Identifier: Apache-2.0
"""XDP of an interface, by a link, which goes with the process.

See: include/uapi/linux/if_link.h, XDP_FLAGS_DRV_MODE
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from trapstream_vtap.interfaces import Interface

_TAKEN = (errno.EBUSY, errno.EEXIST)


class Xdp(Attachment):
    """A link, in one MODE: in the driver, or behind it.

    Raises:
        OSError: Not in that mode, or another program is there.
    """

    def __init__(self, program: int, interface: Interface, mode: int) -> None:
        self._link = kernel.link_xdp(program, interface.index, mode)

    def replace(self, program: int) -> None:
        """By the link's update."""
        kernel.update_link(self._link, program)

    def detach(self) -> None:
        """The kernel takes the link's program away when the link is closed."""
        os.close(self._link)


def attach(native: int, generic: int, interface: Interface) -> tuple[Attachment, bool]:
    """Attach a program in the driver (native) or, where that cannot do it, behind it (generic).

    Args:
        native: Takes packets of several buffers.
        generic: Takes none. Else the kernel (6.9 and newer) copies packets for it and forgets the
            length of their Ethernet header, without which traffic control then sees them.
        interface: Which one.

    Returns:
        What replaces it, or detaches it again, and whether it is native.

    Raises:
        RunError: The kernel refuses both.
    """
    try:
        return Xdp(native, interface, kernel.XDP_FLAGS_DRV_MODE), True
    except OSError as error:
        if error.errno not in _TAKEN:
            # the driver has no XDP, or not with this MTU, these offloads, these queues
            try:
                return Xdp(generic, interface, kernel.XDP_FLAGS_SKB_MODE), False
            except OSError as refused:
                error = refused
        why = os.strerror(error.errno or 0)
        if error.errno in _TAKEN:
            why = "another XDP program is there; use --hook tc"
        raise RunError(f"Cannot attach to XDP of {interface.name}: {why}.") from error
