# SPDX-License-Identifier: Apache-2.0
"""Everything that the probes can measure: what the generated pages are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trapstream_vtap.clock import NS
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.probes.latency.records import everything as latency
from trapstream_vtap.probes.rtt.records import everything as rtt

if TYPE_CHECKING:
    from trapstream_vtap.account import Rows
    from trapstream_vtap.probes.interface import Probe
    from trapstream_vtap.schema import Schema

EVERYTHING = FlowSettings(
    sinks=(),
    interfaces=(),
    device=None,
    key=KEY_FIELDS,
    sequence=True,
    expected_gap=0,
    smoothed_jitter=True,
    jitter_interval=2 * NS,
    guest=next(guest for probe in REGISTRY if (guest := probe.guest(probe.settings()))),
)
"""Settings with which everything is measured that can be."""


def settings_of(probe: Probe) -> Any:
    """Settings with which PROBE measures everything that it can."""
    return EVERYTHING if probe.settings is FlowSettings else probe.settings()


def schemas() -> list[Schema]:
    """Every kind of record of the probes, once for each measurement."""
    found: dict[str, Schema] = {}
    for probe in REGISTRY:
        for schema in probe.schemas(settings_of(probe)):
            found.setdefault(schema.measurement, schema)
    found |= {schema.measurement: schema for schema in (latency(), rtt())}  # by whatever key
    return list(found.values())


def accounts() -> dict[Rows, None]:
    """The accounts of the probes."""
    return dict.fromkeys(probe.rows(settings_of(probe)) for probe in REGISTRY)
