# SPDX-License-Identifier: Apache-2.0
"""What measuring round-trip times costs a packet, beside an empty program."""

from __future__ import annotations

import struct

from bench import testrun
from bench.testrun import EMPTY
from lab import loading
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.rtt import RTT, program
from trapstream_vtap.probes.rtt.settings import RttSettings

TITLE = "(l) Round-trip times: a packet above an empty program"
ROUNDS = 9
REPEAT = 200_000
ONE, OTHER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
ACK, PSH = 0x10, 0x08


def main() -> None:
    """Print the table."""
    with_both = (
        ("TCP, data that is not the first", (tcp(1000, 100),)),
        ("TCP, an acknowledgement that answers nothing", (tcp(1, 0, 900, back=True),)),
        ("TCP, a question and its answer, each", (tcp(0, 100), tcp(1, 0, 0, back=True))),
        ("UDP, which is not followed", (udp(7001),)),
    )
    print("| packet | empty program, ns | above it |")
    print("|---|---|---|")
    for key in ("sequence", "timestamp"):
        chosen = RttSettings(interfaces=choose(("lo",))[0], rtt_tcp=key)
        wanted = program.source(chosen)
        empty = Program("empty", "SCHED_CLS")
        objects = loading.load(Source(wanted.text + EMPTY, (*wanted.programs, empty), wanted.maps))
        running = RTT.load(chosen, objects, SystemClock(), {})
        for name, frames in with_both:
            ours, others = measured(objects.programs, frames)
            how = "" if key == "sequence" else ", by timestamps"
            print(f"| {name}{how} | {others:.0f} | **{ours - others:.0f}** |")
        running.close()


def measured(programs: dict[str, int], frames: tuple[bytes, ...]) -> tuple[float, float]:
    """Times, ns, of a packet: ours, and the empty program; the least of several rounds."""
    ours: list[float] = []
    others: list[float] = []
    for _ in range(ROUNDS):
        if len(frames) == 1:
            testrun.run(programs["rtt_egress"], frames[0])
            ours.append(testrun.run(programs["rtt_egress"], frames[0], REPEAT))
            others.append(testrun.run(programs["empty"], frames[0], REPEAT))
            continue
        ours.append(in_turns(programs["rtt_egress"], programs["rtt_ingress"]))
        others.append(in_turns(programs["empty"], programs["empty"]))
    return min(ours), min(others)


def in_turns(leaving: int, arriving: int) -> float:
    """Data and its acknowledgement, each with the next number."""
    times = []
    for number in range(2000):
        at = 1 + 100 * number
        times.append(
            testrun.run(leaving, tcp(at, 100))
            + testrun.run(arriving, tcp(1, 0, at + 100, back=True))
        )
    return sorted(times)[len(times) // 2] / 2


def tcp(sequence: int, payload: int, acknowledges: int = 1, *, back: bool = False) -> bytes:
    """A segment with timestamps."""
    ports = (80, 40000) if back else (40000, 80)
    options = bytes((1, 1, 8, 10)) + struct.pack("!II", sequence + 7, acknowledges)
    header = struct.pack("!HHIIBBHHH", *ports, sequence, acknowledges, 0x80, ACK | PSH, 500, 0, 0)
    return frame(6, header + options + bytes(payload), back=back)


def udp(port: int) -> bytes:
    """A datagram of 100 bytes."""
    return frame(17, struct.pack("!HHHH", 40000, port, 108, 0) + bytes(100))


def frame(protocol: int, content: bytes, *, back: bool = False) -> bytes:
    """IPv4 in Ethernet."""
    ends = (OTHER, ONE) if back else (ONE, OTHER)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0, 64, protocol, 0)
    return bytes(12) + b"\x08\x00" + ip + ends[0] + ends[1] + content


if __name__ == "__main__":
    main()
