# SPDX-License-Identifier: Apache-2.0
"""How tests are shared out among processes, and what they find compiled.

They go by file, the virtual machine's all to one process; those that took longest in the run before
go first, so that no process is left alone with them at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import kinds
import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

MACHINE = "tests/vm"
TOOK = "vtap/seconds"
"""What pytest keeps from one run to the next: the seconds that each unit of work took."""


class ByFile(LoadFileScheduling):
    """One process boots the machine and asks it everything, first of all: it takes longest."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.workqueue:
            self.workqueue.move_to_end(max(self.workqueue, key=self._expected), last=False)
        super()._assign_work_unit(node)

    def _expected(self, unit: str) -> float:
        """How long a UNIT of work takes, in seconds: as in the run before, or a guess."""
        if unit == MACHINE:
            return math.inf
        seconds: dict[str, float] = self.config.cache.get(TOOK, {})
        return seconds.get(unit, len(self.workqueue[unit]))


class Times:
    """How long each unit of work takes, for the next run.

    Args:
        cache: Where pytest keeps what is for the next run.
    """

    def __init__(self, cache: pytest.Cache) -> None:
        self._cache = cache
        self._seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A part of a test is over, in some process."""
        self._seconds[scope(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        """What has not run in this run keeps what it has taken."""
        self._cache.set(TOOK, {**self._cache.get(TOOK, {}), **self._seconds})


def scope(nodeid: str) -> str:
    """The unit of work that a test belongs to."""
    file = nodeid.split("::", 1)[0]
    return MACHINE if file.startswith(f"{MACHINE}/") else file


def pytest_configure(config: pytest.Config) -> None:
    """Where tests are shared out, see how long they take."""
    if config.getoption("numprocesses", None) and config.cache:
        config.pluginmanager.register(Times(config.cache))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """The scheduler; see the hooks of pytest-xdist."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what its module needs."""
    for item in items:
        if not any(item.get_closest_marker(mark) for mark in kinds.MARKS):
            item.add_marker(kinds.kind(item.path))


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is loaded must be compiled first."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "programs"))
