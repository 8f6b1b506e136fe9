# SPDX-License-Identifier: Apache-2.0
"""What the person may say of drops and traps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.probes.drops.records import TRAP_TAGS
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.kinds import Choice, Seconds, Whole, Words
from trapstream_vtap.settings.option import option

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL = "all"
"""Every drop reason, in `--drop-reasons`."""


def _reasons(words: Sequence[str]) -> tuple[str, ...]:
    """WORDS as the kernel says them; which there are, the kernel says."""
    plain = [word if word == ALL else word.upper() for word in words]
    return tuple(dict.fromkeys(word.removeprefix("SKB_DROP_REASON_") for word in plain))


@dataclass(frozen=True, kw_only=True)
class DropSettings(Core):
    """Everything that counting drops and traps depends on; times in ns."""

    unique: int | None = option(
        "-u",
        "--unique",
        kind=Seconds(0.1, 3600),
        metavar="SECONDS",
        help="Count equal drops and traps of a flow together for so long, and send one record with "
        "their count.  [default: one by one, and beyond --max-events by --interval]",
    )
    drop_table_size: int = option(
        "--drop-table-size",
        kind=Whole(16, 1 << 20),
        metavar="N",
        default=1024,
        help="Most different drops, or traps, that are counted together at a time; when they are "
        "more, the table is emptied early, at most once a second.",
    )
    drop_reasons: tuple[str, ...] = option(
        "--drop-reasons",
        kind=Words(_reasons),
        metavar="NAME,…",
        multiple=True,
        default=(),
        help="Only drops for these reasons of the kernel, repeatable; or all.  [default: all but "
        "those of ordinary life]",
    )
    trap_tags: str = option(
        "--trap-tags",
        kind=Choice(list(TRAP_TAGS)),
        default="default",
        help="Tags of DroppedPackets in line protocol: few, or trapstream's, with addresses.",
    )
