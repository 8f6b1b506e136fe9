# SPDX-License-Identifier: Apache-2.0
"""The configuration file: JSON with `//` comments, every key and value checked.

The capital keys are those of vtap-project's files, which keep working; every option of the command
line may stand in it too, under its long name with underscores.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trapstream_vtap import places
from trapstream_vtap.errors import UsageError
from trapstream_vtap.settings.kinds import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trapstream_vtap.settings.option import Key

SCHEMA_KEY = "$schema"
_LONGEST = 1 << 20  # characters of a file
_MOST_DIGITS = 30


@dataclass(frozen=True)
class ConfigFile:
    """What a file says.

    Args:
        fields: What capital keys say of fields of the settings.
        options: Options of the command line, by their long names with underscores.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[tuple[str, Any], ...] = ()


def read(path: Path, keys: Mapping[str, Key]) -> ConfigFile:
    """The file at PATH; which options there are is not checked here.

    Args:
        path: Where it is.
        keys: The capital keys that there are, by name.

    Raises:
        UsageError: It cannot be read, or says something that cannot be; the sentence names the
            file, the line or the key, and the value.
    """
    try:
        # with or without a byte order mark, lines ended in any way
        with os.fdopen(places.open_file(path, os.O_RDONLY), encoding="utf-8-sig") as file:
            text = file.read(_LONGEST + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # a zero in the path
        if not isinstance(error, UnicodeDecodeError):
            raise UsageError(f"{path}: is no path.") from error
        raise UsageError(f"{path}: is not UTF-8 at byte {error.start}.") from error
    if len(text) > _LONGEST:
        raise UsageError(f"{path}: is longer than {_LONGEST} characters.")
    try:
        return parse(text, keys)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parse(text: str, keys: Mapping[str, Key]) -> ConfigFile:
    """The file with that TEXT; raises as `read`, without the file's name."""
    try:
        said = json.loads(
            without_comments(text),
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_int=_whole,
            parse_float=_fraction,
        )
    except json.JSONDecodeError as error:
        lines = text.splitlines() or [""]
        line = lines[min(error.lineno, len(lines)) - 1].strip()
        raise UsageError(f"line {error.lineno}: {error.msg}, at {line!r}.") from error
    except RecursionError as error:
        raise UsageError("the values are nested too deeply.") from error
    if not isinstance(said, dict):
        raise UsageError(f"an object in {{}} belongs there, not {shown(said)}.")
    found: dict[str, Any] = {}
    options = []
    for key, value in said.items():
        if key == SCHEMA_KEY:  # which is for editors
            continue
        if key in keys:
            found |= keys[key].read(key, value)
        else:
            options.append((key, value))
    return ConfigFile(found, tuple(options))


def without_comments(text: str) -> str:
    """TEXT with all from `//` to the line's end taken out, but not within strings."""
    # never goes back: a string that does not end is looked at once
    return re.sub(r'("(?:[^"\\\n]|\\.)*+"?)|//[^\n]*', lambda m: m[1] or "", text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"{key} is there twice, the second time with {shown(value)}.")
        _check_text(key, key)
        _check_text(key, value)
        found[key] = value
    return found


def _check_text(key: str, value: Any) -> None:
    """See that what is text is text: no half of a character (a lone surrogate), no zero.

    Raises:
        UsageError: It is not.
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and re.search("[\0\ud800-\udfff]", text):
            raise UsageError(f"{shown(key)} has a character that no text may have: {shown(text)}.")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise UsageError(f"{digits[:_MOST_DIGITS]}... is a number with too many digits.")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > _MOST_DIGITS:
        raise UsageError(f"{digits[:_MOST_DIGITS]}... is a number with too many digits.")
    return float(digits)


def _constant(name: str) -> None:
    raise UsageError(f"{name} is no value.")
