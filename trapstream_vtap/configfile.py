# SPDX-License-Identifier: Apache-2.0
"""The configuration file: JSON with `//` comments, every key and value checked.

The capital keys are those of vtap-project's files, which keep working; every option of the command
line may stand in it too, under its long name with underscores.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trapstream_vtap import places
from trapstream_vtap.bpf.wanted import grouped
from trapstream_vtap.errors import UsageError
from trapstream_vtap.rules import Rule, parse_rules
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DISPLAY = ("Throughput", "Goodput", "Jitter", "SEQ_ERRORS")
NO_PATTERN = 0xFFFFFFFF
SEQUENCE_THRESHOLD = 100
_MOST_OFFSET = 5000
_MONITOR_PORT = 8080
_LONGEST = 1 << 20  # characters of a file
_MOST_DIGITS = 30
_MOST_RULES = 2048  # what a kernel program has room for, if each says little


@dataclass(frozen=True)
class ConfigFile:
    """What a file says.

    Args:
        rules: Which packets count; none: all.
        display: Members of `DISPLAY`, and whether each is on.
        pattern: 32 bits to look for in payloads, or None.
        offset: Of the sequence number, in bytes, or None.
        log_data: Whether records go to a file of this run, too.
        metrics: Where Prometheus finds metrics, or None.
        sequence_threshold: Distance up to which a sequence error is a small one.
        options: Options of the command line, by their long names with underscores.
    """

    rules: tuple[Rule, ...] = ()
    display: tuple[tuple[str, bool], ...] = ()
    pattern: int | None = None
    offset: int | None = None
    sequence_threshold: int = SEQUENCE_THRESHOLD
    log_data: bool = False
    metrics: tuple[str, int] | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def hidden(self) -> frozenset[str]:
        """What is switched off."""
        return frozenset(name for name, on in self.display if not on)

    @property
    def sequence(self) -> bool:
        """Whether sequence errors are asked for."""
        return ("SEQ_ERRORS", True) in self.display


def read(path: Path) -> ConfigFile:
    """The file at PATH; which options there are is not checked here.

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
        return parse(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def parse(text: str) -> ConfigFile:
    """The file with that TEXT; raises as `read`, without the file's name."""
    try:
        keys = json.loads(
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
    if not isinstance(keys, dict):
        raise UsageError(f"an object in {{}} belongs there, not {_shown(keys)}.")
    found: dict[str, Any] = {}
    options = []
    for key, value in keys.items():
        if key in _READERS:
            found[_READERS[key][0]] = _READERS[key][1](key, value)
        else:
            options.append((key, value))
    return ConfigFile(**found, options=tuple(options))


def without_comments(text: str) -> str:
    """TEXT with all from `//` to the line's end taken out, but not within strings."""
    # never goes back: a string that does not end is looked at once
    return re.sub(r'("(?:[^"\\\n]|\\.)*+"?)|//[^\n]*', lambda m: m[1] or "", text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UsageError(f"{key} is there twice, the second time with {_shown(value)}.")
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
            raise UsageError(
                f"{_shown(key)} has a character that no text may have: {_shown(text)}."
            )


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


def _shown(value: Any) -> str:
    """VALUE as it stands in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - for one sentence


def wrong(key: str, value: Any, wanted: str) -> UsageError:
    """The error that KEY cannot have VALUE."""
    return UsageError(f"{key} is {_shown(value)}: {wanted}.")


def switch(key: str, value: Any) -> bool:
    """A boolean, as such or in the words "True" and "False".

    Raises:
        UsageError: It is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("True", "False"):
        return value == "True"
    raise wrong(key, value, 'give true, false, "True" or "False"')


def _rules(key: str, value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, list) or not all(isinstance(rule, str) for rule in value):
        raise wrong(key, value, "give a list of rules, each a string of five words")
    if len(value) > _MOST_RULES:
        raise UsageError(f"{key} has {amount(len(value), 'rule')}; there may be {_MOST_RULES}.")
    try:
        rules = parse_rules(value)
    except UsageError as error:
        raise UsageError(f"{key}, {error}") from error
    try:
        grouped(rules)
    except UsageError as error:
        raise UsageError(f"{key}: {error}") from error
    return rules


def _display(key: str, value: Any) -> tuple[tuple[str, bool], ...]:
    if not isinstance(value, dict):
        raise wrong(key, value, f"give an object with any of {', '.join(DISPLAY)}")
    for name in value:
        if name not in DISPLAY:
            raise UsageError(f"{key}: there is no {name!r}; there are {', '.join(DISPLAY)}.")
    return tuple((name, switch(f"{key}.{name}", on)) for name, on in value.items())


def _number(lowest: int, highest: int) -> Callable[[str, Any], int]:
    def convert(key: str, value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise wrong(key, value, f"give a whole number from {lowest} to {highest}")
        return value

    return convert


def _offset(key: str, value: Any) -> int | None:
    offset = _number(-1, _MOST_OFFSET)(key, value)
    return None if offset < 0 else offset


def _monitor(key: str, value: Any) -> tuple[str, int] | None:
    """Where metrics are served: a port, or whether they are."""
    if type(value) is not int:
        value = _MONITOR_PORT if switch(key, value) else None
    elif not 0 < value < 1 << 16:
        raise wrong(key, value, "give a port from 1 to 65535, or a boolean")
    return value and ("0.0.0.0", value)  # noqa: S104 - as the original does


def _pattern(key: str, value: Any) -> int | None:
    """32 bits, in hexadecimal digits."""
    if not isinstance(value, str) or not re.fullmatch("0[xX][0-9a-fA-F]{1,8}", value):
        raise wrong(key, value, 'give 32 bits as "0x" and up to 8 hexadecimal digits')
    pattern = int(value, 16)
    return None if pattern == NO_PATTERN else pattern


_READERS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "RULES": ("rules", _rules),
    "DISPLAY": ("display", _display),
    "PATTERN": ("pattern", _pattern),
    "OFFSET": ("offset", _offset),
    "SEQUENCE_THRESHOLD": ("sequence_threshold", _number(1, (1 << 32) - 1)),
    "LOG_DATA": ("log_data", switch),
    "MONITOR_SERVER": ("metrics", _monitor),
}
KEYS = tuple(_READERS)
