# SPDX-License-Identifier: Apache-2.0
"""Words of others on every way out: what a terminal or a journal would obey is shown as text."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import TYPE_CHECKING

import httpserver
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scraping import ask
from waiting import DEADLINE, wait_for

from lab.command import COMMAND, VtapStream
from lab.namespace import Namespace
from trapstream_vtap.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "\x1b]0;owned\x07\x08\r\n\x7f\x9b31m\u202e\u2066\u2028\u2029\ufeff\udcff"
"""C0, DEL, C1, directions of writing, separators of lines, a byte order mark, a byte not UTF-8."""

SHOWN = r"\x1b]0;owned\x07\x08\r\n\x7f\x9b31m\u202e\u2066\u2028\u2029\ufeff\udcff"


@given(st.text(st.characters()))
def test_any_text(text: str) -> None:
    """Every text becomes one line that is printed and encoded; one that is printed stays."""
    shown = printable(text)

    assert shown.isprintable()
    assert shown.encode().decode() == shown
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_hostile() -> None:
    """Each character is shown as Python writes it."""
    assert printable(f"grün{HOSTILE} 漢字") == f"grün{SHOWN} 漢字"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-i", HOSTILE, "127.0.0.1", "9"),
        ("-i", "lo", "127.0.0.1", HOSTILE),
        ("-i", "lo", "127.0.0.1", "9", HOSTILE),
        (f"--{HOSTILE}", "-i", "lo", "127.0.0.1", "9"),
        ("-c", HOSTILE, "-i", "lo", "127.0.0.1", "9"),
        ("-i", "lo", "--sink", f"ftp://{HOSTILE}"),
        ("-i", "lo", "--user", HOSTILE, "127.0.0.1", "9"),
        ("-i", "lo", "--token-file", HOSTILE, "--sink", "http://127.0.0.1:9?db=x"),
    ],
    ids=["interface", "port", "argument", "option", "file", "sink", "user", "token"],
)
def test_usage(arguments: tuple[str, ...]) -> None:
    """A sentence about a mistake shows what was typed, and does not pass it on."""
    with Namespace() as namespace:
        done = namespace.run(str(COMMAND), *arguments, check=False)

    assert done.returncode in (1, 2)
    assert_printed(done.stderr)
    assert r"owned\x07" in done.stderr


@pytest.mark.parametrize("place", ["key", "value", "rule"])
def test_configuration_file(tmp_path: Path, place: str) -> None:
    """Keys, values and rules of a configuration file are shown, and not passed on."""
    said = {"key": {HOSTILE: 1}, "value": {"format": HOSTILE}, "rule": {"RULES": [HOSTILE]}}
    file = tmp_path / "vtap.json"
    file.write_text(json.dumps(said[place]))
    with Namespace() as namespace:
        done = namespace.run(
            *(str(COMMAND), "-i", "lo", "-c", str(file), "127.0.0.1", "9"), check=False
        )

    assert done.returncode == 2
    assert_printed(done.stderr)
    assert "owned" in done.stderr


def test_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others say is shown: in the journal, systemd's status, /readyz, and the last line."""
    refused = httpserver.Answer(400, json.dumps({"message": f"no {HOSTILE[:-1]}"}))
    heard: list[bytes] = []
    with Namespace() as namespace, contextlib.ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        with namespace.entered():
            listening = httpserver.HttpServer(lambda *_: refused)
        server = stack.enter_context(listening)
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        file = f"file:{tmp_path}/{HOSTILE}"
        file, file_shown = (f"file:{tmp_path}/{text}" for text in (HOSTILE, SHOWN))
        http = f"http://127.0.0.1:{server.port}?db=x"
        arguments = ("-i", "lo", "-t", "0.2", "-v", "--health", "127.0.0.1:0", "--user", "root")
        with VtapStream(namespace, *arguments, "--sink", http, "--sink", file) as command:
            command.wait_until_measuring()
            wait_for(lambda: "refuses" in command.said and "health at" in command.said)
            port = int(re.search(r"health at http://\S+:(\d+)/", command.said)[1])
            wait_for(lambda: heard.append(manager.recv(1 << 16)) or heard[-1].startswith(b"STATUS"))
            ready = ask(namespace, port, "/readyz", socket.AF_INET)
            command.stop()

    assert_printed(command.said)
    answer = r"no \x1b]0;owned\x07\x08 \x7f\x9b31m\u202e\u2066 \ufeff"
    assert f": HTTP 400, {answer}." in command.said
    assert f"({file_shown})" in command.said.splitlines()[-1]
    assert SHOWN.encode() in heard[-1]
    assert b"\n" not in heard[-1]
    assert heard[-1].decode().isprintable()
    assert file_shown in ready[1]["sinks"]


def assert_printed(said: str) -> None:
    """Nothing in what was SAID is not printed, but for the ends of its lines."""
    assert all(line.isprintable() for line in said.split("\n"))
