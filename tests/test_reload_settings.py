# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, setting by setting: each is taken wholly, or refused by name."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from traffic import Wire
from waiting import wait_for

from lab.command import VtapStream
from trapstream_vtap.settings.option import Reload
from trapstream_vtap.settings.settings import classes, own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NS = 10**9
PORT = 7001

REFUSED: dict[str, tuple[str, Any]] = {
    "sinks": ("sink", "file:other"),
    "device": ("device_ip", "192.0.2.77"),
    "format": ("format", "influx"),
    "timestamp": ("timestamp", "rfc3339"),
    "batch_size": ("batch_size", 77),
    "directions": ("direction", "both"),
    "hook": ("hook", "socket"),
    "promiscuous": ("promiscuous", True),
    "user": ("user", "daemon"),
    "max_datagram": ("max_datagram", 700),
    "max_memory": ("max_memory", 7),
    "token_file": ("token_file", "token"),
    "kafka_config": ("kafka_config", "kafka"),
    "file_size": ("file_size", 7),
    "file_age": ("file_age", 7),
    "file_keep": ("file_keep", 7),
    "spool": ("spool", "spool"),
    "spool_size": ("spool_size", 7),
    "duration": ("duration", 7),
    "health": ("health", "127.0.0.1:7"),
    "metrics": ("metrics", "127.0.0.1:7"),
    "metrics_flows": ("metrics_flows", 7),
    "log_data": ("LOG_DATA", True),
    "probes": ("probe", ["flows", "drops"]),
    "selected": ("interface", "lo"),
    "unique": ("unique", 7),
    "drop_table_size": ("drop_table_size", 77),
    "trap_tags": ("trap_tags", "full"),
}
"""By setting: the file's key, and a value."""

INSEPARABLE = {
    "tls": {"sink": "tcp://127.0.0.1:9", "tls": True},
    "tls_ca": {"sink": "tcp://127.0.0.1:9", "tls": True, "tls_ca": "ca"},
    "tls_cert": {"sink": "tcp://127.0.0.1:9", "tls": True, "tls_cert": "cert"},
    "tls_key": {"sink": "tcp://127.0.0.1:9", "tls": True, "tls_key": "key"},
    "drop_reasons": {"probe": ["drops"], "drop_reasons": "NO_SOCKET"},
}
"""Those that need others beside them."""

SAID = {"selected": "interfaces", "promiscuous": "promiscuous mode"}


def number(value: int) -> bytes:
    """A payload with two numbers."""
    return struct.pack(">II", value, 7) + bytes(40)


def flow(run: Run, **wanted: Any) -> bool:
    """Whether there has been a record, since the file was read again, that says so."""
    return any(
        all(record.get(name) == value for name, value in wanted.items()) for record in run.flows()
    )


def has(name: str) -> Callable[[Run], bool]:
    """Whether a record has that field."""
    return lambda run: any(name in record for record in run.flows())


def on_grid(seconds: float) -> Callable[[Run], bool]:
    """Whether the latest records end on lines of that grid."""

    def check(run: Run) -> bool:
        latest = sorted({record["timestamp"] for record in run.flows()})[-4:]
        return len(latest) == 4 and all(end % round(seconds * NS) == 0 for end in latest)

    return check


SEQUENCE = {"sequence_offset": 0}
TAKEN: dict[str, tuple[dict[str, Any], Callable[[Run], bool]]] = {
    "rules": (
        {"RULES": [f"- - - {PORT + 1} udp"]},
        lambda run: run.account("filtered_packets") > 5,
    ),
    "hidden": (
        {"DISPLAY": {"Throughput": "False"}},
        lambda run: any("throughput_bytes_per_second" not in r for r in run.flows()),
    ),
    "verbose": ({"verbose": True}, lambda run: "packets seen; " in run.command.said),
    "key": ({"key": "src_ip"}, lambda run: any("dst_ip" not in r for r in run.flows())),
    "decapsulate": (
        {"decapsulate": "ipip", "key": "src_ip,tunnel_id"},
        lambda run: flow(run, src_ip="10.9.9.9"),
    ),
    "bits": ({"bits": True}, has("throughput_bits_per_second")),
    "flow_table_size": ({"flow_table_size": 4321}, lambda run: 4321 in run.map_sizes()),
    "interval": ({"interval": 0.3}, on_grid(0.3)),
    "jitter_interval": ({"jitter_interval": 0.4}, has("jitter_interval_s")),
    "stop_gap": (
        {"stop_gap": 0.001},
        lambda run: any("jitter_ms" not in r and r["packets"] > 3 for r in run.flows()),
    ),
    "expected_gap": ({"expected_gap": 5}, has("iat_deviation_ms")),
    "smoothed_jitter": ({"smoothed_jitter": True}, has("jitter_rfc3550_ms")),
    "sequence": ({"sequence": True}, has("seq_received")),
    "tcp_sequence": (
        {"sequence": True, "tcp_sequence": "packet"},
        lambda run: any(r.get("seq_missing") and not r["seq_missing"] % 99 for r in run.flows()),
    ),
    "offset": ({"sequence_offset": 0}, lambda run: flow(run, protocol="udp", seq_duplicate=0)),
    "pattern": (
        {"sequence_offset": 0, "sequence_pattern": "00000007"},
        lambda run: flow(run, protocol="udp", seq_last=7),
    ),
    "sequence_bits": (
        {"sequence_offset": 4, "sequence_bits": 16},
        lambda run: flow(run, protocol="udp", seq_last=0),
    ),
    "sequence_order": (
        {"sequence_offset": 4, "sequence_order": "little"},
        lambda run: flow(run, protocol="udp", seq_last=7 << 24),
    ),
    "sequence_threshold": (
        {"sequence": True, "sequence_threshold": 50},
        lambda run: any(r.get("seq_big") and not r["seq_small"] for r in run.flows()),
    ),
    "max_events": (
        {"sequence_offset": 4, "max_events": 0},
        lambda run: run.account("events_suppressed") > 5 and not run.errors(),
    ),
    "latency_stages": (
        {"latency_stages": "stack,ip"},
        lambda run: any(r.get("stage") == "ip" for r in run.records()),
    ),
    "latency_by": (
        {"latency_by": "dst_port"},
        lambda run: any(r.get("dst_port") == str(PORT) for r in run.latencies()),
    ),
    "latency_table_size": (
        {"latency_by": "dst_port", "latency_table_size": 76},
        lambda run: 77 in run.map_sizes(),  # and one for all others
    ),
    "rtt_key": (
        {"rtt_key": "dst_port"},
        lambda run: any(r.get("dst_port") == "6002" and "dst_ip" not in r for r in run.trips()),
    ),
    "rtt_tcp": (
        {"rtt_tcp": "timestamp"},  # of which the segments have none
        lambda run: run.asked(latest=80) > 2 and not run.trips(latest=80),
    ),
    "rtt_table_size": ({"rtt_table_size": 1234}, lambda run: 1234 in run.map_sizes()),
}
"""By setting: what the file says, and what then shows that it is taken."""


class Run:
    """A vtap-stream with everything in its file, and steady traffic of several kinds."""

    def __init__(self, directory: Path) -> None:
        self.path, self.output = directory / "vtap.json", directory / "records"
        self.base = {
            "interface": "wire0",
            "probe": "flows,latency,rtt",
            "sink": f"file:{self.output}",
            "format": "json",
            "interval": 0.2,
            "user": "root",
        }
        self.write({})
        self.wire = Wire()
        self.command = VtapStream(self.wire.receiver, "-c", str(self.path))
        self.command.wait_until_measuring()
        self._sender = self.wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._sender.bind(("wire0", 0))
        self._count = self._from = 0

    def close(self) -> None:
        """End it."""
        self.command.stop()
        self._sender.close()
        self.command.__exit__()
        self.wire.__exit__()

    def write(self, changes: dict[str, Any]) -> None:
        """What the file says from now on."""
        self.path.write_text(json.dumps({**self.base, **changes}))

    def reread(self, changes: dict[str, Any]) -> str:
        """Have the file read with CHANGES; what is said of it."""
        self.write(changes)
        before = len(self.command.said)
        self._from = self.output.stat().st_size
        os.kill(self.command.pid, signal.SIGHUP)
        wait_for(lambda: "the configuration " in self.command.said[before:])
        return self.command.said[before:]

    def send(self) -> None:
        """A packet of each kind: UDP with numbers, TCP, with an answer, too, IP in IP."""
        self._count += 1
        head = bytes.fromhex("0200000000020200000000010800")

        def ip(protocol: int, rest: bytes, source: bytes = bytes((198, 51, 100, 1))) -> bytes:
            about = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(rest), 0, 0, 64, protocol, 0)
            return about + source + bytes((198, 51, 100, 2)) + rest

        data = number(self._count)
        datagram = struct.pack(">HHHH", 5000, PORT, 8 + len(data), 0) + data
        segment = struct.pack(">HHIIBBHHH", 5001, PORT, self._count * 100, 0, 0x50, 16, 0, 0, 0)
        inner = ip(17, datagram, bytes((10, 9, 9, 9)))
        at = self._count * 10
        asks = struct.pack(">HHIIBBHHH", 6001, 6002, at, 1, 0x50, 16, 0, 0, 0) + bytes(10)
        answers = struct.pack(">HHIIBBHHH", 6002, 6001, 1, at + 10, 0x50, 16, 0, 0, 0)
        back = bytearray(ip(6, answers))
        back[12:20] = back[16:20] + back[12:16]
        for packet in (ip(17, datagram), ip(6, segment), ip(4, inner), ip(6, asks), bytes(back)):
            self._sender.send(head + packet)

    def records(self) -> list[dict[str, Any]]:
        """All since the file was read again."""
        text = self.output.read_bytes()[self._from :]
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]

    def flows(self) -> list[dict[str, Any]]:
        """Those of flows."""
        return [record for record in self.records() if record["name"] == "vtap_flow"]

    def latencies(self) -> list[dict[str, Any]]:
        """Those of receive latency."""
        return [record for record in self.records() if record["name"] == "vtap_latency"]

    def trips(self, latest: int = 1 << 30) -> list[dict[str, Any]]:
        """Those of round-trip times, among the latest."""
        return [record for record in self.records()[-latest:] if record["name"] == "vtap_rtt"]

    def asked(self, latest: int) -> int:
        """In how many of the latest records what is answered has been counted."""
        return sum(record.get("dst_port") == "6002" for record in self.records()[-latest:])

    def errors(self) -> list[dict[str, Any]]:
        """Those of sequence errors."""
        return [record for record in self.records() if record["name"] == "vtap_sequence_error"]

    def account(self, name: str) -> Any:
        """What the interface's latest account says of that."""
        found = [r for r in self.records() if r["name"] == "vtap_agent" and "interface" in r]
        return found[-1].get(name) if found and name in found[-1] else 0

    def map_sizes(self) -> set[int]:
        """Entries of the kernel's tables that it has open."""
        found = set()
        for info in Path(f"/proc/{self.command.pid}/fdinfo").iterdir():
            for line in info.read_text().splitlines():
                if line.startswith("max_entries:"):
                    found.add(int(line.split()[1]))
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One for all."""
    made = Run(tmp_path_factory.mktemp("reload"))
    yield made
    made.close()


def test_each_setting_is_tried() -> None:
    """A setting that is new is in one of the tables: nobody forgets to say what a reload does."""
    derived = {"interfaces", "gone", "transport", "guest"}
    elsewhere = {"guests"}  # in test_rtt.py
    declared = {name: made.reload for kind in classes() for name, made in own(kind)}
    assert declared.keys() == {*REFUSED, *INSEPARABLE, *TAKEN} | derived | elsewhere
    taken = {name for name, reload in declared.items() if reload is not Reload.FIXED}
    assert taken == {*TAKEN} | derived


@pytest.mark.parametrize("name", [*REFUSED, *INSEPARABLE])
def test_refused(run: Run, tmp_path: Path, name: str) -> None:
    """By name, and the old program goes on."""
    changes = INSEPARABLE.get(name) or dict([REFUSED[name]])
    (tmp_path / "token").write_text("x")
    words = {"file:other": f"file:{tmp_path}/other"}
    words |= {word: str(tmp_path / word) for word in ("token", "spool", "kafka")}
    changes = {
        key: words.get(value, value) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    said = run.reread(changes)
    assert "the configuration stays as it was: a running program cannot change its " in said
    assert SAID.get(name, name.replace("_", " ")) in said
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", TAKEN)
def test_taken(run: Run, name: str) -> None:
    """Wholly: what comes behind it is as if it had been there from the start."""
    changes, shows = TAKEN[name]
    for _ in range(3):
        run.send()
    assert not shows(run)
    assert "was read again" in run.reread(changes)

    def sent_and_shown() -> bool:
        run.send()
        time.sleep(0.02)
        return shows(run)

    wait_for(sent_and_shown)
    assert "was read again" in run.reread({})
    time.sleep(0.3)


def test_beside_drops(tmp_path: Path) -> None:
    """What the programs for drops are made from, too, is refused where there are any."""
    path = tmp_path / "vtap.json"
    with Wire() as wire:
        path.write_text('{"interface": "wire0", "probe": "flows,drops"}')
        with VtapStream(wire.receiver, "-c", str(path), "-") as command:
            command.wait_until_measuring()
            for changes, words in (
                ({"interval": 3}, "interval"),
                ({"max_events": 7}, "max events"),
            ):
                base = {"interface": "wire0", "probe": "flows,drops"}
                path.write_text(json.dumps({**base, **changes}))
                os.kill(command.pid, signal.SIGHUP)
                wait_for(lambda words=words: f"cannot change its {words}:" in command.said)
            command.stop()
