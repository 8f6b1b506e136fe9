# SPDX-License-Identifier: Apache-2.0
"""Where a kernel program finds what it has of an interface, whatever the interface's index is.

An array, since a lookup in a hash table of the kernel's own takes 30 ns more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trapstream_vtap.interfaces import Interface

_FEWEST = 64
TRIES = 4
_FIBONACCI = 2654435769  # 2^32 / golden ratio, as in spread_place() of bpf/lib/spread.h


def spread(interfaces: Sequence[Interface]) -> tuple[int, dict[int, int]]:
    """Where the kernel program finds what it counts at INTERFACES, whatever their indices are.

    Returns:
        How many places there are, a power of two that is mostly the same for other interfaces, and
        the place of each by index.
    """
    bits = _FEWEST.bit_length() - 1
    while (1 << bits) < 4 * len(interfaces):
        bits += 1
    while (places := _spread(interfaces, bits)) is None:
        bits += 1
    return 1 << bits, places


def _spread(interfaces: Sequence[Interface], bits: int) -> dict[int, int] | None:
    """By index, among so many places, or None if one would not be found in a few tries."""
    places: dict[int, int] = {}
    taken: set[int] = set()
    for index in {interface.index for interface in interfaces}:
        first = index * _FIBONACCI % (1 << 32) >> 32 - bits
        tries = ((first + i) % (1 << bits) for i in range(TRIES))
        place = next((place for place in tries if place not in taken), None)
        if place is None:
            return None
        places[index] = place
        taken.add(place)
    return places


def constants(interfaces: Sequence[Interface]) -> dict[str, int]:
    """What bpf/lib/spread.h needs, for these INTERFACES."""
    count, _ = spread(interfaces)
    return {"SPREAD": count, "SPREAD_SHIFT": 33 - count.bit_length(), "SPREAD_TRIES": TRIES}
