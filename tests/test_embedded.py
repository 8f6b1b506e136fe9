# SPDX-License-Identifier: Apache-2.0
"""An engine in somebody else's program: what that program does else harms neither."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from traffic import Wire

from trapstream_vtap import Engine, UsageError, load_settings
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = """
import os, signal, sys, threading, time
from trapstream_vtap import *
path = sys.argv[1]
def settings(*more):
    return load_settings(["-i", "wire0", "-t", "0.2", "--sink", f"file:{path}/records", *more])
"""
CASES = {
    "a child that outlives it": """
engine = Engine(settings())
engine.start()
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
begin = time.monotonic()
engine.stop()
engine.wait()
took = time.monotonic() - begin
os.kill(child, 9)
os.waitpid(child, 0)
assert took < 20, took
""",
    "threads that need root": """
open(f"{path}/mine", "w").close()
os.chmod(f"{path}/mine", 0o600)
failed, done = [], threading.Event()
def reads():
    while not done.is_set():
        try:
            open(f"{path}/mine").close()
        except PermissionError as error:
            failed.append(error)
thread = threading.Thread(target=reads)
thread.start()
for _ in range(3):
    os.makedirs("/var/lib/vtap-test", exist_ok=True)
    with Engine(settings("--spool", "/var/lib/vtap-test/spool")):
        pass
done.set()
thread.join()
import shutil
shutil.rmtree("/var/lib/vtap-test")
assert not failed, len(failed)
""",
    "Ctrl-C while it starts": """
engine = Engine(settings())
def interrupt():
    while not engine._thread:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    with engine:
        time.sleep(20)
        raise SystemExit("nobody has interrupted it")
except KeyboardInterrupt:
    pass
left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
assert not [name for name in left if name == "engine" or "Collector" in name], left
""",
    "children that nobody waits for": """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with Engine(settings()):
    pass
""",
    "twice": """
engine = Engine(settings())
with engine:
    pass
assert not engine.status().measuring
for _ in range(2):
    try:
        engine.start()
    except RunError as error:
        assert "for one run" in str(error)
    else:
        raise SystemExit("it started again")
""",
    "a package that is not installed": """
import subprocess, trapstream_vtap
root = os.path.dirname(os.path.dirname(trapstream_vtap.__file__))
own = [p for p in sys.path if p and p != root]
code = f"import sys; sys.path[:0] = {[root, *own]!r}; from trapstream_vtap import *\\n"
code += "with Engine(load_settings(['-i', 'wire0', '-'])): pass"
subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, cwd="/")
""",
}


WAYS = [*((name, ()) for name in CASES), ("children that nobody waits for", ("-O",))]


@pytest.mark.parametrize(("name", "options"), WAYS)
def test_engine_beside(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """Once without the package's asserts, too."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    with Wire() as wire:
        done = wire.receiver.run(
            *(sys.executable, *options, "-c", BEGIN + CASES[name], str(tmp_path)), check=False
        )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr


def test_help_is_no_setting() -> None:
    """It is the command's."""
    with pytest.raises(UsageError, match="for the command alone"):
        load_settings(["--help"])


@pytest.mark.parametrize("pattern", ["1_0", "+1f", " 12 ", "0x1_2", "123456789"])
def test_patterns_are_digits_alone(pattern: str) -> None:
    """As the schema says."""
    with pytest.raises(UsageError, match="is not a pattern"):
        load_settings(["--sequence-offset", "0", "--sequence-pattern", pattern, "-"])


def test_a_spool_has_a_path() -> None:
    """An empty word is none."""
    with pytest.raises(UsageError, match="give a path"):
        load_settings(["--spool", "", "127.0.0.1", "9"])


def test_a_file_may_name_its_schema(tmp_path: Path) -> None:
    """For editors."""
    path = tmp_path / "vtap.json"
    path.write_text('{"$schema": "vtap.schema.json", "interval": 3}')
    assert load_settings(["-c", str(path), "-"]).core.interval == 3 * 10**9


def test_an_engine_is_for_one_run() -> None:
    """Also where the first start has failed."""
    engine = Engine(load_settings(["-i", "lo", "--health", "203.0.113.9:1", "-"]))
    for words in ("Cannot listen", "for one run"):
        with pytest.raises(RunError, match=words):
            engine.start()
