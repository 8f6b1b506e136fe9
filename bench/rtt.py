# SPDX-License-Identifier: Apache-2.0
"""What measuring round-trip times costs a packet, beside an empty program."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

from bench import testrun
from bench.testrun import EMPTY
from lab import loading
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.flows import FLOWS
from trapstream_vtap.probes.rtt import RTT, program
from trapstream_vtap.probes.rtt.guest import guest_of
from trapstream_vtap.probes.rtt.settings import RttSettings

TITLE = "(l) Round-trip times: a packet above an empty program"
ROUNDS = 40
REPEAT = 50_000
HOW = ("sequence", "timestamp")
ONE, OTHER = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
ACK, PSH = 0x10, 0x08


def main() -> None:
    """Print the tables."""
    frames = {
        "TCP, data": (tcp(1000, 100),),
        "TCP, an acknowledgement": (tcp(1, 0, 900, back=True),),
        "UDP, which is not followed": (udp(7001),),
    }
    print("| packet | empty program, ns | above it | by TCP's timestamps |")
    print("|---|---|---|---|")
    both = [_loaded(RttSettings(interfaces=choose(("lo",))[0], rtt_tcp=how)) for how in HOW]
    for name, (one,) in frames.items():
        times = _least(
            *((programs, "rtt_egress", one) for programs in both), (both[0], "empty", one)
        )
        print(f"| {name} | {times[2]} | **{times[0] - times[2]}** | {times[1] - times[2]} |")
    answered = min(_in_turns(both[0]["rtt_egress"], both[0]["rtt_ingress"]) for _ in range(3))
    plain = min(_in_turns(both[0]["empty"], both[0]["empty"]) for _ in range(3))
    print(f"| TCP, each answers the one before | {plain:.0f} | **{answered - plain:.0f}** | - |")
    print("\n| packet, in the flow program | without, ns | with round-trip times | more |")
    print("|---|---|---|---|")
    chosen = testrun.settings(directions=tuple(Direction), probes=("flows",))
    guest = guest_of(RttSettings(interfaces=choose(("lo",))[0]))
    flows = []
    for each in (chosen, replace(chosen, guest=guest)):
        flows.append(testrun.load(each))
        FLOWS.load(each, flows[-1], SystemClock(), {})  # tells it which interfaces there are
    stamp = time.time_ns()
    for name, (one,) in frames.items():
        without, there = _least(*((f.programs, "vtap_ingress", one) for f in flows), tstamp=stamp)
        print(f"| {name} | {without} | {there} | **{there - without}** |")


def _loaded(chosen: RttSettings) -> dict[str, int]:
    """The programs for CHOSEN, and one that does nothing."""
    wanted = program.source(chosen)
    empty = Program("empty", "SCHED_CLS")
    objects = loading.load(Source(wanted.text + EMPTY, (*wanted.programs, empty), wanted.maps))
    RTT.load(chosen, objects, SystemClock(), {})  # tells it which interfaces there are
    return objects.programs


def _least(*wanted: tuple[dict[str, int], str, bytes], tstamp: int = 0) -> list[int]:
    """Times, ns, of a packet; the least of many rounds in turns."""
    found = [1 << 30] * len(wanted)
    for _ in range(ROUNDS):
        for number, (programs, name, one) in enumerate(wanted):
            took = testrun.run(programs[name], one, REPEAT, tstamp=tstamp)
            found[number] = min(found[number], took)
    return found


def _in_turns(leaving: int, arriving: int) -> float:
    """Data and its acknowledgement, each with the next number: ns a packet, the median."""
    times = []
    for number in range(2000):
        at = 1 + 100 * number
        answer = tcp(1, 0, at + 100, back=True)
        times.append(testrun.run(leaving, tcp(at, 100)) + testrun.run(arriving, answer))
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
