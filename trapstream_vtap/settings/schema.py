# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the configuration file, so that editors complete and check it.

See: https://json-schema.org/draft/2020-12/json-schema-core
"""

from __future__ import annotations

import json
from typing import Any

from trapstream_vtap.settings.command import NO_KEYS, OptionOfRoom, parameters
from trapstream_vtap.settings.file import SCHEMA_KEY
from trapstream_vtap.settings.kinds import STRINGS, Names
from trapstream_vtap.settings.option import key_of
from trapstream_vtap.settings.settings import keys


def text() -> str:
    """The schema, as a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False, default=dict) + "\n"


def schema() -> dict[str, Any]:
    """What may stand in the file: vtap-project's keys, and every option under its long name."""
    properties = {
        name: {"description": key.doc, **key.schema} for name, key in sorted(keys().items())
    }
    properties[SCHEMA_KEY] = {"type": "string", "description": "Where this schema is, for editors."}
    for option in parameters():
        if isinstance(option, OptionOfRoom) and option.name not in NO_KEYS:
            properties[key_of(option.opts)] = _property(option)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made by `make docs` from the declarations of the options; do not edit.",
        "title": "The configuration file of vtap-stream",
        "description": "JSON, in which // begins a comment.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _property(option: OptionOfRoom) -> dict[str, Any]:
    described = (option.help or "").replace("  [default: ", " [default: ")
    found: dict[str, Any] = {"description": described}
    if not option.multiple and option.default is not None and not callable(option.default):
        found["default"] = option.default
    plain = option.multiple and not isinstance(option.kind, Names)
    return {**found, **(STRINGS if plain else option.kind.schema)}
