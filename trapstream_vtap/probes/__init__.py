# SPDX-License-Identifier: Apache-2.0
"""Probes: what can be measured. Each is a folder with one interface, and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapstream_vtap.probes.drops import DROPS, TRAPS
from trapstream_vtap.probes.flows import FLOWS
from trapstream_vtap.probes.latency import LATENCY
from trapstream_vtap.probes.rtt import RTT

if TYPE_CHECKING:
    from trapstream_vtap.probes.interface import Probe

REGISTRY: tuple[Probe, ...] = (
    FLOWS,
    DROPS,
    TRAPS,
    LATENCY,
    RTT,
)
"""In the order in which they are listed, loaded, and read."""


def named(name: str) -> Probe:
    """The probe of that NAME."""
    return next(probe for probe in REGISTRY if probe.name == name)


def chosen(names: tuple[str, ...]) -> tuple[Probe, ...]:
    """The probes of these NAMES."""
    return tuple(probe for probe in REGISTRY if probe.name in names)
