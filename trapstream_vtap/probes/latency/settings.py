# SPDX-License-Identifier: Apache-2.0
"""What the person may say of receive latency."""

from __future__ import annotations

from dataclasses import dataclass

from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.kinds import Choice, Names, Whole
from trapstream_vtap.settings.option import Reload, option

STAGES = ("stack", "ip", "rules", "local", "socket", "queued", "read")
"""Places of the receive path, in the order in which a packet comes by."""

DEFAULT_STAGES = ("stack", "queued", "read")
"""They cost least, switch nothing on, and tell the kernel's share from the reader's."""

BY = ("cgroup", "netns", "dst_port")
"""What else may tell records apart."""


@dataclass(frozen=True, kw_only=True)
class LatencySettings(Core):
    """Everything that measuring receive latency depends on."""

    latency_stages: tuple[str, ...] = option(
        "--latency-stages",
        kind=Names("STAGE,…", STAGES, "stage"),
        default=DEFAULT_STAGES,
        reload=Reload.TAKEN,
        help=f"Where latency is measured: {', '.join(STAGES)}. On most kernels ip, rules and local "
        "switch netfilter on, and socket control groups, for every packet.",
    )
    latency_by: str | None = option(
        "--latency-by",
        kind=Choice(list(BY)),
        reload=Reload.TAKEN,
        help="What else tells records apart.  [default: nothing]",
    )
    latency_table_size: int = option(
        "--latency-table-size",
        kind=Whole(1, 1024),
        metavar="N",
        default=64,
        reload=Reload.TAKEN,
        needs=("latency_by",),
        help="Most values of --latency-by that have records of their own; what has none is in "
        "those of the value other.",
    )
