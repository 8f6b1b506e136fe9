# SPDX-License-Identifier: Apache-2.0
"""Standard output as a sink: pipes that are read, left unread, or closed; a full disk."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import lastline
import pytest
import tap
from flowlines import DEADLINE, Handing, booked, line
from traffic import Wire
from waiting import wait_for

from lab.command import COMMAND
from lab.namespace import Namespace
from trapstream_vtap.sinks import OutputSink, output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKETS = 120
MEASURING = "vtap-stream: measuring ingress of {}, streaming {} to -\n"


@contextmanager
def running(namespace: Namespace, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command with standard output and standard error in pipes."""
    process = namespace.popen(
        *(str(COMMAND), *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("form", ["influx", "json"])
def test_records_to_a_pipe(form: str) -> None:
    """Standard output has nothing but records, one a line, to the last one.

    No collector is needed, and the device is this host.
    """
    with Wire() as wire, running(wire.receiver, "-f", form, "-i", "wire0", "-") as process:
        assert process.stderr.readline() == MEASURING.format("wire0", form)
        sender = wire.udp(socket.AF_INET, 7001)
        for number in range(PACKETS):
            sender.send(bytes(number))
        wire.settle()
        process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, complaints
    if form == "json":
        flows = tap.flows([json.loads(text) for text in said.splitlines()])
        counts = [flow["packets"] for flow in flows]
        devices = {flow["device"] for flow in flows}
    else:
        lines = [text for text in said.splitlines() if text.startswith("vtap_flow,")]
        counts = [int(text.split(" packets=")[1].split("i")[0]) for text in lines]
        devices = {text.split(",")[1].removeprefix("device=") for text in lines}
    assert sum(counts) == PACKETS
    assert devices == {socket.gethostname()}
    found = lastline.read(complaints)
    assert (PACKETS, 1, len(counts), 0) == (found.packets, found.flows, found.records, found.lost)


def test_reader_goes() -> None:
    """When the reader has had enough, the command ends by itself, as filters do."""
    with Namespace() as namespace, running(namespace, "-i", "lo", "-t", "0.2", "-") as process:
        assert process.stdout.readline().startswith("vtap_agent,")
        process.stdout.close()
        begin = time.monotonic()
        assert process.wait(DEADLINE) == 0
        assert time.monotonic() - begin < 5  # as long as is waited for others
        said = process.stderr.read().splitlines()
    assert len(said) == 2
    assert lastline.read(said[-1]).records == 0


def test_nobody_reads() -> None:
    """A pipe that nobody reads holds up neither another sink nor the end."""
    with ExitStack() as stack:
        wire = stack.enter_context(Wire())
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
        os.write(writing, bytes(select.PIPE_BUF))
        listener = stack.enter_context(wire.receiver.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        where = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        process = wire.receiver.popen(
            *(str(COMMAND), "-i", "wire0", "-t", "0.2", "--sink", where, "--sink", "-"),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        os.close(writing)
        assert "measuring" in process.stderr.readline()
        sender = wire.udp(socket.AF_INET, 7001)
        connection = stack.enter_context(listener.accept()[0])
        sent = 0
        with connection.makefile() as stream:
            for text in stream:
                if sent == 5:
                    break
                if text.startswith("vtap_agent,") and "interface=" in text:
                    sender.send(b"x")
                sent += text.startswith("vtap_flow,")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        said = process.stderr.read()
    assert "0 records lost (tcp://" in said
    assert ": undelivered " in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith(" (-)")


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe in place of standard output: where it is read, and where it is written."""
    reading, writing = os.pipe()
    monkeypatch.setattr(output, "_STANDARD_OUTPUT", writing)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_slow_reader(pipe: tuple[int, int]) -> None:
    """A payload that is larger than the pipe comes whole; the pipe itself stays a blocking one."""
    reading, writing = pipe
    expected = b"".join(map(line, range(20_000)))
    with Handing(OutputSink()) as handing:
        handing.put(range(20_000))
        found = b""
        while len(found) < len(expected):
            found += os.read(reading, 100_000)
        assert handing.account() == (booked(range(20_000)), {})
    assert expected == found
    assert os.get_blocking(writing)


def test_close_while_nobody_reads(pipe: tuple[int, int]) -> None:
    """At the end, a pipe that nobody reads holds nobody up; what is left is booked."""
    assert pipe
    with Handing(OutputSink()) as handing:
        handing.put([1])
        handing.account()
        handing.put(range(20_000))
        assert not handing.sender.drain(0.2)
        begin = time.monotonic()
        handing.sender.close()
        assert time.monotonic() - begin < 10
    assert handing.sender.account.losses() == {"undelivered": booked(range(20_000))}


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot grow has no part of a payload in it, and all of it once it can."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        (disk / "others").write_bytes(bytes(40_000))
        with (disk / "records").open("wb") as opened:
            monkeypatch.setattr(output, "_STANDARD_OUTPUT", opened.fileno())
            sink = OutputSink()
            with Handing(sink) as handing:
                handing.put(range(100))
                handing.put(range(100, 800))
                wait_for(lambda: handing.said)
                assert (disk / "records").read_bytes() == b"".join(map(line, range(100)))
                (disk / "others").unlink()
                assert handing.account() == (booked(range(800)), {})
            os.close(sink._descriptor)
        assert (disk / "records").read_bytes() == b"".join(map(line, range(800)))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_closed(tmp_path: Path) -> None:
    """Without standard output there is a sentence, and no record in a wrong place."""
    done = subprocess.run(
        ["sh", "-c", f"exec {COMMAND} -i lo - >&-"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.endswith("Error: --sink -: standard output is closed.\n")
