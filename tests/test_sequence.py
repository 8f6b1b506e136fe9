# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers: crafted packets through the program, against a model in plain Python."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
import sequences
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numbering import (
    ACK,
    FIN,
    PATTERN,
    RST,
    SYN,
    THRESHOLD,
    Checker,
    agree,
    errors,
    icmp,
    ip,
    plain,
    tcp,
    udp,
)
from program import NOT_LINEAR, Wire

from bench import testrun
from trapstream_vtap.bpf.attach import Direction
from trapstream_vtap.probes.flows.settings import SEQUENCE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator

NS = 10**9
MORE_FRAGMENTS = 0x2000
properties = hypothesis_settings(derandomize=True, deadline=None, max_examples=150)


@pytest.fixture(scope="module")
def numbered() -> Iterator[Checker]:
    """Numbers at offset 3; TCP streams."""
    checker = Checker(offset=3)
    yield checker
    checker.program.close()


@pytest.fixture(scope="module")
def searching() -> Iterator[Checker]:
    """Numbers 6 bytes behind the first byte of the pattern; TCP counts packets."""
    checker = Checker(offset=6, pattern=PATTERN, tcp_sequence="packet")
    yield checker
    checker.program.close()


steps = st.one_of(
    st.just(1), st.integers(-40, 40), st.integers(-(1 << 31), 1 << 31), st.sampled_from((0, 11))
)


@properties
@given(start=st.integers(0, (1 << 32) - 1), moves=st.lists(steps, max_size=40))
def test_numbers_as_the_model(numbered: Checker, start: int, moves: list[int]) -> None:
    """Whatever numbers come, counts, events and what is missing are those of the model."""
    model, expected, source = sequences.Numbers(THRESHOLD), [], numbered.fresh()
    number = start
    for move in (0, *moves):
        number = (number + move) & sequences.MASK
        numbered.pass_(udp(b"abc" + struct.pack(">I", number), source))
        expected.append(model.take(number))
    agree(numbered, model, [error for error in expected if error])


segments = st.one_of(
    st.tuples(st.just(0), st.integers(0, 40), plain),
    st.tuples(st.integers(-60, 30), st.integers(0, 40), st.sampled_from(("", "", "", "fragment"))),
    st.tuples(st.just(-1), st.integers(0, 3), st.sampled_from(("", "fin"))),
    st.tuples(st.just(0), st.just(1), plain),
    st.tuples(st.sampled_from((-(1 << 31), -(1 << 30) - 1)), st.integers(0, 2), plain),
    st.tuples(st.sampled_from(((1 << 30) + 1, (1 << 31) - 1)), st.integers(0, 2), plain),
    st.tuples(st.just(0), st.integers(0, 2), st.sampled_from(("syn", "fin", "syn again"))),
)


@properties
@given(
    start=st.one_of(st.integers(0, (1 << 32) - 1), st.integers((1 << 32) - 100, (1 << 32) - 1)),
    moves=st.lists(segments, max_size=7),
)
def test_streams_as_the_model(
    numbered: Checker, start: int, moves: list[tuple[int, int, str]]
) -> None:
    """Holes, fillings, overlaps, acknowledgements, in any order and over the wrap: as the model."""
    model, expected, source = sequences.Stream(THRESHOLD), [], numbered.fresh()
    for back, length, kind in ((0, 1, ""), *moves):
        place = start if model.last is None else (model.last + back) & sequences.MASK
        if kind == "syn again":
            place = model.initial
        flags = ACK | {"fin": FIN, "syn": SYN, "syn again": SYN}.get(kind, 0)
        marks, fragment = kind not in ("", "fragment"), kind == "fragment"
        numbered.pass_(tcp(place, length, flags, source, MORE_FRAGMENTS if fragment else 0))
        error = model.take(place, length + marks, marks, syn=bool(flags & SYN), fragment=fragment)
        expected.append(error)
    agree(numbered, model, [error for error in expected if error])


def test_example_of_numbers(numbered: Checker) -> None:
    """The example in docs/sequence.md, packet by packet."""
    model = sequences.Numbers(THRESHOLD)
    rows = [
        (100, None, 0),
        (101, None, 0),
        (104, "small", 2),
        (102, "reverse", 1),
        (103, None, 0),
        (105, "small", 0),
        (105, "duplicate", 0),
        (200, "big", 94),
    ]
    source = numbered.fresh()
    for number, kind, missing in rows:
        numbered.pass_(udp(b"abc" + struct.pack(">I", number), source))
        error = model.take(number)
        assert (error.kind if error else None, model.missing) == (kind, missing)
        (record,) = numbered.close()
        assert record["seq_missing"] == missing
        assert [e.kind for e in errors(numbered.events())] == ([kind] if kind else [])


def test_example_of_a_stream(numbered: Checker) -> None:
    """The example in docs/sequence.md: connection, hole, filling, keep-alive, retransmission."""
    rows = [
        (tcp(999, 0, SYN, 77), [], 0),
        (tcp(1000, 100, ACK, 77), [], 0),
        (tcp(1100, 0, ACK, 77), [], 0),
        (tcp(1300, 100, ACK, 77), ["hole"], 200),
        (tcp(1100, 100, ACK, 77), ["out_of_order"], 100),
        (tcp(1200, 100, ACK, 77), ["out_of_order"], 0),
        (tcp(1399, 0, ACK, 77), [], 0),
        (tcp(1399, 1, ACK, 77), [], 0),
        (tcp(1300, 100, ACK, 77), ["retransmission"], 0),
        (tcp(5, 0, RST, 77), [], 0),
        (tcp(1400, 0, FIN | ACK, 77), [], 0),
        (tcp(1401, 0, ACK, 77), [], 0),
        (tcp(999, 0, SYN, 77), ["retransmission"], 0),
        (tcp(700_000, 0, SYN, 77), [], 0),
        (tcp(700_001, 10, ACK, 77), [], 0),
        (tcp(700_011, 1, ACK, 77), [], 0),
        (tcp(700_011, 1, ACK, 77), [], 0),
        (tcp(700_011, 100, ACK, 77), [], 0),
        (tcp(700_111, 80, ACK, 77, MORE_FRAGMENTS), [], 0),
        (tcp(700_211, 100, ACK, 77), [], 0),
        (tcp(3_000_000_000, 100, ACK, 77), [], 0),
    ]
    for number, (frame, kinds, missing) in enumerate(rows):
        numbered.pass_(frame)
        (record,) = numbered.close()
        assert [e.kind for e in errors(numbered.events())] == kinds, number
        assert record["seq_missing"] == missing, number


STREAMS = {
    "the SYN once more, and what follows it": [
        (tcp(999, 0, SYN), [], 0),
        (tcp(1000, 100), [], 0),
        (tcp(1100, 100), [], 0),
        (tcp(999, 0, SYN), ["retransmission"], 0),
        (tcp(1200, 100), [], 0),
        (tcp(1100, 100), ["retransmission"], 0),
    ],
    "the SYN late": [
        (tcp(1000, 100), [], 0),
        (tcp(999, 0, SYN), ["out_of_order"], 0),
        (tcp(1100, 100), [], 0),
        (tcp(999, 0, SYN), ["retransmission"], 0),
    ],
    "TCP Fast Open, and falling back from it (RFC 7413 section 4.1.3)": [
        (tcp(999, 100, SYN), [], 0),
        (tcp(999, 0, SYN), ["retransmission"], 0),
        (tcp(1000, 0), [], 0),
        (tcp(1000, 100), ["retransmission"], 0),
        (tcp(1100, 100), [], 0),
    ],
    "another connection on the same ports": [
        (tcp(999, 0, SYN), [], 0),
        (tcp(1000, 100), [], 0),
        (tcp(1200, 100), ["hole"], 100),
        (tcp(5000, 0, SYN), [], 100),
        (tcp(5001, 100), [], 100),
        (tcp(5101, 100), [], 100),
    ],
    "zero-window probes": [
        (tcp(1000, 100), [], 0),
        (tcp(1100, 1), [], 0),
        (tcp(1100, 1), [], 0),
        (tcp(1101, 0), [], 0),
        (tcp(1100, 1), [], 0),
        (tcp(1100, 100), [], 0),
        (tcp(1199, 100), ["retransmission"], 0),
    ],
    "segments in IP fragments": [
        (tcp(1000, 80, fragment=MORE_FRAGMENTS), [], 0),
        (tcp(1148, 80, fragment=MORE_FRAGMENTS), [], 0),
        (tcp(1296, 0), [], 0),
        (tcp(1396, 100), ["hole"], 100),
        (tcp(1296, 80, fragment=MORE_FRAGMENTS), ["out_of_order"], 0),
        (tcp(1296, 80, fragment=MORE_FRAGMENTS), ["retransmission"], 0),
        (tcp(1496, 100), [], 0),
        (tcp(1496, 80, fragment=MORE_FRAGMENTS), ["retransmission"], 0),
        (tcp(1596, 100), [], 0),
    ],
    "a first fragment that ends within the header (RFC 791 section 3.2)": [
        (tcp(1000, 100), [], 0),
        (ip(6, struct.pack(">HHI", 7, 9, 1100), 1, MORE_FRAGMENTS), [], 0),
        (tcp(1200, 100), [], 0),
    ],
    "behind a fragment, farther than a datagram reaches": [
        (tcp(1000, 80, fragment=MORE_FRAGMENTS), [], 0),
        (tcp(1080 + 65536, 10), ["hole"], 65536),
    ],
    "numbers of another stream": [
        (tcp(1000, 100), [], 0),
        (tcp(1200, 100), ["hole"], 100),
        (tcp(3_000_000_000, 100), [], 100),
        (tcp(3_000_000_100, 100), [], 100),
        (tcp(1300, 100), [], 100),
    ],
}


@pytest.mark.parametrize("story", STREAMS)
def test_stream(numbered: Checker, story: str) -> None:
    """What happens on real links to streams of which nothing, or only that, is lost."""
    restarts = 0
    source = struct.pack(">I", numbered.fresh())
    for number, (frame, kinds, missing) in enumerate(STREAMS[story]):
        numbered.pass_(frame[:26] + source + frame[30:])
        (record,) = numbered.close()
        assert [e.kind for e in errors(numbered.events())] == kinds, number
        assert record["seq_missing"] == missing, number
        restarts += record["seq_restarts"]
    assert restarts == 2 * (story == "numbers of another stream")


WIDTHS = [(bits, order) for bits in SEQUENCE_BITS for order in ("big", "little")]


@pytest.mark.parametrize(("bits", "order"), WIDTHS)
def test_width_and_order(bits: int, order: str) -> None:
    """Numbers of each width, either byte first, over their wrap, read directly and by search."""
    chance = random.Random(bits)  # noqa: S311 - traffic, not secrets
    for search in ({}, {"pattern": PATTERN}):
        chosen = {"sequence_bits": bits, "sequence_order": order, "offset": 6, **search}
        checker = Checker(tcp_sequence="packet", **chosen)
        model, expected, source = sequences.Numbers(THRESHOLD, bits), [], checker.fresh()
        number, end = (1 << bits) - 20, 1 << bits
        for _ in range(120):
            data = struct.pack(">IH", PATTERN, 0) + number.to_bytes(bits // 8, order)
            checker.pass_(udp(data, source))
            expected.append(model.take(number))
            number = (number + chance.choice((1, 1, 1, 2, 30, 0, -1, -25))) % end
        for far in (1 << bits - 1, (1 << bits - 1) - 1, 3, 1 << 31, -(1 << 31)):
            number = (number + far) % end
            data = struct.pack(">IH", PATTERN, 0) + number.to_bytes(bits // 8, order)
            checker.pass_(udp(data, source))
            expected.append(model.take(number))
        checker.pass_(udp(data[:-1], source))  # cut off within the number
        agree(checker, model, [error for error in expected if error])
        stream, expected, source = sequences.Numbers(THRESHOLD), [], checker.fresh()
        for number in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 5):  # TCP's own are of 32 bits in any case
            checker.pass_(tcp(number, 10, source=source))
            expected.append(stream.take(number))
        agree(checker, stream, [error for error in expected if error])
        checker.program.close()


@properties
@given(moves=st.lists(st.lists(st.integers(-15, 25), max_size=12), min_size=1, max_size=4))
def test_expected_numbers(numbered: Checker, moves: list[list[int]]) -> None:
    """Interval by interval: how many numbers were expected, and what of them is missing."""
    model, source = sequences.Numbers(THRESHOLD), numbered.fresh()
    number, expected, missing = 1000, 0, 0
    for interval in moves:
        for move in (1, *interval):
            number = max(number + move, 1001 if model.last is None else model.first % (1 << 32))
            numbered.pass_(udp(b"abc" + struct.pack(">I", number), source))
            model.take(number)
        (record,) = numbered.close()
        numbered.events()
        assert record["seq_expected"] == model.expected - expected
        assert signed64(record["seq_missed"]) == model.missing - missing
        expected, missing = model.expected, model.missing
        number = model.highest % (1 << 32)


@properties
@given(moves=st.lists(st.tuples(st.integers(-40, 30), st.integers(0, 40)), max_size=7))
def test_expected_bytes(numbered: Checker, moves: list[tuple[int, int]]) -> None:
    """The same of a stream, whose bytes may come twice, in parts, and late."""
    model, source = sequences.Stream(THRESHOLD), numbered.fresh()
    expected = missing = 0
    for back, length in ((0, 1), *moves):
        place = 1000 if model.last is None else max(1000, model.last + back)
        numbered.pass_(tcp(place, length, source=source))
        model.take(place, length)
        (record,) = numbered.close()
        numbered.events()
        assert record["seq_expected"] == max(0, model.expected - expected)
        assert signed64(record["seq_missed"]) == model.missing - missing
        expected, missing = model.expected, model.missing


def signed64(number: int) -> int:
    """A number that the kernel holds in 64 bits with a sign."""
    return sequences.signed(number, 64)


def test_more_holes_than_are_tracked(numbered: Checker) -> None:
    """Holes whose places are not known are filled by their size, and nothing is left missing."""
    source = numbered.fresh()
    numbered.pass_(tcp(0, 10, source=source))
    for hole in range(20):
        numbered.pass_(tcp(20 + 20 * hole, 10, source=source))
    (record,) = numbered.close()
    assert (record["seq_small"], record["seq_missing"]) == (20, 200)
    for hole in range(20):
        numbered.pass_(tcp(10 + 20 * hole, 10, source=source))
    (record,) = numbered.close()
    assert (record["seq_reverse"], record["seq_missing"]) == (20, 0)
    assert len(numbered.events()) == 40


def test_packets_as_the_original_counts_them(searching: Checker) -> None:
    """In packet mode a TCP number one up is in order, whatever the payload."""
    model, expected, source = sequences.Numbers(THRESHOLD), [], searching.fresh()
    for number in (4294967294, 4294967295, 0, 1, 1, 3, 50):
        searching.pass_(tcp(number, 100, source=source))
        expected.append(model.take(number))
    agree(searching, model, [error for error in expected if error])


@properties
@given(
    place=st.one_of(st.integers(0, 3000), st.integers(500, 530)),
    filler=st.binary(min_size=1, max_size=9),
)
def test_pattern_anywhere(searching: Checker, place: int, filler: bytes) -> None:
    """The number is read behind the first place of the pattern, wherever that is."""
    word = struct.pack(">I", PATTERN)
    data = (filler * 3000)[:place] + word + b"xy" + struct.pack(">I", 7) + word + bytes(9)
    where = data.index(word)
    number = int.from_bytes(data[where + 6 : where + 10], "big")
    searching.pass_(udp(data, searching.fresh()))
    (record,) = searching.close()
    assert record["seq_received"] == 1
    assert record["seq_last"] == number


def test_no_number(searching: Checker) -> None:
    """Without the pattern, with half of it, or cut behind it, a packet carries no number."""
    word = struct.pack(">I", PATTERN)
    searching.pass_(udp(word + b"xy" + bytes(4), 5000))  # what is not there must not be found later
    assert [r["seq_received"] for r in searching.close()] == [1]
    for data in (b"", b"x", word[:3], bytes(3400), word + b"xy" + bytes(3), word * 2):
        source = searching.fresh()
        searching.pass_(udp(data, source))
        (record,) = searching.close()
        assert record["packets"] == 1
        assert record["seq_received"] == (data == word * 2 and len(data) >= 10)


def test_search_where_memory_is_not_linear(searching: Checker) -> None:
    """The pattern is found in a packet that lies in pages, up to byte 4,996 and not beyond."""
    word = struct.pack(">I", PATTERN)
    with Wire(searching.program, Direction.INGRESS) as wire:
        for place, there in ((0, 1), (1400, 1), (4995, 1), (4996, 1), (4997, 0), (5600, 0)):
            data = bytearray(NOT_LINEAR)
            data[place : place + 10] = word + b"xy" + struct.pack(">I", place)
            wire.put(udp(bytes(data), searching.fresh()))
            deadline = time.monotonic() + 5
            while not (records := searching.close()):
                assert time.monotonic() < deadline
            (record,) = records
            assert (record["seq_received"], record["seq_last"]) == (there, place * there)


def test_icmp_and_merged(numbered: Checker) -> None:
    """ICMP carries numbers, too; a merged packet counts as many as it is of, in order."""
    for number in (5, 6, 9):
        numbered.pass_(icmp(b"abc" + struct.pack(">I", number)))
    (record,) = numbered.close()
    assert (record["seq_received"], record["seq_small"], record["seq_missing"]) == (3, 1, 2)
    source = numbered.fresh()
    payload = b"abc" + struct.pack(">I", 10) + bytes(93)
    numbered.pass_(udp(payload * 3, source), gso_size=100, gso_segs=3)
    numbered.pass_(udp(b"abc" + struct.pack(">I", 13), source))
    (record,) = numbered.close()
    assert (record["seq_received"], record["seq_errors"], record["seq_last"]) == (4, 0, 13)
    numbered.events()


def test_two_cpus(numbered: Checker) -> None:
    """Two CPUs on one flow: every packet but the first is counted once, as an error or in order."""
    program, source, each = numbered.program.objects.programs["vtap_ingress"], 9999, 200_000

    def hammer(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        testrun.run(program, udp(b"abc" + struct.pack(">I", cpu * 5), source), each)

    before = numbered.probe.counters()[1]
    threads = [
        threading.Thread(target=hammer, args=(c,)) for c in sorted(os.sched_getaffinity(0))[:2]
    ]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += len(numbered.events())
    for thread in threads:
        thread.join()
    taken += len(numbered.events())
    records = numbered.close()
    after = numbered.probe.counters()[1]
    assert sum(r["packets"] for r in records) == 2 * each
    assert records[-1]["seq_received"] == 2 * each
    found = sum(r["seq_errors"] for r in records)
    assert found == 2 * each - 1  # no number is one above the one before
    handed = after["events_handed"] - before["events_handed"]
    assert handed + after["events_suppressed"] - before["events_suppressed"] == found
    assert taken == handed


def test_events_have_times_of_their_own() -> None:
    """Errors of one moment have different times; those beyond the limit are counted, not sent."""
    checker = Checker(offset=0, max_events=20)
    now = time.time_ns()
    for _ in range(100):
        checker.pass_(udp(struct.pack(">I", 5)), tstamp=now)
    events = checker.events()
    (record,) = checker.close()
    counters = checker.probe.counters()[1]
    checker.program.close()
    times = [event["time"] for event in events]
    assert 20 <= len(events) <= 40  # a second's end may lie between
    assert times == [now + i for i in range(len(times))]
    assert record["seq_errors"] == record["seq_duplicate"] == 99
    assert counters["events_handed"] == len(events)
    assert counters["events_handed"] + counters["events_suppressed"] == 99


@pytest.mark.parametrize("close_at", [0, 9000, 17_000], ids=["never", "often", "seldom"])
@pytest.mark.parametrize(("bits", "count"), [(16, 60_000), (16, 150_000), (32, 60_000)])
def test_late_in_a_long_interval(bits: int, count: int, close_at: int) -> None:
    """Nothing is missing of a stream that is whole, with numbers late by 40, however long it is."""
    checker = Checker(offset=0, sequence_bits=bits)
    order = list(range(count))
    late = range(1000, count - 100, 500)
    for number in reversed(late):
        order.remove(number)
        order.insert(number + 40, number)
    form = {16: ">H", 32: ">I"}[bits]
    for at, number in enumerate(order):
        checker.pass_(udp(struct.pack(form, number % (1 << bits)) + bytes(8)))
        if close_at and at % close_at == close_at - 1:
            checker.close()
    (record,) = checker.close()
    counters = checker.probe.counters()[1]
    checker.program.close()
    assert record["seq_missing"] == 0
    assert record["seq_received"] == count
    assert counters["numbers_missing"] == counters["numbers_twice"] == 0
    assert counters["numbers_earlier"] == 0
    assert counters["numbers_late"] == len(late)
