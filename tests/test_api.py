# SPDX-License-Identifier: Apache-2.0
"""What another program may use: docs/api.md, its example, and that nothing else happens."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from traffic import V4, Wire
from waiting import wait_for

import trapstream_vtap
from trapstream_vtap.engine.events import Event, Reloaded
from trapstream_vtap.engine.reporter import sentence

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")

AROUND = """
import os, signal, threading
before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
users = os.getresuid()
"""
AFTER = """
assert before == {n: signal.getsignal(n) for n in before}
assert users == os.getresuid() == (0, 0, 0)
assert [t.name for t in threading.enumerate()] == ["MainThread"], threading.enumerate()
assert engine.status().measuring is False
print("done")
"""


def test_page_and_all_agree() -> None:
    """The page speaks of every public name, and each is there."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in re.findall(r"`(\w+)[`(.]", row.split("|")[1])}
    assert named == {*trapstream_vtap.__all__}
    for name in trapstream_vtap.__all__:
        assert getattr(trapstream_vtap, name) is not None


def test_unknown_name() -> None:
    """A name that is not there is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = trapstream_vtap.nothing  # type: ignore[attr-defined]


def test_example(tmp_path: Path) -> None:
    """It measures real traffic, and leaves the program as it was: user, signals, threads."""
    code = PAGE.split("```python\n")[1].split("```")[0]
    with Wire() as wire:
        process = wire.receiver.popen(
            sys.executable,
            "-c",
            AROUND + code + AFTER,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        sender = wire.udp(socket.AF_INET, 7001)
        while process.poll() is None:
            sender.send(b"x" * 100)
            time.sleep(0.01)
        out, err = process.communicate()
    assert out.splitlines()[-1] == "done", err
    assert int(out.splitlines()[0].split()[0]) > 20
    packets = sum(int(found) for found in re.findall(r"^(\d+) packets until", out, re.MULTILINE))
    written = (tmp_path / "records.lp").read_text(encoding="utf-8")
    in_file = re.findall(r"^vtap_flow,.* packets=(\d+)i", written, re.MULTILINE)
    assert packets == sum(map(int, in_file)) > 20
    assert V4[0] in written


def test_cannot_begin(tmp_path: Path) -> None:
    """What stands in the way of measuring is raised by `start`, and nothing is left behind."""
    code = (
        "import threading\n"
        "from trapstream_vtap import *\n"
        "settings = load_settings(['-i', 'lo', '--health', '203.0.113.9:1', '-'])\n"
        "try:\n    Engine(settings).start()\n"
        "except RunError as error:\n    print(error)\n"
        "try:\n    load_settings(['-t', '0'])\n"
        "except UsageError as error:\n    print(error)\n"
        "print(threading.active_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    cannot, wrong, threads = done.stdout.splitlines()
    assert cannot.startswith("Cannot listen on 203.0.113.9 port 1 ")
    assert "0 is out of range" in wrong
    assert threads == "1"


def test_as_a_module() -> None:
    """`python -m trapstream_vtap` is the command."""
    command = [sys.executable, "-m", "trapstream_vtap", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"vtap-stream, version {trapstream_vtap.__version__}\n"


def test_reload_of_nothing() -> None:
    """Where there is nothing to read again, that is said; with credentials alone, there is."""
    told: list[Event] = []
    settings = trapstream_vtap.load_settings(["-i", "lo", "-"])
    trapstream_vtap.Engine(settings, report=told.append).reload()
    (said,) = map(sentence, told)
    assert said.startswith("the configuration stays as it was: there is nothing to read again")


def test_reload_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path means the file that it meant when the engine was made."""
    told: list[Event] = []
    file = tmp_path / "vtap.json"
    file.write_text('{"RULES": []}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    words = ["-c", "vtap.json", "-i", "lo", "--metrics", "127.0.0.1:0"]
    engine = trapstream_vtap.Engine(trapstream_vtap.load_settings(words), words, told.append)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "vtap.json").write_text('{"RULES": ["wrong"]}', encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    with engine:
        file.write_text('{"RULES": ["- - - 443 tcp"]}', encoding="utf-8")
        engine.reload()
        wait_for(lambda: Reloaded(("1 rule",)) in told)


def test_many_runs_in_one_process() -> None:
    """One after the other, and two at a time; the second begins where the first goes on."""
    settings = trapstream_vtap.load_settings(["-i", "lo", "-t", "0.1", "--metrics", "127.0.0.1:0"])
    for _ in range(2):
        with trapstream_vtap.Engine(settings) as one, trapstream_vtap.Engine(settings) as other:
            wait_for(lambda: one.status().time and other.status().time)
            assert one.status().measuring
        assert not one.status().measuring
