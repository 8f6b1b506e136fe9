# SPDX-License-Identifier: Apache-2.0
"""With the lowest versions that setup.cfg allows, and so with a distribution's own, all works."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel  # installs, and runs others
ROOT = Path(__file__).parent.parent
TESTS = (
    *("test_config.py", "test_foreign_text.py", "test_output.py", "test_http.py", "test_json.py"),
    *("test_metrics.py::test_format", "test_attach.py::test_clsact_leaves_others_alone"),
)
"""Of what each library does for us: click, orjson, urllib3, influxdb-client, tenacity and so on."""

COMMAND = """#!{python}
import sys
sys.path.insert(0, {root!r})
from trapstream_vtap.cli import main
main()
"""


def lowest() -> list[str]:
    """The lowest version of everything that measuring needs."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    lines = declared["options"]["install_requires"].splitlines()
    return [line.replace(">=", "==") for line in lines if line and not line.startswith("#")]


def environment(directory: Path) -> Path:
    """The interpreter of one that has these, and what tests need from ours."""
    base = os.path.realpath(sys.executable)
    subprocess.run([base, "-m", "venv", "--system-site-packages", directory], check=True)
    python = directory / "bin" / "python"
    # not the binding of an old librdkafka, which is an extra
    quiet = ("-q", "--no-compile", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", "install", *quiet, *lowest()], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(directory)}))
    (own / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = directory / "bin" / "vtap-stream"
    command.write_text(COMMAND.format(python=python, root=str(ROOT)))
    command.chmod(0o755)
    return python


def test_lowest_versions(tmp_path: Path) -> None:
    """What the command says, renders, delivers and serves is right with each at its lowest."""
    python = environment(tmp_path / "lowest")
    versions = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    names, wanted = zip(*(line.split("==") for line in lowest()), strict=True)
    told = subprocess.run([python, "-c", versions, *names], check=True, capture_output=True)
    for name, version, lower in zip(names, told.stdout.decode().split(), wanted, strict=True):
        assert (version + ".0").startswith(lower), name
    assert distribution("click").version != dict(zip(names, wanted, strict=True))["click"]
    files = [f"tests/{name}" for name in TESTS]
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-p", "xdist", "-n", "0", *files),
            *(f"--basetemp={tmp_path}/tests", "-o", f"cache_dir={tmp_path}/cache"),
        ],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
