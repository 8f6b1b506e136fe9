# SPDX-License-Identifier: Apache-2.0
"""A probe is added by its folder, its C and one line of the registry: everything else follows."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import scraping
import tap
from traffic import Wire
from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DEMO = Path(__file__).parent / "support" / "demo_probe"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one probe more."""
    root = tmp_path_factory.mktemp("house")
    for name in ("trapstream_vtap", "lab"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    (root / "docs").mkdir()
    package = root / "trapstream_vtap"
    (package / "probes" / "protocols").mkdir()
    shutil.copy(DEMO / "__init__.py", package / "probes" / "protocols")
    (package / "bpf" / "protocols").mkdir()
    shutil.copy(DEMO / "protocols.c", package / "bpf" / "protocols")
    registry = package / "probes" / "__init__.py"
    text = registry.read_text()
    text = text.replace(',\n)\n"""In the order', ',\n    PROTOCOLS,\n)\n"""In the order')
    line = "from trapstream_vtap.probes.protocols import PROTOCOLS\n\nif TYPE_CHECKING"
    registry.write_text(text.replace("\nif TYPE_CHECKING", line, 1))
    return root


def ours(house: Path, *words: str) -> tuple[str, ...]:
    """A command line of Python in the HOUSE."""
    return ("env", f"PYTHONPATH={house}", f"CACHE_DIRECTORY={house}", sys.executable, "-P", *words)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two namespaces."""
    with Wire() as wire:
        yield wire


def test_it_measures(house: Path, wire: Wire, tmp_path: Path) -> None:
    """It streams, is scraped, is read again, and its account closes, with flows beside it."""
    path = tmp_path / "vtap.json"
    file = {"probe": ["flows", "protocols"], "interface": "wire0", "interval": 0.2}
    path.write_text(json.dumps(file))
    port = free_port()
    options = ("--user", "root", "-c", str(path), "--metrics", f"127.0.0.1:{port}")
    command = ours(house, "-m", "trapstream_vtap")
    with tap.Tap(wire.receiver, *options, command=command) as tapped:
        sender = wire.udp(socket.AF_INET, 7001)
        for _ in range(30):
            sender.send(b"x" * 100)
        wire.settle()
        wait_for(lambda: tapped.latest("protocol", "17"))
        found = scraping.scrape(wire.receiver, port)
        assert scraping.total(found, "vtap_protocol_handed_packets_total", protocol="17") == 30
        wait_for(lambda: seen(scraping.scrape(wire.receiver, port)) >= 30)
        path.write_text(json.dumps({**file, "smallest": 500}))
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("was read again, 0 rules, smallest 500" in s for s in tapped.said))
        for _ in range(20):
            sender.send(b"x" * 100)
        for _ in range(10):
            sender.send(b"x" * 600)
        wire.settle()
        records = tapped.stop()
    sums = sum(r["packets"] for r in records if r.get("protocol") == "17")
    assert sums == 40
    account = [r for r in records if r.get("probe") == "protocols"][-1]
    assert account["handed_packets"] >= 40
    assert account["left_packets"] >= 20
    assert account["held_packets"] == 0
    assert account["seen_packets"] == account["handed_packets"] + account["left_packets"]
    flows = sum(r["packets"] for r in tap.flows(records) if r["protocol"] == "udp")
    assert flows == 60
    assert any(" packets by protocol; " in said for said in tapped.said)


def seen(found: object) -> float:
    """What the account says that it has seen."""
    return scraping.total(found, "vtap_protocols_seen_packets_total")  # type: ignore[arg-type]


def free_port() -> int:
    """Of the loopback interface, wherever it is."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_it_is_everywhere(house: Path, tmp_path: Path) -> None:
    """It is in --help, in the schema of the file and in the pages, and bad values are refused."""
    said = subprocess.run(
        ours(house, "-m", "trapstream_vtap", "--help"), capture_output=True, text=True, check=True
    )
    words = " ".join(said.stdout.split())
    assert "protocols (packets by protocol)" in words
    assert "Protocols: --smallest BYTES Shorter packets are left out." in words
    subprocess.run(ours(house, "-m", "lab.reference"), cwd=house, check=True)
    pages = {path.name: path.read_text() for path in (house / "docs").iterdir()}
    assert json.loads(pages["vtap.schema.json"])["properties"]["smallest"]["maximum"] == 9000
    assert "| `--smallest` `BYTES` | Shorter packets are left out. | 0 |" in pages["options.md"]
    assert "## `vtap_protocols`" in pages["fields.md"]
    assert "| `vtap_protocol_handed_packets_total` |" in pages["metrics.md"]
    assert "vtap_protocols" in pages["records.schema.json"]
    before = {path.name: path.read_text() for path in (ROOT / "docs").iterdir() if path.is_file()}
    for name in ("fields.md", "metrics.md", "options.md"):
        lost = {*before[name].splitlines()} - {*pages[name].splitlines()}
        assert {
            line for line in lost if "protocols (packets" not in line and "--probe" not in line
        } == set()
    bad = tmp_path / "bad.json"
    bad.write_text('{"smallest": "x"}')
    for arguments, sentence in (
        (("-c", str(bad), "-"), 'smallest is "x": give a whole number, in bytes.'),
        (("--smallest", "5", "-"), "--smallest is for --probe protocols."),
    ):
        command = ours(house, "-m", "trapstream_vtap", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_so_few_lines() -> None:
    """What it takes is this folder."""
    lines = sum(len(path.read_text().splitlines()) for path in DEMO.iterdir() if path.is_file())
    assert lines < 300
