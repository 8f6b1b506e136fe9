# SPDX-License-Identifier: Apache-2.0
"""Attach a program to XDP of an interface, by a link, which goes with the process."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Attachment
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from trapstream_vtap.interfaces import Interface

_TAKEN = (errno.EBUSY, errno.EEXIST)


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
        return _linked(native, interface, kernel.XDP_FLAGS_DRV_MODE), True
    except OSError as error:
        if error.errno not in _TAKEN:
            # the driver has no XDP, or not with this MTU, these offloads, these queues
            try:
                return _linked(generic, interface, kernel.XDP_FLAGS_SKB_MODE), False
            except OSError as refused:
                error = refused
        why = os.strerror(error.errno or 0)
        if error.errno in _TAKEN:
            why = "another XDP program is there; use --hook tc"
        raise RunError(f"Cannot attach to XDP of {interface.name}: {why}.") from error


def _linked(program: int, interface: Interface, mode: int) -> Attachment:
    link = kernel.link_xdp(program, interface.index, mode)
    return Attachment(lambda: os.close(link), lambda other: kernel.update_link(link, other))
