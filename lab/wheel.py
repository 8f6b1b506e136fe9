# SPDX-License-Identifier: Apache-2.0
"""The wheel, built from a copy of the sources: what earlier builds left beside them stays out."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("LICENSE", "LICENSES", "README.md", "pyproject.toml", "setup.cfg", "setup.py")
_PACKAGE = "trapstream_vtap"
_MADE = shutil.ignore_patterns("__pycache__", "*.so", "*.cpp")


def build(directory: Path) -> Path:
    """Build the wheel into DIRECTORY.

    Setuptools and Cython are those of this environment: no network is needed.

    Returns:
        Its path.

    Raises:
        subprocess.CalledProcessError: With what pip said as a note.
    """
    with tempfile.TemporaryDirectory() as name:
        copy, made = Path(name, "sources"), Path(name, "made")
        shutil.copytree(ROOT / _PACKAGE, copy / _PACKAGE, ignore=_MADE)
        for source in (ROOT / name for name in _SOURCES):
            take = shutil.copytree if source.is_dir() else shutil.copy
            take(source, copy / source.name)
        pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-build-isolation", "--no-deps")
        done = subprocess.run(
            (*pip, "-w", str(made), str(copy)), check=False, capture_output=True, text=True
        )
        if done.returncode:
            error = subprocess.CalledProcessError(done.returncode, done.args)
            error.add_note(done.stderr)
            raise error
        (wheel,) = made.iterdir()
        directory.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, directory / wheel.name))


if __name__ == "__main__":
    print(build(ROOT / "dist"))
