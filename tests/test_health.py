# SPDX-License-Identifier: Apache-2.0
"""Health as orchestrators and systemd ask for it: from outside, of the real command."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

import pytest
import tap
from scraping import ask
from waiting import wait_for

from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """One with a loopback that is up."""
    with Namespace() as namespace:
        yield namespace


def port_of(tapped: tap.Tap) -> int:
    """Where it says that it listens."""
    deadline = time.monotonic() + tap.DEADLINE
    while time.monotonic() < deadline:
        for line in list(tapped.said):
            if match := re.fullmatch(r"vtap-stream: health at http://\S+:(\d+)/healthz .*\n", line):
                return int(match[1])
        time.sleep(0.01)
    raise AssertionError(tapped.said)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What a service manager hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(tap.DEADLINE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_pages(namespace: Namespace, address: str) -> None:
    """It lives, it is ready while a sink is up, and says which are; other pages are not there."""
    family = socket.AF_INET6 if "[" in address else socket.AF_INET
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("127.0.0.1", 0))  # and nobody listens
        dead = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        options = ("-i", "lo", "-t", "3600", "--sink", dead, "--health", address)
        with tap.Tap(namespace, *options) as tapped:
            port = port_of(tapped)
            wait_for(lambda: ask(namespace, port, "/readyz", family)[0] == 200)
            status, body = ask(namespace, port, "/readyz", family)
            assert (status, body["status"], body["sinks"].pop(dead)) == (200, "measuring", "down")
            assert list(body["sinks"].values()) == ["up"]
            assert ask(namespace, port, "/healthz?verbose", family) == (200, {"status": "ok"})
            assert ask(namespace, port, "/", family)[0] == 404
            tapped.leave()
            wait_for(lambda: ask(namespace, port, "/readyz", family)[0] == 503)
            assert ask(namespace, port, "/healthz", family)[0] == 200
            tapped.end(code=3)  # nobody has taken anything


def test_service_manager(
    namespace: Namespace, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY once it measures, STATUS each interval, WATCHDOG in time, STOPPING at the end."""
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    with tap.Tap(namespace, "-i", "lo", "-t", "3600") as tapped:
        assert manager.recv(4096) == b"READY=1"
        beats = []
        while len(beats) < 5:
            assert manager.recv(4096) == b"WATCHDOG=1"
            beats.append(time.monotonic())
        assert (beats[-1] - beats[0]) / 4 < 0.6
        tapped.end()
    said = [b"WATCHDOG=1"]
    while said[-1] == b"WATCHDOG=1":
        said.append(manager.recv(4096))
    assert said[-1] == b"STOPPING=1"
    assert re.match(rb"STATUS=\d+ packets seen; \d+ records sent, ", manager.recv(4096))


def test_another_process_is_watched(
    namespace: Namespace, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watchdog for somebody else is not fed; without an interval's end nothing is said."""
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with tap.Tap(namespace, "-i", "lo", "-t", "3600") as tapped:
        assert manager.recv(4096) == b"READY=1"
        time.sleep(0.3)
        tapped.end()
    assert manager.recv(4096) == b"STOPPING=1"


def test_address_in_use(namespace: Namespace) -> None:
    """It says what to do, and does not begin to measure."""
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        where = f"127.0.0.1:{holder.getsockname()[1]}"
        done = namespace.run(
            *(str(tap.COMMAND), "-i", "lo", "--health", where, "127.0.0.1", "9"), check=False
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"vtap-stream: Cannot listen on 127.0.0.1 port {where[10:]} (Address already in use): "
        "give another --health.\n"
    )


@pytest.mark.parametrize(
    "address", ["8081", "localhost:8081", "::1:8081", "[127.0.0.1]:1", "127.0.0.1:65536", "[::1]:x"]
)
def test_no_address(namespace: Namespace, address: str) -> None:
    """What is no address to listen on is a usage error."""
    done = namespace.run(
        *(str(tap.COMMAND), "-i", "lo", "--health", address, "127.0.0.1", "9"), check=False
    )
    assert done.returncode == 2
    assert "is not an IP address and a port, such as 127.0.0.1:8081." in done.stderr
