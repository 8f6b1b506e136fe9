# SPDX-License-Identifier: Apache-2.0
"""A virtual tap that measures every flow in the kernel and streams what it measured.

What stands in `__all__` may be used by other programs; docs/api.md says how.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trapstream_vtap.version import __version__

if TYPE_CHECKING:
    from trapstream_vtap.engine.engine import Engine
    from trapstream_vtap.engine.snapshot import Snapshot
    from trapstream_vtap.errors import RunError, UsageError
    from trapstream_vtap.schema import Batch, Field, Layout, Schema
    from trapstream_vtap.settings.command import load_settings
    from trapstream_vtap.settings.settings import Settings

_PLACES = {
    "Batch": "schema",
    "Engine": "engine.engine",
    "Field": "schema",
    "Layout": "schema",
    "RunError": "errors",
    "Schema": "schema",
    "Settings": "settings.settings",
    "Snapshot": "engine.snapshot",
    "UsageError": "errors",
    "load_settings": "settings.command",
}

__all__ = [
    "Batch",
    "Engine",
    "Field",
    "Layout",
    "RunError",
    "Schema",
    "Settings",
    "Snapshot",
    "UsageError",
    "__version__",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for: the keeper's processes import this package, and want little of it.

    See: PEP 562
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
