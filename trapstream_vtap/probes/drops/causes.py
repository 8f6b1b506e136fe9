# SPDX-License-Identifier: Apache-2.0
"""Why packets are trapped or dropped: the kernel's names in words for people.

The words stand in `data/traps.toml` and `data/drop_reasons.toml`, read at the first question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

SEVERITIES = ("Error", "Warning", "Notice")
TYPES = ("drop", "exception", "control")
"""What a trap can be, in the order of the kernel's numbers."""

_PREFIX = re.compile(r"\ASKB_(?:DROP_REASON_|(?=(?:CONSUMED|NOT_DROPPED_YET)\Z))")
_UNKNOWN = "Not known to this version: look for the name in the documentation of {}."


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a packet was trapped or dropped.

    Args:
        name: The kernel's.
        group: Of traps the kernel's group; of drop reasons one of ours.
        type: One of `TYPES`.
        reason: What happened, in a few words.
        advice: What a person should do about it.
        severity: One of `SEVERITIES`.
        ordinary: No loss that a person would call one.
    """

    name: str
    group: str
    type: str
    reason: str
    advice: str
    severity: str
    ordinary: bool = False


def trap(name: str) -> Cause:
    """The devlink trap NAME; one that is not known has its name as reason."""
    return traps().get(name) or Cause(
        name, "unknown", "drop", name, _UNKNOWN.format("the device's driver"), "Warning"
    )


def drop_reason(name: str) -> Cause:
    """The drop reason NAME, with or without the kernel's prefix; unknown ones as for `trap`."""
    name = _PREFIX.sub("", name, count=1)
    return drop_reasons().get(name) or Cause(
        name, "unknown", "drop", name, _UNKNOWN.format("the kernel"), "Warning"
    )


@cache
def traps() -> dict[str, Cause]:
    """All traps known here, by name."""
    return _read("traps.toml")


@cache
def drop_reasons() -> dict[str, Cause]:
    """All drop reasons known here, by name."""
    return _read("drop_reasons.toml")


def _read(file: str) -> dict[str, Cause]:
    import tomllib  # noqa: PLC0415 - who tells of no drops starts without
    from importlib import resources  # noqa: PLC0415 - likewise

    text = resources.files(__package__).joinpath("data", file).read_text(encoding="utf-8")
    return {
        name: Cause(name=name, **({"type": "drop"} | values))
        for name, values in tomllib.loads(text).items()
    }
