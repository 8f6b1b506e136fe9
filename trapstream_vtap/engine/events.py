# SPDX-License-Identifier: Apache-2.0
"""What happens to a run, for whoever watches it; the reporter makes sentences of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """Something has happened."""


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Somebody below says something in words of their own."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Measuring(Event):
    """Everything is attached.

    Args:
        what: In a few words.
        form: The format of what is streamed.
        sinks: Where to.
    """

    what: str
    form: str
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Serving(Event):
    """Pages are answered at URLS; WHAT they are."""

    what: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InterfaceMissing(Event):
    """An interface that is named is not there yet; PRESENT are those that are."""

    name: str
    present: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NothingFits(Event):
    """None of those PRESENT is what WORDS choose; no words: none is up."""

    words: tuple[str, ...]
    present: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InterfaceGone(Event):
    """An interface is not measured any more: removed, moved or renamed."""

    name: str


@dataclass(frozen=True, slots=True)
class InterfaceThere(Event):
    """An interface is measured from now on; AGAIN: it was before."""

    name: str
    again: bool


@dataclass(frozen=True, slots=True)
class InterfaceLeft(Event):
    """An interface that is there is not chosen any more, and not measured."""

    name: str


@dataclass(frozen=True, slots=True)
class InterfaceRefused(Event):
    """An interface that has come cannot be measured yet, and WHY."""

    why: str


@dataclass(frozen=True, slots=True)
class ClockSet(Event):
    """Somebody has set the wall clock."""


@dataclass(frozen=True, slots=True)
class Reloaded(Event):
    """The configuration was read again; what the probes TOLD of it, in a few words each."""

    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReloadRefused(Event):
    """The configuration stays as it was, and WHY."""

    why: str


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """An interval has ended.

    Args:
        seen: By probe: the noun, and how many.
        delivered: How far the sinks are, in a few words.
        asked: Whether the person wants to be told.
    """

    seen: tuple[tuple[str, int], ...]
    delivered: str
    asked: bool


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The run is over; what became of everything, in sentences that belong together."""

    told: tuple[str, ...]
