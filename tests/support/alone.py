# SPDX-License-Identifier: Apache-2.0
"""The settings of a run of one probe."""

from __future__ import annotations

from dataclasses import fields

from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.settings import Settings, classes


def alone(own: Core) -> Settings:
    """A run of one probe, with OWN settings, and those of all others as they are by default."""
    name = next(probe.name for probe in REGISTRY if probe.settings is type(own))
    of_core = {each.name: getattr(own, each.name) for each in fields(Core)}
    of_core["probes"] = own.probes or (name,)
    kinds = classes()
    return Settings(tuple(own if kind is type(own) else kind(**of_core) for kind in kinds))
