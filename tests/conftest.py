# SPDX-License-Identifier: Apache-2.0
"""How tests are shared out among processes, and what they find compiled.

They go by file, and the virtual machine's all to one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kinds
import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

MACHINE = "tests/vm"


class ByFile(LoadFileScheduling):
    """One process boots the machine and asks it everything, first of all: it takes longest."""

    def _split_scope(self, nodeid: str) -> str:
        scope = super()._split_scope(nodeid)
        return MACHINE if scope.startswith(f"{MACHINE}/") else scope

    def _assign_work_unit(self, node: WorkerController) -> None:
        if MACHINE in self.workqueue:
            self.workqueue.move_to_end(MACHINE, last=False)
        super()._assign_work_unit(node)


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
