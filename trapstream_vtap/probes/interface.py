# SPDX-License-Identifier: Apache-2.0
"""What a probe is: how it declares itself, and what it does once it is loaded.

The engine, the keeper, delivery, metrics and the reference pages know probes by this alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from trapstream_vtap.account import Rows
    from trapstream_vtap.bpf.attach import AnyPlace
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.bpf.source import Source
    from trapstream_vtap.clock import Clock
    from trapstream_vtap.guest import Guest
    from trapstream_vtap.metrics.collector import Collector
    from trapstream_vtap.schema import Batch, Schema
    from trapstream_vtap.settings.core import Core


@dataclass(frozen=True)
class Needs:
    """What a probe needs of the machine.

    Args:
        files: That are opened as root, and read by the process that measures.
        capabilities: Of the process that attaches, beside those that it has anyway.
    """

    files: tuple[Path, ...] = ()
    capabilities: tuple[int, ...] = ()


@dataclass(frozen=True)
class ToLoad:
    """What the loader is to compile, to load, and to have attached.

    Args:
        source: The C text, its programs and maps.
        places: Where which program belongs.
        memory: What its maps take of the kernel's memory, about; bytes.
        sized_by: The option, with its value, that says how much that is.
        notes: Sentences for the person: what of it this kernel has not.
    """

    source: Source
    places: Sequence[AnyPlace]
    memory: int
    sized_by: str
    notes: Sequence[str] = ()


class Alone:
    """A probe with a program of its own, which measures for no other; the base of most."""

    def hosts(self, settings: Any) -> bool:  # noqa: ARG002
        """Nothing of others."""
        return False

    def guest(self, settings: Any) -> Guest | None:  # noqa: ARG002
        """Nothing of it is measured by others."""
        return None


class Running(Protocol):
    """A loaded probe. The thread of the engine's loop alone uses it."""

    notes: list[str]
    """Sentences for the person, once it is attached."""

    def descriptors(self) -> Sequence[int]:
        """All that becomes readable when there is something to do; by edges, not levels."""

    def woken(self, ready: Collection[int]) -> None:
        """Its own may be among the descriptors that are READY: notes it, and reads nothing."""

    def due(self) -> int:
        """The moment of its next step (CLOCK_MONOTONIC, ns); one gone by: at once."""

    def attend(self) -> Iterator[Batch]:
        """One step of what is due by now."""

    def closed(self) -> int:
        """The moment up to which everything has been handed over that intervals ask for."""

    def take_over(self, old: Self | None) -> int:
        """It is about to be attached, in the place of OLD; the moment from which it counts.

        What OLD counted until then is still to be flushed, up to that moment.
        """

    def flush(self, moment: int | None = None) -> Iterator[Batch]:
        """Everything that is left, when nothing is counted any more, since MOMENT or now."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What it has counted so far: by the value of its rows' tag, and by the count's name."""

    def close(self) -> None:
        """Give programs and maps back."""


class Probe(Protocol):
    """The declaration of a probe: cheap to import, without BCC and native code.

    The settings that it is given are those of its own class.
    """

    @property
    def name(self) -> str:
        """What `--probe` says, and what the keeper is asked for."""

    @property
    def doc(self) -> str:
        """What it measures, for `--help`."""

    @property
    def noun(self) -> str:
        """What one of the things is called that its `seen_packets` counts."""

    @property
    def settings(self) -> type[Core]:
        """What the person may say of it, beside what belongs to no probe."""

    @property
    def at_interfaces(self) -> bool:
        """Whether it measures at interfaces, and so has to follow them."""

    @property
    def reloads(self) -> bool:
        """Whether another program of it can take the place of one that runs."""

    def hosts(self, settings: Any) -> bool:
        """Whether its program measures what a guest wants of each of its records."""

    def guest(self, settings: Any) -> Guest | None:
        """What a host is to measure for it, so that it has no program; None: it has its own."""

    def needs(self, settings: Any) -> Needs:
        """What it takes to run it."""

    def measures(self, settings: Any) -> str:
        """What it measures in this run, in a few words."""

    def schemas(self, settings: Any) -> Sequence[Schema]:
        """Every kind of record that it may hand over, with names as long as they may become."""

    def rows(self, settings: Any) -> Rows:
        """Its account."""

    def demanding(self) -> Any:
        """Settings that ask for everything that a kernel may not have."""

    def to_load(self, settings: Any) -> ToLoad:
        """What to load; called in the loader alone, as root.

        Raises:
            UsageError: The settings ask for what is not there.
            RunError: This kernel has not what it needs.
        """

    def load(
        self, settings: Any, objects: Objects, clock: Clock, files: Mapping[Path, BinaryIO]
    ) -> Running:
        """What has been loaded; FILES are those that it needs, if they could be opened."""

    def collector(self, settings: Any) -> Collector:
        """What Prometheus scrapes of it."""

    def reloaded(self, settings: Any) -> str:
        """What the configuration says of it that was read again, in a few words."""

    def doubt(self, settings: Any, totals: Mapping[str, int]) -> str | None:
        """What is odd about TOTALS (of all rows, by the count's name); said once in a run."""

    def summary(self, settings: Any, totals: Mapping[str, int]) -> str:
        """What became of everything that it saw, by TOTALS as above."""
