# SPDX-License-Identifier: Apache-2.0
"""The settings of a run: the core's, and those of every probe that runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from trapstream_vtap.interfaces import check_names, choose
from trapstream_vtap.probes import REGISTRY, chosen
from trapstream_vtap.settings import core as core_settings
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.option import Key, Option, Reload, declared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trapstream_vtap.probes.interface import Probe


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Args:
        parts: One of each class of settings, the core's first; the others have the core's, too.
    """

    parts: tuple[Core, ...]

    @property
    def core(self) -> Core:
        """What belongs to no probe."""
        return self.parts[0]

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those that run."""
        return chosen(self.core.probes)

    def of(self, probe: Probe) -> Any:
        """The settings of PROBE."""
        return next(part for part in self.parts if type(part) is probe.settings)

    @property
    def at_interfaces(self) -> bool:
        """Whether any of the probes measures at interfaces."""
        return any(probe.at_interfaces for probe in self.probes)

    def with_interfaces(self) -> Settings:
        """The same, with those of the wanted interfaces that are there now."""
        if not self.at_interfaces:
            return self
        there, gone = choose(self.core.selected, self.core.names)
        parts = tuple(replace(part, interfaces=there, gone=gone) for part in self.parts)
        return Settings(parts).with_guest()

    @property
    def host(self) -> Probe | None:
        """That of the probes whose program measures for others, too, if there is one."""
        return next((probe for probe in self.probes if probe.hosts(self.of(probe))), None)

    def with_guest(self) -> Settings:
        """The same, with what one probe has another one's program measure, if that is so."""
        found = (probe.guest(self.of(probe)) for probe in self.probes)
        guest = next((each for each in found if each), None) if self.host else None
        guests = (guest.probe,) if guest else ()
        return Settings(tuple(replace(part, guest=guest, guests=guests) for part in self.parts))


def classes() -> tuple[type[Core], ...]:
    """Every class of settings that declares options, the core's first."""
    return tuple(dict.fromkeys((Core, *(probe.settings for probe in REGISTRY))))


def own(kind: type[Core]) -> Iterator[tuple[str, Option]]:
    """The declarations of KIND that are not the core's, by field."""
    of_core = set() if kind is Core else {each.name for each in fields(Core)}
    return ((name, made) for name, made in declared(kind) if name not in of_core)


def keys() -> dict[str, Key]:
    """The keys of vtap-project's files, by name."""
    declarations = (made for kind in classes() for _, made in own(kind))
    return {key.name: key for made in declarations for key in made.keys}


def build(values: Mapping[str, Any], known: tuple[str, ...] = ()) -> Settings:
    """Settings by VALUES of fields, as they are within; what is left out has its default.

    Args:
        values: By name of the field.
        known: Names of interfaces that are measured, and need not be up.

    Raises:
        UsageError: They do not go together.
    """
    core = Core(**{name: values[name] for name, _ in declared(Core) if name in values})
    core_settings.check_sinks(core)
    check_names(core.selected)
    if any(probe.at_interfaces for probe in chosen(core.probes)):
        there, gone = choose(core.selected, known)
        core = replace(core, interfaces=there, gone=gone)
    core_settings.check(core)
    of_core = {each.name: getattr(core, each.name) for each in fields(Core)}
    others = (
        kind(**of_core, **{name: values[name] for name, _ in own(kind) if name in values})
        for kind in classes()[1:]
    )
    return Settings((core, *(other.checked() for other in others))).with_guest()


def fixed_changes(present: Settings, wanted: Settings) -> list[str]:
    """What WANTED would change that running programs cannot, in words."""
    all_reload = all(probe.reloads for probe in present.probes)
    taken = (Reload.TAKEN, Reload.DERIVED, *((Reload.TAKEN_BY_ALL,) if all_reload else ()))
    return [
        made.said or name.replace("_", " ")
        for kind, before, after in zip(classes(), present.parts, wanted.parts, strict=True)
        for name, made in own(kind)
        if made.reload not in taken and getattr(before, name) != getattr(after, name)
    ]
