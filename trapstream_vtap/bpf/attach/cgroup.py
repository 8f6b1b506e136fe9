# SPDX-License-Identifier: Apache-2.0
"""What comes in for the sockets of a control group.

See: include/uapi/linux/bpf.h, BPF_CGROUP_INET_INGRESS; net/core/filter.c, sk_filter_trim_cap()
"""

from __future__ import annotations

import os

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.errors import RunError


class Cgroup(Attachment):
    """Has a program see packets beside all other programs of the group.

    Args:
        program: The descriptor.
        path: Of the control group (version 2).

    Raises:
        RunError: The kernel refuses, or there is no such group.
    """

    def __init__(self, program: int, path: str) -> None:
        try:
            group = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._link = kernel.link_cgroup(program, group)
            finally:
                os.close(group)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RunError(f"Cannot attach to the control group {path}: {why}.") from error

    def replace(self, program: int) -> None:
        """By the link's update."""
        kernel.update_link(self._link, program)

    def detach(self) -> None:
        """The kernel takes the link's program away when the link is closed."""
        os.close(self._link)
