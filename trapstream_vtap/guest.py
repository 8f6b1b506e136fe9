# SPDX-License-Identifier: Apache-2.0
"""What one probe has another one's program measure, so that it stands in that one's records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap.schema import Column, Field, Layout


@dataclass(frozen=True)
class Guest:
    """A probe without a program of its own.

    Args:
        probe: Its name.
        header: Its C, below `bpf/`; it stands in the place of the host's own header for guests.
        layouts: The structures that it needs.
        constants: Likewise, by name.
        maps: Those that the process that measures gets, by name.
        memory: What they take of the kernel's memory, about; bytes.
        slot: What it gathers in an interval, in the host's structure.
        gathered: The member of that which says that there is something.
        record: What the host hands over of it.
        fields: What is exported of that.
        remark: What there is to say of them, for the reference page.
    """

    probe: str
    header: str
    layouts: tuple[Layout, ...]
    constants: Mapping[str, int]
    maps: tuple[str, ...]
    memory: int
    slot: tuple[Column, ...]
    gathered: str
    record: tuple[Column, ...]
    fields: tuple[Field, ...]
    remark: str
