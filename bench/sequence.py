# SPDX-License-Identifier: Apache-2.0
"""What checking sequence numbers costs, beside a search that asks the kernel for each byte."""

from __future__ import annotations

import os
import statistics
import struct
import time
from typing import TYPE_CHECKING

from scapy.layers.inet import IP, TCP, UDP

from bench import testrun
from bench.packets import ETHER
from trapstream_vtap.clock import SystemClock
from trapstream_vtap.probes.flows.table import FlowTable

if TYPE_CHECKING:
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.probes.flows.settings import FlowSettings

TITLE = "(e) The cost of sequence numbers"
ROUNDS, REPEAT, SEARCHES = 15, 100_000, 20_000
PATTERN = 0x5EC7_0123
PAYLOAD = 1472  # of a full Ethernet frame

# Beside the flow program: one packet is repeated, so somebody must move its number on.
# `moving` only does that; `moved` goes on with the flow program, whose cost is the difference.
AROUND = """
static __always_inline void move(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	u32 *number = data + MOVED_AT;

	if ((void *)(number + 1) <= (void *)(long)skb->data_end)
		*number = htonl(ntohl(*number) + MOVED_BY);
}
int moving(struct __sk_buff *skb)
{
	move(skb);
	return -1;
}
int moved(struct __sk_buff *skb)
{
	move(skb);
	measure(skb, false, false);
	return -1;
}
int byte_by_byte(struct __sk_buff *skb)
{
	u32 word, i;

	for (i = 0; i < 1500; i++)
		if (bpf_skb_load_bytes(skb, 42 + i, &word, 4) || word == htonl(PATTERN))
			break;
	return -1;
}
"""
PROGRAMS = ("moving", "moved", "byte_by_byte")
NUMBER_AT, SEQUENCE_AT = 14 + 20 + 8, 14 + 20 + 4  # behind UDP's header; in TCP's


def main() -> None:
    """Print both tables."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _checks()
    print()
    _searches()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _udp(payload: bytes) -> bytes:
    return bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=7, dport=9) / payload)


def _tcp(payload: bytes) -> bytes:
    header = TCP(sport=7, dport=9, seq=1, flags="A")
    return bytes(ETHER / IP(src="192.0.2.1", dst="192.0.2.2") / header / payload)


def _checks() -> None:
    udp, tcp = _udp(bytes(100)), _tcp(bytes(100))
    errors = {"max_events": 0}
    print("| packet, check | with a receive timestamp, ns | without |\n|---|---|---|")
    for name, frame, step, changes in (
        ("UDP, none", udp, 1, {}),
        ("UDP, by offset, in order", udp, 1, {"offset": 0}),
        ("UDP, by offset, each an error", udp, 2, {"offset": 0, **errors}),
        ("TCP, none", tcp, 100, {}),
        ("TCP, stream, in order", tcp, 100, {"sequence": True}),
        ("TCP, stream, each a retransmission", tcp, 0, {"sequence": True, **errors}),
        ("TCP, stream, each behind a hole", tcp, 200, {"sequence": True, **errors}),
        ("TCP, packet, in order", tcp, 1, {"sequence": True, "tcp_sequence": "packet"}),
        ("UDP, jitter as in RFC 3550", udp, 1, {"smoothed_jitter": True}),
    ):
        at = NUMBER_AT if frame is udp else SEQUENCE_AT
        stamped, unstamped = _cost(frame, at, step, testrun.settings(**changes))
        print(f"| {name} | **{stamped}** | **{unstamped}** |", flush=True)


def _cost(frame: bytes, at: int, step: int, chosen: FlowSettings) -> tuple[int, int]:
    """In ns above a program that only moves the number: with a receive timestamp, without."""
    objects = _load(chosen, at, step)
    programs = objects.programs
    taken: list[list[int]] = [[], [], []]
    number = 0
    for _ in range(ROUNDS):  # in turns, so that a busy moment hits all
        for program, times, stamp in (
            ("moving", taken[0], 0),
            ("moved", taken[1], time.time_ns()),
            ("moved", taken[2], 0),
        ):
            data = bytearray(frame)
            struct.pack_into(">I", data, at, number % (1 << 32))
            times.append(testrun.run(programs[program], bytes(data), REPEAT, tstamp=stamp))
            if program == "moved":
                number += REPEAT * step  # where the next run goes on
    objects.close()
    base, stamped, unstamped = (round(statistics.median(times)) for times in taken)
    return stamped - base, unstamped - base


def _searches() -> None:
    word = struct.pack(">I", PATTERN)
    chosen = testrun.settings(offset=4, pattern=PATTERN, max_events=0)
    objects = _load(chosen, NUMBER_AT, 0)
    places = {
        f"at byte {place}": bytes(place) + word + bytes(PAYLOAD - 4 - place)
        for place in (0, 100, 1400)
    }
    places["absent, zeros"] = bytes(PAYLOAD)
    places["absent, random bytes"] = os.urandom(PAYLOAD)
    print("| pattern in 1,472 bytes | whole program, ns | one helper call per byte, search alone |")
    print("|---|---|---|")
    for name, payload in places.items():
        frame = _udp(payload)
        taken: dict[str, list[int]] = {"empty": [], "vtap_ingress": [], "byte_by_byte": []}
        for _ in range(ROUNDS):
            for program, times in taken.items():
                stamp = time.time_ns()
                times.append(testrun.run(objects.programs[program], frame, SEARCHES, tstamp=stamp))
        base, ours, theirs = (round(statistics.median(times)) for times in taken.values())
        print(f"| {name} | **{ours - base}** | {theirs - base:,} |", flush=True)
    objects.close()


def _load(chosen: FlowSettings, at: int, step: int) -> Objects:
    constants = {"MOVED_AT": at, "MOVED_BY": step, "PATTERN": PATTERN}
    more = "".join(f"#define {name} {value}\n" for name, value in constants.items()) + AROUND
    objects = testrun.load(chosen, more, PROGRAMS)
    FlowTable(chosen, objects, SystemClock())  # it tells the program the time
    return objects
