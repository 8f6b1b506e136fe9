# SPDX-License-Identifier: Apache-2.0
"""The declaration of an option: a field of a frozen dataclass, in the room that it belongs to."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from trapstream_vtap.settings.kinds import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trapstream_vtap.settings.kinds import ValueType


class Reload(enum.Enum):
    """What becomes of an option when the configuration is read again."""

    FIXED = "fixed"  # a running program cannot change it: the whole file is refused
    TAKEN = "taken"  # the new program has it
    TAKEN_BY_ALL = "taken by all"  # likewise, if all probes that run can be loaded anew
    DERIVED = "derived"  # it follows from others, and is not compared


@dataclass(frozen=True)
class Key:
    """A key of vtap-project's files.

    Args:
        name: In capitals.
        read: From key and value to fields of the settings; raises UsageError.
        schema: In a JSON Schema.
        doc: What it means.
    """

    name: str
    read: Callable[[str, Any], Mapping[str, Any]]
    schema: Mapping[str, Any]
    doc: str


def flag_of(names: Sequence[str]) -> str:
    """The long one of an option's NAMES on the command line."""
    return max(names, key=len)


def key_of(names: Sequence[str]) -> str:
    """What an option of these NAMES is called in a file."""
    return flag_of(names).lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class Option:
    """What the person may say, and how.

    Args:
        names: On the command line; none: only in a file.
        kind: What it may be.
        help: What it means, and its default, if `default` does not say it.
        default: As a person would write it.
        metavar: Stands for the value; None: as the kind has it.
        multiple: Whether it may be repeated.
        reload: Whether another program can take it.
        said: What it is called where it is refused; empty: as the field.
        keys: Of vtap-project's files, which say something of this field, or of others.
        needs: Fields of which one must be set, or it would do nothing.
    """

    names: tuple[str, ...]
    kind: ValueType
    help: str = ""
    default: Any = None
    metavar: str | None = None
    multiple: bool = False
    reload: Reload = Reload.FIXED
    said: str = ""
    keys: tuple[Key, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def flag(self) -> bool:
        """Whether it has no value."""
        return isinstance(self.kind, Flag)

    def internal(self, value: Any) -> Any:
        """What the settings have for VALUE, as the kind converts it; None: nothing is said."""
        return None if value is None else self.kind.internal(value)


def option(*names: str, kind: ValueType, **others: Any) -> Any:
    """A field that is an option, as `Option` says."""
    made = Option(names, kind, **others)
    return field(default=made.internal(made.default), metadata={"option": made})


def derived(default: Any, reload: Reload = Reload.DERIVED, *keys: Key, said: str = "") -> Any:
    """A field that no option says: it follows from others, from the machine, or from KEYS."""
    made = Option((), Flag(), reload=reload, said=said, keys=keys)
    return field(default=default, metadata={"option": made})


def declared(kind: type) -> Iterator[tuple[str, Option]]:
    """The fields of a class of settings, with their declarations, in order."""
    for each in fields(kind):
        if "option" in each.metadata:
            yield each.name, each.metadata["option"]
