# SPDX-License-Identifier: Apache-2.0
"""Types of the records, for Python programs that read the JSON: made from its JSON Schema."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from lab import jsonschema

HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""The records of `vtap-stream -f json` as types, for programs that read them.

Made by `make docs` from the declarations of the probes; do not edit.
"""

from typing import Literal, NotRequired, TypedDict
'''
_TYPES = {"string": "str", "integer": "int", "number": "float"}


def text() -> str:
    """The module."""
    kinds = json.loads(jsonschema.text())["oneOf"]
    classes: list[str] = []
    names = [_class(kind, _name(kind), classes) for kind in kinds]
    union = "Record = (\n    " + "\n    | ".join(names) + "\n)"
    return "\n\n".join((HEAD, *classes, f'{union}\n"""Any of them."""\n'))


def _name(kind: dict[str, Any]) -> str:
    """Of the class; rows of the account are told apart by their tag."""
    words = kind["title"].split("_")
    if kind["title"] == "vtap_agent":
        words.append([*kind["properties"]][2])
    return "".join(word[0].upper() + word[1:] for word in words)


def _class(kind: dict[str, Any], name: str, classes: list[str]) -> str:
    """The class NAME of an object, behind those of the objects within it; its name."""
    lines = []
    for key, each in kind["properties"].items():
        if "properties" in each:
            inside = "".join(part.capitalize() for part in key.split("_"))
            said = _class(each, f"{name}{inside}", classes)
        else:
            said = _type(each)
        always = key in kind.get("required", ())
        lines.append(f"    {key}: {said if always else f'NotRequired[{said}]'}")
    described = kind.get("description") or f"What `{name}` says."
    first = textwrap.shorten(described.split(". ")[0].rstrip("."), 80, placeholder=" …")
    lines.insert(0, f'    """{first}."""\n')
    classes.append(f"class {name}(TypedDict):\n" + "\n".join(lines) + "\n")
    return name


def _type(each: dict[str, Any]) -> str:
    if "const" in each:
        return f'Literal["{each["const"]}"]'
    if "type" in each:
        return _TYPES[each["type"]]
    return " | ".join(dict.fromkeys(_TYPES[one["type"]] for one in each["anyOf"]))
