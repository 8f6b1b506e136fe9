# SPDX-License-Identifier: Apache-2.0
"""What an option may be: how it is read from a word, what JSON it is in a file, what it becomes."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from trapstream_vtap.clock import NS
from trapstream_vtap.errors import UsageError
from trapstream_vtap.interfaces import interfaces
from trapstream_vtap.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _ParamType = click.ParamType[Any]
    _Choice = click.Choice[str]
else:
    _ParamType, _Choice = click.ParamType, click.Choice  # generic since click 8.4 and 8.2

_UNITS = {"SECONDS": ", in seconds", "MIB": ", in MiB", "MS": ", in ms", "BYTES": ", in bytes"}
_IN_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_MOST_PORT = (1 << 16) - 1
STRINGS: Mapping[str, Any] = MappingProxyType(
    {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
)
"""In a JSON Schema: some words, comma-separated or as a list."""


BOOLEAN: Mapping[str, Any] = MappingProxyType({"enum": [True, False, "True", "False"]})
"""In a JSON Schema: on or off."""


def shown(value: Any) -> str:
    """VALUE as it stands in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - for one sentence


def wrong(key: str, value: Any, wanted: str) -> UsageError:
    """The error that KEY cannot have VALUE."""
    return UsageError(f"{key} is {shown(value)}: {wanted}.")


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


def split(text: str) -> Sequence[str]:
    """The words of a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def some(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Those of KNOWN that TEXT names, in their order; WHAT one of them is called in messages.

    Raises:
        UsageError: It names something else.
    """
    names = split(text)
    for name in names:
        if name not in known:
            raise UsageError(
                f"There is no {what} {name!r}; there are {', '.join(known)}.{nearest(name, known)}"
            )
    return tuple(name for name in known if name in names)


def unit_of(param: Any) -> str:
    """The unit of what PARAM takes, as its sentences end."""
    return _UNITS.get(param.metavar, "") if param else ""


def _check_unit(value: Any, param: Any, ctx: Any) -> None:
    """Say what to give in place of a number with a unit behind it."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([^\W\d_]+)\s*", str(value))
    if found and isinstance(value, str):
        unit = unit_of(param)
        if unit == ", in seconds" and found[2] in _IN_SECONDS:
            unit += f": {float(found[1]) * _IN_SECONDS[found[2]]:.12g}"
        raise click.BadParameter(f"{value!r} has a unit: give the number alone{unit}.", ctx, param)


class ValueType(_ParamType):
    """A kind of value; most are strings in a file."""

    name = "text"
    schema: Mapping[str, Any] = MappingProxyType({"type": "string"})
    """In a JSON Schema."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002 - click's signature
        """From what the person says; what has been converted already stays so."""
        return value

    def check_json(self, key: str, value: Any, unit: str) -> Any:  # noqa: ARG002
        """VALUE of the file's KEY, if it has the JSON type that this is.

        Raises:
            UsageError: It has another.
        """
        if not isinstance(value, str):
            raise wrong(key, value, "give a string")
        return value

    def internal(self, value: Any) -> Any:
        """What the settings have, by what `convert` has returned."""
        return value


TEXT = ValueType()


class Whole(ValueType, click.IntRange):
    """A whole number from LOWEST to HIGHEST; in the settings times SCALE."""

    def __init__(self, lowest: int, highest: int, scale: int = 1) -> None:
        click.IntRange.__init__(self, lowest, highest)
        self._lowest, self._highest = lowest, highest
        self._scale = scale
        self.name = "integer range"
        self.schema = {"type": "integer", "minimum": lowest, "maximum": highest}

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        _check_unit(value, param, ctx)
        wanted = f"from {self._lowest} to {self._highest}{unit_of(param)}."
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number: give one {wanted}", param, ctx)
        if not self._lowest <= number <= self._highest:
            self.fail(f"{value} is out of range: give a whole number {wanted}", param, ctx)
        return number

    def check_json(self, key: str, value: Any, unit: str) -> Any:
        """An integer."""
        if type(value) is not int:
            raise wrong(key, value, f"give a whole number{unit}")
        return value

    def internal(self, value: int) -> int:
        """In the unit of the settings."""
        return value * self._scale


class OneOf(Whole):
    """One of a few whole numbers."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(min(numbers), max(numbers))
        self._numbers = numbers
        self.schema = {"enum": list(numbers)}

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        with contextlib.suppress(ValueError):
            if int(value) in self._numbers:
                return int(value)
        *others, last = map(str, self._numbers)
        return self.fail(f"{value!r} is not one of {', '.join(others)} and {last}.", param, ctx)


class Seconds(ValueType, click.FloatRange):
    """A length of time in seconds, or in the unit of which a second has so many.

    Args:
        lowest: In that unit.
        highest: Likewise.
        above: Whether it must be longer than the lowest.
        to: Of the settings' unit, so many are one of these.
    """

    def __init__(
        self, lowest: float, highest: float, *, above: bool = False, to: float = NS
    ) -> None:
        click.FloatRange.__init__(self, lowest, highest, min_open=above)
        self._lowest, self._highest, self._above = lowest, highest, above
        self._to = to
        self.name = "float range"
        bound = {"exclusiveMinimum" if above else "minimum": lowest}
        self.schema = {"type": "number", **bound, "maximum": highest}

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """The number."""
        _check_unit(value, param, ctx)
        wanted = f"{self._range()}{unit_of(param)}."
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is not a number: give one {wanted}", param, ctx)
        if not self._lowest <= number <= self._highest or (self._above and number == self._lowest):
            self.fail(f"{value} is out of range: give a number {wanted}", param, ctx)
        return number

    def _range(self) -> str:
        """Which numbers there are, in words."""
        lowest, highest = f"{self._lowest:.12g}", f"{self._highest:.12g}"
        return f"above {lowest}, up to {highest}" if self._above else f"from {lowest} to {highest}"

    def check_json(self, key: str, value: Any, unit: str) -> Any:
        """A number."""
        if type(value) not in (int, float):
            raise wrong(key, value, f"give a number{unit}")
        return value

    def internal(self, value: float) -> float:
        """In the unit of the settings, a whole number where that is not the second."""
        return value if self._to == 1 else round(value * self._to)


class Choice(ValueType, _Choice):
    """One of a few words, by which the settings have something else, maybe."""

    def __init__(self, words: Sequence[str] | Mapping[str, Any]) -> None:
        _Choice.__init__(self, list(words))
        self._meaning = dict(words) if isinstance(words, Mapping) else {}
        self.name = "choice"
        self.schema = {"enum": list(words)}

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The word."""
        return str(_Choice.convert(self, value, param, ctx))

    def internal(self, value: str) -> Any:
        """What the word stands for."""
        return self._meaning.get(value, value)


class Names(ValueType):
    """Some of a few names, comma-separated; the settings have them in the order of KNOWN.

    Args:
        name: How it is written.
        known: The names.
        what: One of them is called so in messages.
    """

    def __init__(self, name: str, known: Sequence[str], what: str) -> None:
        self.name = name
        self._known = known
        self._what = what
        word = f" *({'|'.join(map(re.escape, known))})? *"
        # the words by themselves as well: editors complete them
        some = [{"enum": list(known)}, {"type": "string", "pattern": f"^{word}(,{word})*$"}]
        self.schema = {"anyOf": [*some, {"type": "array", "items": {"anyOf": some}}]}

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The names."""
        if isinstance(value, tuple):
            return value
        try:
            return some(value, self._known, self._what)
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def check_json(self, key: str, value: Any, unit: str) -> Any:  # noqa: ARG002
        """A string, or a list of them."""
        return ",".join(check_strings(key, value))


def check_strings(key: str, value: Any) -> list[str]:
    """VALUE of the file's KEY: a string, or a list of strings.

    Raises:
        UsageError: It is neither.
    """
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(word, str) for word in strings):
        raise wrong(key, value, "give a string, or a list of strings")
    return strings


class Port(ValueType):
    """A TCP or UDP port."""

    name = "port"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        if not str(value).isdecimal() or not 0 < int(value) <= _MOST_PORT:
            host = ctx.params.get("host") if ctx else None
            hint = f" Is {host} an interface? Give it behind -i." if host in interfaces() else ""
            wanted = "give a number from 1 to 65535"
            self.fail(f"{value!r} is not a port: {wanted}.{hint}", param, ctx)
        return int(value)


class Listen(ValueType):
    """An address to listen on."""

    name = "ADDRESS:PORT"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, int]:
        """Host and port."""
        if isinstance(value, tuple):
            return value
        host, _, port = value.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        with contextlib.suppress(ValueError):
            if port.isdecimal() and int(port) <= _MOST_PORT and (":" in bare) == (bare != host):
                return str(ipaddress.ip_address(bare)), int(port)
        wanted = "an IP address and a port, such as 127.0.0.1:8081."
        return self.fail(f"{value!r} is not {wanted}", param, ctx)


class Hex(ValueType):
    """32 bits in hexadecimal digits."""

    name = "hex"
    schema = MappingProxyType({"type": "string", "pattern": "^(0[xX])?[0-9a-fA-F]{1,8}$"})

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number."""
        if isinstance(value, int):  # out of a file, and read already
            return value
        number = int(value, 16) if re.fullmatch(self.schema["pattern"], value) else -1
        if number < 0:
            self.fail(f"{value!r} is not a pattern: give 32 bits, such as 5EC70123.", param, ctx)
        return number


class Directory(ValueType, click.Path):
    """A directory."""

    def __init__(self) -> None:
        click.Path.__init__(self, file_okay=False, path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        """Its path."""
        if not value:
            self.fail("give a path.", param, ctx)
        return Path(str(click.Path.convert(self, value, param, ctx)))


class Flag(ValueType):
    """On, or off."""

    name = "boolean"
    schema = BOOLEAN

    def check_json(self, key: str, value: Any, unit: str) -> bool:  # noqa: ARG002
        """A boolean."""
        return switch(key, value)


class Words(ValueType):
    """Any words, comma-separated, by which CONVERT makes something."""

    schema = STRINGS

    def __init__(self, convert: Callable[[Sequence[str]], Any]) -> None:
        self._make = convert

    def internal(self, value: Sequence[str]) -> Any:
        """Of all the words of an option that may be repeated."""
        return self._make([word for text in value for word in split(text)])
