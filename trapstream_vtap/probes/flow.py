# SPDX-License-Identifier: Apache-2.0
"""The flow probe: bpf/flow.c on every interface, its table swept, its summaries read."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from trapstream_vtap._native import Ring, Sweep
from trapstream_vtap.bpf import attach, kernel, packet_socket, xdp
from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.config import STOP_GAP_NS, TUNNELS
from trapstream_vtap.records import (
    CONTROL,
    FLOW_SLOT,
    FLOW_STATE,
    KEY_FIELDS,
    LINK,
    flow_key,
    flow_record,
    flow_schema,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap._native import Tallies
    from trapstream_vtap.config import Settings
    from trapstream_vtap.interfaces import Interface

_SWEEP_BYTES = 3072  # of keys in one run: what fits into a page, with what the kernel puts around
_RING_HEADER = 8  # bytes that the ring buffer adds to each record
_SMALLEST_RING = 256 << 10
_LARGEST_RING = 8 << 20  # mapped twice into our memory
_CLOCK_STEP_NS = 1_000_000
_SO_TIMESTAMP = 29  # include/uapi/asm-generic/socket.h
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


def source(settings: Settings) -> compiler.Source:
    """What to compile: the structures, the user's choices as constants, and bpf/flow.c.

    Only numbers go into the text.
    """
    programs = sorted(
        {program_name(settings, d, i) for d in settings.directions for i in settings.interfaces}
    )
    limit, shift = square_limits(settings.interval, STOP_GAP_NS)
    ring = _LARGEST_RING
    key, record = flow_key(settings.key), flow_record(settings.key)
    wanted = settings.flow_table_size * (record.size + _RING_HEADER)
    while ring > _SMALLEST_RING and ring // 2 >= wanted:
        ring //= 2
    constants = {
        **{f"KEY_{name.upper()}": int(name in settings.key) for name in KEY_FIELDS},
        **{name.upper(): 1 for name in programs},
        **{f"HOOK_{name.upper()}": int(name == settings.hook) for name in _KINDS},
        **{f"WANT_{d.name}": int(d in settings.directions) for d in attach.Direction},
        "DECAPSULATE": int(bool(settings.decapsulate)),
        **{f"DECAPSULATE_{n.upper()}": int(n in settings.decapsulate) for n in TUNNELS},
        "FLOW_TABLE_SIZE": settings.flow_table_size,
        "INTERVAL_NS": settings.interval,
        "STOP_GAP_NS": STOP_GAP_NS,
        "COARSE_LIMIT_NS": limit,
        "COARSE_SHIFT": shift,
        "RING_PAGES": ring // 4096,
        "LINKS": max(i.index for i in settings.interfaces) + 1,
        "SWEEP_KEYS": _SWEEP_BYTES // key.size,
    }
    text = "".join(
        layout.definition for layout in (key, record, FLOW_SLOT, FLOW_STATE, LINK, CONTROL)
    )
    text += "".join(f"#define {name} {value}ULL\n" for name, value in constants.items())
    text += (compiler.HERE / "flow.c").read_text(encoding="ascii")
    return compiler.Source(
        text,
        (
            *(compiler.Program(name, _KINDS[settings.hook]) for name in programs),
            compiler.Program("vtap_sweep", "SCHED_CLS"),
        ),
        ("flows", "summaries", "wakeups", "links", "controls"),
    )


class FlowProbe:
    """Measures the flows of `settings.interfaces` from `start` to `detach`."""

    def __init__(self, settings: Settings) -> None:
        self.schema = flow_schema(settings.key, bits=settings.bits)
        self.coarse_shift = square_limits(settings.interval, STOP_GAP_NS)[1]
        self._settings = settings
        self._detach: list[Callable[[], None]] = []
        self.notes: list[str] = []  # sentences for the person at the terminal
        self._clock_offset = 0

    def start(self) -> None:
        """Compile, load, and attach everywhere, or nowhere.

        Raises:
            RunError: It cannot be done, and why.
        """
        objects = compiler.load(source(self._settings))
        self.prepare(objects)
        self._stamping = receive_timestamps()
        try:
            if self._settings.promiscuous:
                self._detach.append(packet_socket.promiscuous(self._settings.interfaces))
            for interface in self._settings.interfaces:
                self._attach(objects, interface)
        except BaseException:
            self.detach()
            raise

    def _attach(self, objects: compiler.Objects, interface: Interface) -> None:
        directions = self._settings.directions
        programs = [
            objects.programs[program_name(self._settings, direction, interface)]
            for direction in directions
        ]
        if self._settings.hook == "socket":  # one for both directions
            self._detach.append(packet_socket.attach(programs[0], interface, directions))
        elif self._settings.hook == "xdp":
            detach, native = xdp.attach(programs[0], interface)
            self._detach.append(detach)
            if not native:
                self.notes.append(
                    f"{interface.name} has no XDP of its own: its packets are seen by generic XDP, "
                    "which is slower than --hook tc."
                )
        else:
            for program, direction in zip(programs, directions, strict=True):
                self._detach.append(attach.attach(program, interface, direction))

    def prepare(self, objects: compiler.Objects) -> None:
        """Take over what has been loaded from `source`."""
        self._maps = objects.maps
        self._cpus = kernel.possible_cpus()
        key = flow_key(self._settings.key)
        self._ring = Ring(objects.maps["summaries"], self.schema.layout.size)
        self._wakeups = Ring(objects.maps["wakeups"], 8)
        self._sweep = Sweep(
            objects.maps["flows"],
            objects.programs["vtap_sweep"],
            _SWEEP_BYTES // key.size,
            key_size=key.size,
            value_size=FLOW_STATE.size,
            interface_at=key.offsets["interface"],
            end_at=FLOW_STATE.offsets["end"],
            arrivals_at=_slot_offsets("arrivals"),
            merged_at=_slot_offsets("merged"),
            bytes_at=_slot_offsets("bytes"),
        )
        self.keep_clock()

    def detach(self) -> None:
        """Detach everywhere; when this returns, no program runs any more."""
        while self._detach:
            self._detach.pop()()
        self._stamping.close()
        kernel.wait_for_programs()

    def keep_clock(self) -> bool:
        """Tell the kernel program what the wall clock says; whether that was news."""
        offset = clock_offset()
        if abs(offset - self._clock_offset) < _CLOCK_STEP_NS:
            return False
        self._clock_offset = offset
        self._write_control()
        return True

    def next_line(self) -> int:
        """The next grid line, CLOCK_MONOTONIC in ns."""
        wall = time.monotonic_ns() + self._clock_offset
        interval = self._settings.interval
        return wall - wall % interval + interval - self._clock_offset

    def wall(self, moment: int) -> int:
        """A moment of CLOCK_MONOTONIC by the wall clock, both in ns."""
        return moment + self._clock_offset

    def fileno(self) -> int:
        """Becomes readable when so many flows are new that the table must be swept at once."""
        return self._wakeups.fileno()

    def pressed(self) -> bool:
        """Whether a quarter of the table has been filled since the last sweep."""
        self._wakeups.read(1)
        (control,) = CONTROL.unpack(kernel.read_element(self._maps["controls"], 0, CONTROL.size))
        return control["inserts"] >= self._settings.flow_table_size // 4

    def read(self, most: int) -> bytearray:
        """Up to MOST records of `schema` out of the ring buffer."""
        return self._ring.read(most)

    def sweep(self, *, force: bool = False) -> Iterator[None]:
        """Close what no packet closed, in steps: read the ring after each.

        Args:
            force: Close all that hold anything, whether their interval is over or not.
        """
        self._write_control()
        self._sweep.begin()
        now = time.monotonic_ns()
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
            per_cpu = kernel.read_element(
                self._maps["links"], interface.index, LINK.size * self._cpus
            )
            rows = list(LINK.unpack(per_cpu))
            found[interface.index] = {name: sum(row[name] for row in rows) for name in LINK.offsets}
        return found

    def _write_control(self) -> None:
        """Also sets the number of new flows to zero: a sweep begins."""
        kernel.write_element(
            self._maps["controls"], 0, CONTROL.pack({"clock_offset": self._clock_offset})
        )


def receive_timestamps() -> socket.socket:
    """While this is open, the kernel gives every packet that it receives a timestamp.

    See: socket(7), SO_TIMESTAMP
    """
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMP, 1)
    return asking


def _slot_offsets(name: str) -> tuple[int, int]:
    first = FLOW_STATE.offsets["slot"] + FLOW_SLOT.offsets[name]
    return first, first + FLOW_SLOT.size


def clock_offset() -> int:
    """CLOCK_REALTIME - CLOCK_MONOTONIC in ns, even; the tightest of a few readings."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1] & ~1
