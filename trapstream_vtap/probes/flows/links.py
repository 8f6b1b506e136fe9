# SPDX-License-Identifier: Apache-2.0
"""Where the flow program counts what it sees of each interface, whatever the index is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.bpf.spread import spread
from trapstream_vtap.probes.flows.layouts import GAP_PROTOCOLS, LINK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.probes.flows.settings import FlowSettings

GAPS_EACH = len(Direction) * len(GAP_PROTOCOLS)
"""Histograms of an interface."""


def _indices(settings: FlowSettings) -> Sequence[int]:
    """Of the interfaces, each once."""
    return tuple(dict.fromkeys(interface.index for interface in settings.interfaces))


def name_links(links: int, settings: FlowSettings) -> dict[int, int]:
    """Tell the kernel program by its map which interfaces there are; their places by index."""
    _, found = spread(settings.interfaces)
    for number, index in enumerate(_indices(settings)):
        link = LINK.pack({"interface": index, "gaps": number * GAPS_EACH})
        kernel.write_element(links, found[index], link * kernel.possible_cpus())
    return found


def gap_numbers(settings: FlowSettings) -> dict[int, tuple[int, int, str]]:
    """The histogram's entries, as `bpf/flows/gaps.h` numbers them: interface, direction, protocol.

    The protocol is empty where flows are not told apart by it.
    """
    kinds = dict(enumerate(GAP_PROTOCOLS))
    if "protocol" not in settings.key:
        kinds = {len(kinds) - 1: ""}
    return {
        place * GAPS_EACH + direction * len(GAP_PROTOCOLS) + kind: (index, direction, protocol)
        for place, index in enumerate(_indices(settings))
        for direction in settings.directions
        for kind, protocol in kinds.items()
    }
