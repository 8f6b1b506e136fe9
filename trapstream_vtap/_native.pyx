# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
# cython: language_level=3, boundscheck=False
"""The two hot loops, ring buffer to batch and batch to bytes, and the sweep over the flow table.

See `_native.hpp` for the loops themselves; here is what Python sees of them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

import os


cdef extern from "_native.hpp" namespace "vtap" nogil:
    cdef cppclass Tally_ "vtap::Tally":
        uint32_t interface
        uint64_t records
        uint64_t packets
        uint64_t bytes

    void book(vector[Tally_]& tallies, uint32_t interface, uint64_t records, uint64_t packets,
              uint64_t bytes)

    cdef cppclass Ring_ "vtap::Ring":
        Ring_(int map_fd, size_t record_size) except +
        int error()
        int descriptor()
        long read(uint8_t *to, size_t most)

    cdef enum class Kind_ "vtap::Kind":
        pass

    cdef cppclass Literal_ "vtap::Literal":
        Literal_()
        Literal_(const string&)

    cdef cppclass Slot_ "vtap::Slot":
        Slot_()
        Kind_ kind
        Literal_ before
        Literal_ behind
        uint32_t at[4]
        uint32_t width
        uint32_t shift
        void label(uint32_t number, const string& text)

    cdef cppclass Payload_ "vtap::Payload":
        size_t at
        size_t length
        uint64_t records
        vector[uint64_t] weights
        vector[Tally_] tallies

    cdef cppclass Plan_ "vtap::Plan":
        string open
        string separator
        string close
        vector[Slot_] slots
        size_t record_size
        uint32_t interface_at
        cbool counts
        uint32_t packets_at
        uint32_t bytes_at
        string text
        size_t longest()
        void render(const uint8_t *records, size_t count, size_t most_records, size_t most_bytes,
                    vector[Payload_]& payloads, Payload_& too_large) except +

    cdef cppclass FlowLayout_ "vtap::FlowLayout":
        uint32_t key_size
        uint32_t value_size
        uint32_t interface_at
        uint32_t end_at
        uint32_t arrivals_at[2]
        uint32_t gaps_at[2]
        uint32_t guest_at[2]
        uint32_t merged_at[2]
        uint32_t bytes_at[2]

    cdef cppclass SweepResult_ "vtap::SweepResult":
        uint64_t flows
        uint64_t closed
        vector[Tally_] pending

    cdef cppclass Sweep_ "vtap::Sweep":
        Sweep_(int flows_fd, int program_fd, const FlowLayout_& layout, uint32_t keys) except +
        void begin()
        int step(uint64_t now, cbool force) except +
        const SweepResult_& result()


cdef object _weights(const vector[uint64_t]& weights):
    cdef const char *octets = <const char *>weights.data()
    return memoryview(octets[: weights.size() * sizeof(uint64_t)]).cast("Q")


cdef dict _tallies(vector[Tally_] tallies):
    return {t.interface: (t.records, t.packets, t.bytes) for t in tallies}


def tally(const uint8_t[::1] batch, size_t record_size, uint32_t interface_at, counts):
    """What the records in `batch` hold of each interface: {index: (records, packets, bytes)}.

    Args:
        batch: Records of `record_size` bytes.
        record_size: In bytes.
        interface_at: Offset of the interface's index.
        counts: Offsets of packets and bytes, or None where the record has none.
    """
    cdef vector[Tally_] tallies
    cdef size_t i
    cdef const uint8_t *record
    cdef uint32_t packets_at = 0, bytes_at = 0
    cdef cbool counted = counts is not None
    if counted:
        packets_at, bytes_at = counts
    for i in range(batch.shape[0] // record_size):
        record = &batch[i * record_size]
        book(tallies, (<const uint32_t *>(record + interface_at))[0], 1,
             (<const uint64_t *>(record + packets_at))[0] if counted else 0,
             (<const uint64_t *>(record + bytes_at))[0] if counted else 0)
    return _tallies(tallies)


cdef class Ring:
    """A BPF ring buffer with records of one size."""

    cdef Ring_ *ring
    cdef readonly size_t record_size

    def __cinit__(self, int map_fd, size_t record_size):
        self.record_size = record_size
        self.ring = new Ring_(map_fd, record_size)
        if self.ring.error():
            raise OSError(self.ring.error(), os.strerror(self.ring.error()))

    def __dealloc__(self):
        del self.ring

    def fileno(self):
        """A descriptor that becomes readable when the kernel program wakes its reader."""
        return self.ring.descriptor()

    def read(self, size_t most):
        """Take up to `most` records, oldest first; returns their bytes, empty if there are none.

        Raises:
            OSError: The ring cannot be read, or holds a record of another size.
        """
        cdef bytearray batch = bytearray(most * self.record_size)
        cdef uint8_t *to = <uint8_t *><char *>batch
        cdef long count
        with nogil:
            count = self.ring.read(to, most)
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        del batch[<size_t>count * self.record_size:]
        return batch


cdef class Plan:
    """How a format writes one kind of record.

    Args:
        slots: For every exported column its kind (the position of its name in `records.Kind`), the
            bytes before and behind it, the offsets of its columns in the record, the width in bytes
            of the first one, the shift of coarse squares, and the labels (number to bytes).
        open: What a payload begins with.
        separator: What stands between two records.
        close: What a payload ends with.
        record_size: In bytes.
        interface_at: Offset of the interface's index.
        counts: Offsets of packets and bytes, or None where the record has none.
    """

    cdef Plan_ plan

    def __cinit__(self, slots, bytes open, bytes separator, bytes close, size_t record_size,
                  uint32_t interface_at, counts):
        cdef Slot_ slot
        self.plan.open = open
        self.plan.separator = separator
        self.plan.close = close
        self.plan.record_size = record_size
        self.plan.interface_at = interface_at
        self.plan.counts = counts is not None
        if counts is not None:
            self.plan.packets_at, self.plan.bytes_at = counts
        for kind, before, behind, at, width, shift, labels in slots:
            slot = Slot_()
            slot.kind = <Kind_><int>kind
            slot.before = Literal_(before)
            slot.behind = Literal_(behind)
            for i, offset in enumerate(at):
                slot.at[i] = offset
            slot.width = width
            slot.shift = shift
            for number, text in labels.items():
                slot.label(number, text)
            self.plan.slots.push_back(slot)

    @property
    def longest(self):
        """No payload with a single record is longer than this, in bytes."""
        return self.plan.longest()

    def render(self, const uint8_t[::1] batch, size_t most_records, size_t most_bytes):
        """Write the records in `batch` into payloads.

        Returns:
            The payloads, each as its bytes, the packets of each record in it (0 where it has none;
            64-bit integers), and what it holds of each interface:
            {index: (records, packets, bytes)}. And of the records that exceed `most_bytes` each by
            itself how many they are, and what they hold.
        """
        cdef vector[Payload_] payloads
        cdef Payload_ too_large
        cdef size_t count = batch.shape[0] // self.plan.record_size
        if count:
            with nogil:
                self.plan.render(&batch[0], count, most_records, most_bytes, payloads, too_large)
        return (
            [
                (
                    self.plan.text.data()[p.at : p.at + p.length],
                    _weights(p.weights),
                    _tallies(p.tallies),
                )
                for p in payloads
            ],
            (too_large.records, _tallies(too_large.tallies)),
        )


cdef class Sweep:
    """Closes the intervals of flows that no packet closes."""

    cdef Sweep_ *sweep

    def __cinit__(self, int flows_fd, int program_fd, uint32_t keys_per_run, *, uint32_t key_size,
                  uint32_t value_size, uint32_t interface_at, uint32_t end_at, arrivals_at,
                  gaps_at, guest_at, merged_at, bytes_at):
        cdef FlowLayout_ layout
        layout.key_size = key_size
        layout.value_size = value_size
        layout.interface_at = interface_at
        layout.end_at = end_at
        for i in range(2):
            layout.arrivals_at[i] = arrivals_at[i]
            layout.gaps_at[i] = gaps_at[i]
            layout.guest_at[i] = guest_at[i]
            layout.merged_at[i] = merged_at[i]
            layout.bytes_at[i] = bytes_at[i]
        self.sweep = new Sweep_(flows_fd, program_fd, layout, keys_per_run)

    def __dealloc__(self):
        del self.sweep

    def begin(self):
        """Start over."""
        self.sweep.begin()

    def step(self, uint64_t now, cbool force):
        """Visit the next few thousand flows; whether there are more.

        Args:
            now: Flows whose interval ended by then are closed (CLOCK_MONOTONIC, ns).
            force: Close all that hold anything.

        Raises:
            OSError: The kernel refused.
        """
        cdef int more
        with nogil:
            more = self.sweep.step(now, force)
        if more < 0:
            raise OSError(-more, os.strerror(-more))
        return more == 1

    def result(self):
        """Since `begin`: flows in the table, flows closed, and what the table held of each
        interface: {index: (flows, packets, bytes)}."""
        cdef const SweepResult_ *result = &self.sweep.result()
        return result.flows, result.closed, _tallies(result.pending)
