# SPDX-License-Identifier: Apache-2.0
"""The flow probe: bpf/flow.c on every interface, its table swept, its summaries read."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING, Protocol

from trapstream_vtap._native import Ring, Sweep
from trapstream_vtap.bpf import attach, kernel
from trapstream_vtap.bpf.holder import GENERIC, Holder, Place
from trapstream_vtap.bpf.memory import hash_bytes
from trapstream_vtap.bpf.source import Program, Source, program_text
from trapstream_vtap.bpf.wanted import define_wanted
from trapstream_vtap.config import TUNNELS
from trapstream_vtap.layouts import (
    CONTROL,
    GAP_BOUNDS,
    GAP_COUNTS,
    GAP_PROTOCOLS,
    KEY_FIELDS,
    LINK,
    LINK_COUNTS,
    TRACKED_HOLES,
    FlowLayouts,
    JitterInterval,
    flow_layouts,
)
from trapstream_vtap.records import event_schema, flow_schema, without

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from trapstream_vtap._native import Tallies
    from trapstream_vtap.bpf.code import Objects
    from trapstream_vtap.config import Settings
    from trapstream_vtap.interfaces import Interface
    from trapstream_vtap.schema import Schema

_SWEEP_BYTES = 3072  # of keys in one run: what fits into a page, with what the kernel puts around
PAGE = 4096
_RING_HEADER = 8  # bytes that the ring buffer adds to each record
_SMALLEST_RING = 256 << 10
_LARGEST_RING = 8 << 20  # mapped twice into our memory
_CLOCK_STEP_NS = 1_000_000
_LONG_BEFORE = 1 << 62  # ns, as in bpf/moment.h
_MOMENTS = 1 << 64
_FEWEST_LINKS = 64
_LINK_TRIES = 4
_FIBONACCI = 2654435769  # 2^32 / golden ratio, as in link_of() of bpf/flow.c
_SWITCH_NS = 5_000_000  # programs are exchanged no closer than that ahead of a grid line
_SO_TIMESTAMP = 29  # include/uapi/asm-generic/socket.h
_GAPS_EACH = len(attach.Direction) * len(GAP_PROTOCOLS)  # histograms of an interface
_DIRECT_INTO_TUNNELS = (6, 18)
"""The kernel since which direct access to a packet in a packet is known to load."""
_KINDS = {"tc": "SCHED_CLS", "xdp": "XDP", "socket": "SOCKET_FILTER"}


def program_name(settings: Settings, direction: attach.Direction, interface: Interface) -> str:
    """Which program of bpf/flow.c sees that direction of that interface."""
    side = "socket" if settings.hook == "socket" else direction.name.lower()
    return f"vtap_{side}" if interface.ethernet else f"vtap_{side}_l3"


def square_limits(interval: int, stop_gap: int) -> tuple[int, int]:
    """How squares of inter-arrival times are summed without overflow: limit (ns) and shift (bits).

    Times below the limit are squared exactly; the others are cut by the shift first. The times of
    an interval add up to its length and the gap before it at most, so that the sum of their squares
    is at most that times the longest of them. There is room for four intervals.
    """
    span = 4 * (interval + stop_gap)
    limit = 1 << ((1 << 64) // span).bit_length() - 1
    shift = 0
    while (stop_gap >> shift) * (span >> shift) >> 64:
        shift += 1
    return limit, shift


def source(settings: Settings, release: str = "") -> Source:
    """What to compile: the structures, the user's choices as constants, and bpf/flow.c.

    Only numbers go into the text.

    Args:
        settings: What the user chose.
        release: Of the kernel that is to load it, as `uname -r` has it; by default the running one.
    """
    programs = sorted(
        {program_name(settings, d, i) for d in settings.directions for i in settings.interfaces}
    )
    limit, shift = _square_limits(settings)
    structures = layouts(settings)
    constants = {
        **{f"KEY_{name.upper()}": int(name in settings.key) for name in KEY_FIELDS},
        **{name.upper(): 1 for name in programs},
        **{f"HOOK_{name.upper()}": int(name == settings.hook) for name in _KINDS},
        **{f"WANT_{d.name}": int(d in settings.directions) for d in attach.Direction},
        "DECAPSULATE": int(bool(settings.decapsulate)),
        **{f"DECAPSULATE_{n.upper()}": int(n in settings.decapsulate) for n in TUNNELS},
        "DIRECT_ACCESS": int(not settings.decapsulate or _direct_into_tunnels(release)),
        "FLOW_TABLE_SIZE": settings.flow_table_size,
        "INTERVAL_NS": settings.intervals[0],
        "STOP_GAP_NS": settings.stop_gap,
        "COARSE_LIMIT_NS": limit,
        "COARSE_SHIFT": shift,
        "RING_PAGES": ring_pages(settings.flow_table_size, structures.record.size),
        **_link_constants(settings),
        "SWEEP_KEYS": _sweep_keys(structures),
        **_jitter_constants(settings),
        **_sequence_constants(settings, structures),
        **_gap_constants(settings),
    }
    text = "".join(
        layout.definition
        for layout in (
            structures.key,
            structures.record,
            structures.slot,
            *((structures.jitter,) if structures.jitter else ()),
            structures.flow,
            structures.event,
            LINK,
            GAP_COUNTS,
            CONTROL,
        )
    )
    text += "".join(f"#define {name} {value}ULL\n" for name, value in constants.items())
    text += f"#define GAP_BUCKET(gap) {_bucket(GAP_BOUNDS)}\n"
    if settings.rules:
        text += f"#define RULES {len(settings.rules)}\n" + define_wanted(settings.rules)
    return Source(
        text + program_text("flow.c"),
        (
            *_programs(settings.hook, programs),
            Program("vtap_sweep", "SCHED_CLS"),
        ),
        (
            *("flows", "summaries", "wakeups", "links", "controls"),
            *(("events",) if settings.sequences else ()),
            *(("gaps",) if settings.metrics else ()),
        ),
    )


def _direct_into_tunnels(release: str) -> bool:
    """Whether that kernel's verifier follows offsets that far; else a helper copies the bytes.

    Where a bound is checked in one register, and the value is used from another, 6.1 knows none.
    """
    major, minor = re.findall(r"\d+", release or os.uname().release)[:2]
    return (int(major), int(minor)) >= _DIRECT_INTO_TUNNELS


def link_places(interfaces: Sequence[Interface]) -> tuple[int, dict[int, int]]:
    """Where the kernel program finds what it counts at INTERFACES, whatever their indices are.

    Returns:
        How many places there are, a power of two that is mostly the same for other interfaces, and
        the place of each by index.
    """
    bits = _FEWEST_LINKS.bit_length() - 1
    while (1 << bits) < 4 * len(interfaces):
        bits += 1
    while (places := _link_places(interfaces, bits)) is None:
        bits += 1
    return 1 << bits, places


def _link_places(interfaces: Sequence[Interface], bits: int) -> dict[int, int] | None:
    """By index, among so many places, or None if one would not be found in a few tries."""
    places: dict[int, int] = {}
    taken: set[int] = set()
    for index in {interface.index for interface in interfaces}:
        first = index * _FIBONACCI % (1 << 32) >> 32 - bits
        tries = ((first + i) % (1 << bits) for i in range(_LINK_TRIES))
        place = next((place for place in tries if place not in taken), None)
        if place is None:
            return None
        places[index] = place
        taken.add(place)
    return places


def _indices(settings: Settings) -> Sequence[int]:
    """Of the interfaces, each once."""
    return tuple(dict.fromkeys(interface.index for interface in settings.interfaces))


def _link_constants(settings: Settings) -> dict[str, int]:
    links, _ = link_places(settings.interfaces)
    return {"LINKS": links, "LINK_SHIFT": 33 - links.bit_length(), "LINK_TRIES": _LINK_TRIES}


def name_links(links: int, settings: Settings) -> dict[int, int]:
    """Tell the kernel program by its map which interfaces there are; their places by index."""
    _, found = link_places(settings.interfaces)
    for number, index in enumerate(_indices(settings)):
        link = LINK.pack({"interface": index, "gaps": number * _GAPS_EACH})
        kernel.write_element(links, found[index], link * kernel.possible_cpus())
    return found


def memory(settings: Settings) -> int:
    """How much of the kernel's memory the maps of `source` take, about; bytes."""
    structures, cpus = layouts(settings), kernel.possible_cpus()
    links, _ = link_places(settings.interfaces)
    rings = [ring_pages(settings.flow_table_size, structures.record.size)]
    if settings.sequences:
        rings.append(ring_pages(settings.max_events, structures.event.size))
    gaps = len(settings.interfaces) * _GAPS_EACH * GAP_COUNTS.size if settings.metrics else 0
    return (
        hash_bytes(structures.key.size, structures.flow.size, settings.flow_table_size)
        + sum(rings) * PAGE
        + (links * LINK.size + gaps) * cpus
    )


def places(settings: Settings) -> list[Place]:
    """Where programs of `source` belong, and which."""
    # one packet socket sees both directions
    sides = (
        (settings.directions,)
        if settings.hook == "socket"
        else tuple((direction,) for direction in settings.directions)
    )
    return [
        Place(
            interface,
            side,
            settings.hook,
            program_name(settings, side[0], interface),
            settings.promiscuous,
        )
        for interface in settings.interfaces
        for side in sides
    ]


def _bucket(bounds: Sequence[int], first: int = 0) -> str:
    """In C: how many of BOUNDS `gap` is above, and FIRST; by bisection."""
    if not bounds:
        return str(first)
    middle = len(bounds) // 2
    low = _bucket(bounds[:middle], first)
    high = _bucket(bounds[middle + 1 :], first + middle + 1)
    return f"((gap) <= {bounds[middle]}ULL ? {low} : {high})"


def _programs(hook: str, names: Sequence[str]) -> Iterator[Program]:
    """What to load; XDP's twice, as drivers want it, and as the kernel behind them does."""
    for name in names:
        yield Program(name, _KINDS[hook], buffers=hook == "xdp")
        if hook == "xdp":
            yield Program(name + GENERIC, _KINDS[hook], name)


def layouts(settings: Settings) -> FlowLayouts:
    """The structures of the program that SETTINGS ask for."""
    return flow_layouts(
        settings.key,
        sequence=settings.sequences,
        deviation=settings.expected_gap is not None,
        smoothed=settings.smoothed_jitter,
        own_interval=settings.jitter is not JitterInterval.SAME,
    )


def _sweep_keys(structures: FlowLayouts) -> int:
    """How many keys one run of the sweeping program is handed."""
    return _SWEEP_BYTES // structures.key.size


def _square_limits(settings: Settings) -> tuple[int, int]:
    return square_limits(settings.jitter_interval or settings.interval, settings.stop_gap)


def ring_pages(records: int, size: int) -> int:
    """Of a ring buffer with room for RECORDS of SIZE bytes, within reason."""
    ring = _LARGEST_RING
    while ring > _SMALLEST_RING and ring // 2 >= records * (size + _RING_HEADER):
        ring //= 2
    return ring // PAGE


def _jitter_constants(settings: Settings) -> dict[str, int]:
    found = {"COUNTS_BIT": 1, "JITTER_BIT": 1}
    if settings.jitter is JitterInterval.LONGER:
        found |= {"LONG_NS": settings.intervals[1], "JITTER_BIT": 2}
    elif settings.jitter is JitterInterval.SHORTER:
        found |= {"LONG_NS": settings.intervals[1], "COUNTS_BIT": 2}
    if settings.smoothed_jitter:
        found["VTAP_SMOOTHED"] = 1
    if settings.expected_gap is not None:
        found |= {"VTAP_DEVIATION": 1, "EXPECTED_GAP_NS": settings.expected_gap}
    return found


def _gap_constants(settings: Settings) -> dict[str, int]:
    if not settings.metrics:
        return {}
    return {
        "VTAP_GAPS": max(1, len(settings.interfaces)) * _GAPS_EACH,
        "GAP_KINDS": len(GAP_PROTOCOLS),
    }


def _sequence_constants(settings: Settings, structures: FlowLayouts) -> dict[str, int]:
    if not settings.sequences:
        return {}
    pattern = (settings.pattern or 0).to_bytes(4, "big")
    # the search looks for one byte of the pattern, best for one that padding is not made of
    anchor = next((i for i, byte in enumerate(pattern) if byte not in (0, 0xFF)), 0)
    return {
        "VTAP_SEQUENCE": 1,
        "SEQ_TCP_STREAM": int(settings.tcp_sequence == "stream"),
        "SEQ_NUMBERS": int(settings.offset is not None),
        "SEQ_OFFSET": settings.offset or 0,
        "SEQ_BITS": settings.sequence_bits,
        "SEQ_LITTLE_ENDIAN": int(settings.sequence_order == "little"),
        "SEQ_SEARCH": int(settings.pattern is not None),
        "SEQ_PATTERN": int.from_bytes(pattern, "little"),  # as the kernel's words are
        "SEQ_ANCHOR": pattern[anchor],
        "SEQ_ANCHOR_AT": anchor,
        "SEQ_THRESHOLD": settings.sequence_threshold,
        "MAX_EVENTS": settings.max_events,
        "EVENT_PAGES": ring_pages(settings.max_events, structures.event.size),
        "TRACKED_HOLES": TRACKED_HOLES,
    }


def gap_numbers(settings: Settings) -> dict[int, tuple[int, int, str]]:
    """The entries of the histogram, as `bpf/gaps.h` numbers them: interface, direction, protocol.

    The protocol is empty where flows are not told apart by it.
    """
    kinds = dict(enumerate(GAP_PROTOCOLS))
    if "protocol" not in settings.key:
        kinds = {len(kinds) - 1: ""}
    return {
        place * _GAPS_EACH + direction * len(GAP_PROTOCOLS) + kind: (index, direction, protocol)
        for place, index in enumerate(_indices(settings))
        for direction in settings.directions
        for kind, protocol in kinds.items()
    }


class Holds(Protocol):
    """What holds programs at their places: a `Holder`, or another process that has one."""

    def put(
        self, places: Sequence[Place], programs: Mapping[str, int], renewed: Collection[str] = ()
    ) -> list[str]:
        """As `Holder.put`."""

    def detach(self) -> None:
        """Let go of all."""


class FlowProbe:
    """Measures the flows of `settings.interfaces` from `start` to `detach`.

    Args:
        settings: What of, and how.
        holder: What attaches the programs; by default this process.
    """

    def __init__(self, settings: Settings, holder: Holds | None = None) -> None:
        self.schema: Schema | None = without(
            flow_schema(
                settings.key,
                bits=settings.bits,
                sequence=settings.sequences,
                deviation=settings.expected_gap is not None,
                smoothed=settings.smoothed_jitter,
                jitter=settings.jitter,
            ),
            settings.hidden,
        )
        self.event_schema = event_schema(settings.key) if settings.sequences else None
        self.coarse_shift = _square_limits(settings)[1]
        self._settings = settings
        self._holder = holder or Holder()
        self.notes: list[str] = []  # sentences for the person at the terminal
        self._clock_offset = clock_offset()
        self._began = time.monotonic_ns() - _LONG_BEFORE & ~3
        self._period = 0  # in which everything was handed over for the last time

    def attach(self) -> None:
        """Attach what is loaded everywhere, or nowhere.

        Raises:
            RunError: It cannot be done, and why.
        """
        self._stamping = receive_timestamps()
        try:
            self.notes += self._holder.put(places(self._settings), self._objects.programs)
        except BaseException:
            self.detach()
            raise

    def take_over(self, old: FlowProbe, renewed: Collection[str] = ()) -> int:
        """Be attached in place of OLD, from one packet to the next.

        Args:
            old: What is attached now.
            renewed: Names of interfaces that have been removed meanwhile, and are there again.

        Returns:
            The moment just before (CLOCK_MONOTONIC, ns). By then or later, nothing is counted into
            OLD any more, whose table is still to be swept, up to that moment.

        Raises:
            RunError: The kernel refuses; OLD is where it was.
            OSError: Likewise.
        """
        self._stamping, self._holder = old._stamping, old._holder
        while self.next_line() - time.monotonic_ns() < _SWITCH_NS:  # a line must not come between
            time.sleep(_SWITCH_NS / 1e9)
        self._began = time.monotonic_ns() & ~3
        self._follow_clock(clock_offset())
        self.notes += self._holder.put(places(self._settings), self._objects.programs, renewed)
        kernel.wait_for_programs()
        return self._began

    def close(self) -> None:
        """Give programs and maps back; the probe is not attached any more."""
        del self._ring, self._events, self._wakeups, self._sweep
        self._objects.close()

    def prepare(self, objects: Objects) -> None:
        """Take over what has been loaded from `source`."""
        self._objects = objects
        self._maps = objects.maps
        self._cpus = kernel.possible_cpus()
        structures = layouts(self._settings)
        self._ring = Ring(objects.maps["summaries"], structures.record.size)
        self._events = (
            Ring(objects.maps["events"], structures.event.size)
            if self._settings.sequences
            else None
        )
        self._wakeups = Ring(objects.maps["wakeups"], 8)
        self._sweep = Sweep(
            objects.maps["flows"],
            objects.programs["vtap_sweep"],
            _sweep_keys(structures),
            key_size=structures.key.size,
            value_size=structures.flow.size,
            interface_at=structures.key.offsets["interface"],
            end_at=structures.flow.offsets["end"],
            arrivals_at=_slot_offsets(structures, "arrivals"),
            gaps_at=_gap_offsets(structures),
            merged_at=_slot_offsets(structures, "merged"),
            bytes_at=_slot_offsets(structures, "bytes"),
        )
        self._places = name_links(self._maps["links"], self._settings)
        self._follow_clock(clock_offset())
        self._period = self.wall(time.monotonic_ns()) // self._settings.intervals[1]

    def detach(self) -> None:
        """Detach everywhere; when this returns, no program runs any more."""
        self._holder.detach()
        self._stamping.close()
        kernel.wait_for_programs()

    def keep_clock(self) -> bool:
        """Tell the kernel program what the wall clock says; whether that was news."""
        offset = clock_offset()
        if abs(offset - self._clock_offset) < _CLOCK_STEP_NS:
            return False
        self._follow_clock(offset)
        return True

    def _follow_clock(self, offset: int) -> None:
        self._clock_offset = offset
        self._write_control()

    def next_line(self) -> int:
        """The next grid line, CLOCK_MONOTONIC in ns."""
        wall = time.monotonic_ns() + self._clock_offset
        interval = self._settings.intervals[0]
        return wall - wall % interval + interval - self._clock_offset

    def ends_interval(self, line: int) -> bool:
        """Whether the grid line ends a measuring interval, not just a jitter interval."""
        return self.wall(line) % self._settings.interval == 0

    def wall(self, moment: int) -> int:
        """A moment of CLOCK_MONOTONIC by the wall clock, both in ns."""
        return moment + self._clock_offset

    def fileno(self) -> int:
        """Becomes readable when so many flows are new that the table must be swept at once."""
        return self._wakeups.fileno()

    def pressed(self) -> bool:
        """Whether a quarter of the table has been filled since all flows last handed over."""
        self._wakeups.read(1)
        (control,) = CONTROL.unpack(kernel.read_element(self._maps["controls"], 0, CONTROL.size))
        return control["inserts"] >= self._settings.flow_table_size // 4

    def read(self, most: int) -> bytearray:
        """Up to MOST records of `schema` out of the ring buffer."""
        return self._ring.read(most)

    def descriptors(self) -> tuple[int, ...]:
        """All that becomes readable when there is something to do at once."""
        events = self.events_fileno()
        return (self.fileno(),) if events is None else (self.fileno(), events)

    def events_fileno(self) -> int | None:
        """Becomes readable when there are events; None where nothing makes any."""
        return self._events.fileno() if self._events else None

    def read_events(self, most: int) -> bytearray:
        """Up to MOST records of `event_schema` out of their ring buffer."""
        return self._events.read(most) if self._events else bytearray()

    def sweep(self, *, force: bool = False, now: int | None = None) -> Iterator[None]:
        """Close what no packet closed, in steps: read the ring after each.

        Args:
            force: Close all that hold anything, whether their interval is over or not.
            now: When it is (CLOCK_MONOTONIC, ns), if not when this is called.
        """
        now = time.monotonic_ns() if now is None else now
        period = self.wall(now) // self._settings.intervals[1]
        if force or period != self._period:  # else flows may still hold what is not handed over yet
            self._period = period
            self._write_control()
        self._sweep.begin()
        more = True
        while more:
            more = self._sweep.step(now, force)
            yield

    def held(self) -> Tallies:
        """What the table held of each interface when it was last swept: flows, packets, bytes."""
        return self._sweep.result()[2]

    def counters(self) -> dict[int, dict[str, int]]:
        """What the kernel program has counted since the start, by interface index."""
        found = {}
        for interface in self._settings.interfaces:
            place = self._places[interface.index]
            per_cpu = kernel.read_element(self._maps["links"], place, LINK.size * self._cpus)
            rows = list(LINK.unpack(per_cpu))
            found[interface.index] = {
                name: _signed(sum(row[name] for row in rows)) for name in LINK_COUNTS
            }
        return found

    def gaps(self) -> dict[tuple[int, int, str], list[int]]:
        """The histogram of inter-arrival times, as of now; empty where there is none.

        By interface index, direction and protocol: their sum in ns, and how many are in each of the
        buckets that `GAP_BOUNDS` bounds.
        """
        found = {}
        for number, where in gap_numbers(self._settings).items() if self._settings.metrics else ():
            size = GAP_COUNTS.size * self._cpus
            words = memoryview(kernel.read_element(self._maps["gaps"], number, size)).cast("Q")
            step = GAP_COUNTS.size // words.itemsize
            found[where] = [sum(words[place::step]) for place in range(step)]
        return found

    def _write_control(self) -> None:
        """Also sets the number of new flows to zero: all are about to hand over what they have."""
        moments = {"clock_offset": self._clock_offset, "began": self._began}
        control = CONTROL.pack({name: ns % _MOMENTS for name, ns in moments.items()})
        kernel.write_element(self._maps["controls"], 0, control)


def _signed(total: int) -> int:
    """A sum of counts modulo 2^64, of which some may be negative."""
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)


def receive_timestamps() -> socket.socket:
    """While this is open, the kernel gives every packet that it receives a timestamp.

    See: socket(7), SO_TIMESTAMP
    """
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return asking


def _slot_offsets(structures: FlowLayouts, name: str) -> tuple[int, int]:
    first = structures.flow.offsets["slot"] + structures.slot.offsets[name]
    return first, first + structures.slot.size


def _gap_offsets(structures: FlowLayouts) -> tuple[int, int]:
    """What says that there are inter-arrival times: where they wait apart, else the arrivals."""
    if not structures.jitter:
        return _slot_offsets(structures, "arrivals")
    first = structures.flow.offsets["jitter"] + structures.jitter.offsets["iat_count"]
    return first, first + structures.jitter.size


def clock_offset() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns, times 4; the tightest of a few readings."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1] & ~3
