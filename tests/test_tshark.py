# SPDX-License-Identifier: Apache-2.0
"""TCP of iperf3 with real loss: sequence errors are those that tshark finds in a capture of it."""

from __future__ import annotations

import math
import socket
import subprocess
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import captured
import intervals
import loss
import pytest
import sequences
import tap
from traffic import V4, V6, Wire

from lab.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from lab.namespace import Namespace

LATEST_NS = 5_000
KNOWN_HOLES = 8  # docs/limitations.md
SEEN_BEFORE = ("retransmission", "fast_retransmission", "spurious_retransmission", "out_of_order")
ANALYSIS = ("lost_segment", *SEEN_BEFORE)


class Segment(NamedTuple):
    """A segment that is an error: its number, its time (ns), and all that is said of it."""

    number: int
    time: int
    said: frozenset[str]

    @property
    def hole(self) -> bool:
        """Whether something is missing before it; else it is old data."""
        return bool(self.said & {"hole", "lost_segment"})


def iperf(wire: Wire, address: str) -> None:
    """1.5 MB from the sender to the receiver, by a connection beside iperf3's own."""
    server = wire.receiver.popen(
        *("iperf3", "--server", "--one-off", "--bind", address, "--forceflush"),
        stdout=subprocess.PIPE,
        text=True,
    )
    with server.stdout as said:
        assert any("listening" in line for line in said)
        wire.sender.run("iperf3", "--client", address, "--bytes", "1500K", timeout=60)
        said.read()
    assert server.wait(tap.DEADLINE) == 0


def by_tshark(path: Path, address: str) -> dict[str, list[Segment]]:
    """The errors toward ADDRESS that tshark finds, by source port, in order."""
    columns = ("frame.time_epoch", "tcp.srcport", "tcp.seq_raw")
    columns += tuple(f"tcp.analysis.{name}" for name in ANALYSIS)
    toward = f"ip{'v6' * (':' in address)}.dst == {address}"
    command = ["tshark", "-n", "-r", str(path), "-Y", f"tcp and {toward}", "-T", "fields"]
    command += [word for column in columns for word in ("-e", column)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = defaultdict(list)
    for line in done.stdout.splitlines():
        time, port, number, *flags = line.split("\t")
        said = frozenset(name for name, flag in zip(ANALYSIS, flags, strict=True) if flag)
        if said:
            found[port].append(Segment(int(number), int(time.replace(".", "")), said))
    return found


def by_events(records: list[dict[str, Any]]) -> dict[str, list[Segment]]:
    """The same as streamed."""
    found = defaultdict(list)
    for event in records:
        if event["name"] == "vtap_sequence_error":
            said = frozenset((event["kind"],))
            found[event["src_port"]].append(Segment(event["received"], event["timestamp"], said))
    return found


def when_crowded(path: Path, address: str) -> dict[str | None, float]:
    """By source port, when more holes are open for the first time than have known places."""
    streams: dict[str | None, sequences.Stream] = defaultdict(lambda: sequences.Stream(0))
    crowded: dict[str | None, float] = defaultdict(lambda: math.inf)
    for packet in captured.packets(path):
        number = intervals.numbers(packet, intervals.Choices())
        if packet.flow.dst_ip == address and number:
            stream = streams[packet.flow.src_port]
            stream.take(*number)
            holes = sum(place - 1 not in stream.absent for place in stream.absent)
            if holes > KNOWN_HOLES:
                crowded.setdefault(packet.flow.src_port, packet.time)
    return crowded


@pytest.mark.parametrize(
    ("family", "lose", "every"),
    [
        pytest.param(socket.AF_INET, loss.ahead, 20, id="lost before it is seen"),
        pytest.param(socket.AF_INET6, loss.ahead, 50, id="lost before it is seen, IPv6"),
        pytest.param(socket.AF_INET, loss.behind, 30, id="lost after it was seen"),
    ],
)
def test_errors_as_tshark_finds_them(
    tmp_path: Path,
    family: int,
    lose: Callable[[Namespace, str, int], AbstractContextManager[None]],
    every: int,
) -> None:
    """Segment by segment, holes and old data are the same.

    Same definition: our `hole` is tshark's `lost_segment` (a number beyond the highest end so far,
    bare acknowledgements included), and a segment that begins before that end is old data, unless
    it is a bare acknowledgement or a keep-alive.

    Other definition: how old data is told apart. We say `out_of_order` where it fills a hole and
    `retransmission` where all of it has been seen. tshark goes by the time since the highest number
    (out_of_order within the first round trip, else a retransmission) and by duplicate
    acknowledgements (fast_retransmission), so that the same segment may get either name. Hence its
    four together are our two together. What it calls spurious the receiver has acknowledged
    before: that can fill no hole, so it is a `retransmission` of ours as well, as long as the
    places of all holes are known (docs/limitations.md).

    The segments of a loss that happens behind us have all been seen: no holes, only
    retransmissions.
    """
    path = tmp_path / "both.pcap"
    address = V4[1] if family == socket.AF_INET else V6[1]
    options = ("--sequence", "-i", "wire0", "--max-events", "100000")
    with (
        Wire() as wire,
        Capture(wire.receiver, "wire0", path, filter="tcp") as capture,
        tap.Tap(wire.receiver, *options) as tapped,
        lose(wire.receiver, "wire0", every),
    ):
        iperf(wire, address)
        wire.settle()
        capture.stop()
        records = tapped.stop()
    expected, found = by_tshark(path, address), by_events(records)
    crowded = when_crowded(path, address)
    assert found.keys() == expected.keys()
    for port, segments in expected.items():
        mine = found[port]
        assert [(s.number, s.hole) for s in mine] == [(s.number, s.hole) for s in segments]
        for ours, theirs in zip(mine, segments, strict=True):
            assert abs(ours.time - theirs.time) <= LATEST_NS
            if "spurious_retransmission" in theirs.said and ours.time < crowded[port]:
                assert "retransmission" in ours.said
    kinds = Counter(kind for segments in found.values() for s in segments for kind in s.said)
    if lose is loss.ahead:
        assert kinds["hole"] > 5
        assert kinds["out_of_order"] > 5
    else:
        assert kinds["retransmission"] > 5
        assert kinds.keys() == {"retransmission"}
