# SPDX-License-Identifier: Apache-2.0
"""The wheel by itself: installed beside the distribution's BCC, away from the sources."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

import installed
import tap
from attached import exchange
from traffic import Wire

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"{installed.PLACE}/bin/python"


def files(root: Path) -> set[str]:
    """What the package consists of, below ROOT, other than what is made of it."""
    found = (path for path in root.rglob("*") if path.is_file())
    made = (".pyc", ".so", ".cpp")
    return {str(path.relative_to(root)) for path in found if path.suffix not in made}


def test_wheel() -> None:
    """All files of the package are in it; it says its version, and measures."""
    directory = installed.environment()
    there = installed.within(directory)
    with Wire() as wire:
        said = wire.receiver.run(*there, installed.COMMAND, "--version").stdout
        assert said.split()[-1] == metadata.version("trapstream-vtap")
        where = wire.receiver.run(
            *there, PYTHON, "-c", "import trapstream_vtap as t; print(t.__path__[0])"
        ).stdout.strip()
        assert where.startswith(installed.PLACE)
        own = files(directory / where.removeprefix(f"{installed.PLACE}/"))
        assert own == files(installed.wheel.ROOT / "trapstream_vtap")
        with tap.Tap(wire.receiver, "-i", "wire0", command=(*there, installed.COMMAND)) as tapped:
            exchange(wire, 5)
            assert tap.agent(tapped.stop(), "wire0")["seen_packets"] == 5
