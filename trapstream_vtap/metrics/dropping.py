# SPDX-License-Identifier: Apache-2.0
"""Dropped and trapped packets by cause and interface, added up from what the kernel hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trapstream_vtap.formats.dropped import cause_of, port_of
from trapstream_vtap.formats.plan import safe_text
from trapstream_vtap.layouts import DROP_EVENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 1000  # series; interfaces of containers come and go
_OTHER = "other"
_CAUSE = ("trap", "group", "type", "reason")


class DropCounts:
    """Packets and bytes of each probe, interface and cause.

    Args:
        reasons: Names of the running kernel's drop reasons, by number.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self._reasons = reasons
        self._labels: dict[tuple[object, ...], dict[str, str]] = {}
        self._counts: dict[tuple[object, ...], list[int]] = {}

    def add(self, probe: str, batch: bytearray) -> None:
        """Records that PROBE has handed over, of one packet or several."""
        for event in DROP_EVENT.unpack(batch):
            cause: tuple[Any, ...] = tuple(event[name] for name in _CAUSE)
            port: object = event["name"], event["interface"]
            if (probe, *cause, port) not in self._counts and len(self._counts) >= _MOST:
                port = _OTHER
            series = (probe, *cause, port)
            if series not in self._counts:
                words = cause_of(self._reasons, *cause)
                name = _OTHER if port is _OTHER else port_of(event)
                self._labels[series] = {
                    "probe": probe,
                    "interface": safe_text(name),
                    "reason": safe_text(words.name),
                    "type": words.type,
                    "severity": words.severity,
                }
                self._counts[series] = [0, 0]
            counts = self._counts[series]
            counts[0] += event["packets"]
            counts[1] += event["bytes"]

    def samples(self) -> Iterator[tuple[dict[str, str], tuple[int, int]]]:
        """Labels, packets and bytes of each series."""
        found: dict[tuple[tuple[str, str], ...], tuple[int, int]] = {}
        for series, (packets, octets) in self._counts.items():
            labels = tuple(self._labels[series].items())  # two indices may have one name
            before = found.get(labels, (0, 0))
            found[labels] = before[0] + packets, before[1] + octets
        for labels, counts in found.items():
            yield dict(labels), counts
