# SPDX-License-Identifier: Apache-2.0
"""Where the flow program counts what it sees of each interface, whatever the index is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.probes.flows.layouts import GAP_PROTOCOLS, LINK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.probes.flows.settings import FlowSettings

_FEWEST_LINKS = 64
LINK_TRIES = 4
_FIBONACCI = 2654435769  # 2^32 / golden ratio, as in link_of() of bpf/flows/flow.c
GAPS_EACH = len(Direction) * len(GAP_PROTOCOLS)
"""Histograms of an interface."""


def link_places(interfaces: Sequence[Interface]) -> tuple[int, dict[int, int]]:
    """Where the kernel program finds what it counts at INTERFACES, whatever their indices are.

    Returns:
        How many places there are, a power of two that is mostly the same for other interfaces, and
        the place of each by index.
    """
    bits = _FEWEST_LINKS.bit_length() - 1
    while (1 << bits) < 4 * len(interfaces):
        bits += 1
    while (places := _link_places(interfaces, bits)) is None:
        bits += 1
    return 1 << bits, places


def _link_places(interfaces: Sequence[Interface], bits: int) -> dict[int, int] | None:
    """By index, among so many places, or None if one would not be found in a few tries."""
    places: dict[int, int] = {}
    taken: set[int] = set()
    for index in {interface.index for interface in interfaces}:
        first = index * _FIBONACCI % (1 << 32) >> 32 - bits
        tries = ((first + i) % (1 << bits) for i in range(LINK_TRIES))
        place = next((place for place in tries if place not in taken), None)
        if place is None:
            return None
        places[index] = place
        taken.add(place)
    return places


def _indices(settings: FlowSettings) -> Sequence[int]:
    """Of the interfaces, each once."""
    return tuple(dict.fromkeys(interface.index for interface in settings.interfaces))


def name_links(links: int, settings: FlowSettings) -> dict[int, int]:
    """Tell the kernel program by its map which interfaces there are; their places by index."""
    _, found = link_places(settings.interfaces)
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
