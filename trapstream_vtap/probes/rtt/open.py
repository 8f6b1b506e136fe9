# SPDX-License-Identifier: Apache-2.0
"""How many probes wait for their answer, by what is in the tables."""

from __future__ import annotations

from array import array
from collections import defaultdict

from trapstream_vtap.bpf import kernel
from trapstream_vtap.probes.rtt.layouts import ASK_KEY, PAIR, PAIR_KEY, STREAM, STREAMS

_MOST = 1024  # elements in one system call
_WIDE, _NARROW = 8, 4
_ASKED_AGAIN = 1  # bpf/rtt/pairs.h


def open_probes(pairs: int, asks: int) -> dict[int, tuple[int, int]]:
    """By the number of their kind: those that wait, and those whose answers go another way.

    Args:
        pairs: The table of connections.
        asks: The table of questions.
    """
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for keys, values in kernel.read_elements(pairs, PAIR_KEY.size, PAIR.size, _MOST):
        kinds = _column(keys, PAIR_KEY.offsets["kind"], PAIR_KEY.size, _NARROW)
        highest, probes = (
            [
                _column(values, STREAM.size * stream + STREAM.offsets[name], PAIR.size, _WIDE)
                for stream in range(STREAMS)
            ]
            for name in ("highest", "probe")
        )
        for stream in range(STREAMS):
            other = stream ^ 2  # the other way; and the same one as seen at the other side
            opposite = zip(highest[other], highest[other ^ 1], strict=True)
            for kind, probe, seen in zip(kinds, probes[stream], opposite, strict=True):
                if probe:
                    found[kind][not any(seen)] += 1
    for keys, values in kernel.read_elements(asks, ASK_KEY.size, _WIDE, _MOST):
        kinds = _column(keys, ASK_KEY.offsets["kind"], ASK_KEY.size, _NARROW)
        for kind, moment in zip(kinds, _column(values, 0, _WIDE, _WIDE), strict=True):
            if moment and not moment & _ASKED_AGAIN:
                found[kind][0] += 1
    return {kind: (waiting, one_way) for kind, (waiting, one_way) in found.items()}


def _column(data: bytes | bytearray, offset: int, size: int, width: int) -> array[int]:
    """A member at OFFSET, WIDTH bytes wide, of all structures of that SIZE in DATA."""
    words = array("Q" if width == _WIDE else "I", bytes(data))
    return words[offset // width :: size // width]
