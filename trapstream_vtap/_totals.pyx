# SPDX-License-Identifier: Apache-2.0
# distutils: language = c++
# cython: language_level=3, boundscheck=False
"""Summaries of flows added up for scrapes; see `_totals.hpp`."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector

import os


cdef extern from "_totals.hpp" namespace "vtap" nogil:
    const size_t kMostCounts

    cdef cppclass Counts_ "vtap::Counts":
        uint64_t& operator[](size_t)

    cdef cppclass Key_ "vtap::Key":
        uint8_t *data()

    cdef cppclass SummaryLayout_ "vtap::SummaryLayout":
        uint32_t record_size
        uint32_t key_size
        uint32_t interface_at
        uint32_t direction_at
        uint32_t protocol_at
        cbool by_protocol
        uint32_t time_at
        uint32_t counts_at[7]
        uint32_t counts
        uint32_t first_rare
        uint32_t gaps_at[4]
        uint32_t coarse_shift
        uint32_t loss_at[2]
        cbool numbered
        uint64_t longest

    cdef cppclass Loss_ "vtap::Loss":
        uint64_t expected
        double ratio()

    cdef cppclass Gaps_ "vtap::Gaps":
        uint64_t count
        double mean()
        double jitter()

    cdef cppclass Known_ "vtap::Known":
        Key_ key
        Counts_ values
        Gaps_ gaps
        uint64_t gaps_end
        Loss_ loss
        uint64_t loss_end
        cbool shown
        uint32_t happened

    cdef cppclass Protocol_ "vtap::Protocol":
        uint32_t interface
        uint16_t direction
        uint16_t number
        Counts_ counts
        Counts_ held
        uint64_t latest_flows
        Gaps_ latest_gaps
        Loss_ latest_loss

    cdef cppclass Totals_ "vtap::Totals":
        Totals_(size_t top, size_t limit, uint64_t seed) except +
        void use(const SummaryLayout_& layout, unordered_map[uint32_t, uint32_t] numbers,
                 cbool same) except +
        void add_summaries(const uint8_t *records, size_t count) except +
        void end_interval(uint64_t now)
        void scrape() except +
        cbool recent(uint64_t end)
        Counts_ rest
        Counts_ departed
        vector[Protocol_] protocols
        vector[Known_] flows_


cdef tuple _counts(Counts_& counts, uint32_t number):
    return tuple([counts[i] for i in range(number)])


cdef object _gaps(Gaps_& gaps):
    return (gaps.mean(), gaps.jitter()) if gaps.count else None


cdef object _loss(Loss_& loss):
    return loss.ratio() if loss.expected else None


cdef class Totals:
    """What a scrape shows of flows.

    Args:
        top: How many flows are shown by themselves.
        limit: How many are remembered at most; more than `top`.
    """

    cdef Totals_ *totals
    cdef SummaryLayout_ layout

    def __cinit__(self, size_t top, size_t limit):
        self.totals = new Totals_(top, limit, int.from_bytes(os.urandom(8), "little"))

    def __dealloc__(self):
        del self.totals

    def use(self, dict numbers, *, cbool same, uint32_t record_size, uint32_t key_size,
            uint32_t interface_at, uint32_t direction_at, uint32_t protocol_at, cbool by_protocol,
            uint32_t time_at, counts_at, uint32_t first_rare, gaps_at, uint32_t coarse_shift,
            loss_at, uint64_t longest):
        """From now on summaries are laid out like that.

        Args:
            numbers: Of interfaces, by index.
            same: Their flows are those of the summaries before.
            by_protocol: Flows are told apart by protocol.
            counts_at: Offsets of what is counted: of packets, of bytes, of others.
            first_rare: Number of the first count that a flow has only once it is not zero.
            gaps_at: Offsets of the inter-arrival times' number, sum, squares and coarse squares.
            loss_at: Offsets of the change of what is missing, and of what was expected; or None.
            longest: Interval, ns.
        """
        cdef SummaryLayout_ layout
        layout.record_size = record_size
        layout.key_size = key_size
        layout.interface_at = interface_at
        layout.direction_at = direction_at
        layout.protocol_at = protocol_at
        layout.by_protocol = by_protocol
        layout.time_at = time_at
        layout.counts = len(counts_at)
        layout.first_rare = first_rare
        layout.coarse_shift = coarse_shift
        layout.longest = longest
        for i, at in enumerate(counts_at):
            layout.counts_at[i] = at
        for i, at in enumerate(gaps_at):
            layout.gaps_at[i] = at
        layout.numbered = loss_at is not None
        for i, at in enumerate(loss_at or ()):
            layout.loss_at[i] = at
        self.layout = layout
        self.totals.use(layout, numbers, same)

    def add(self, const uint8_t[::1] batch):
        """Add the summaries in `batch`."""
        cdef size_t count = batch.shape[0] // self.layout.record_size
        if count:
            with nogil:
                self.totals.add_summaries(&batch[0], count)

    def end_interval(self, uint64_t now):
        """An interval has ended `now` (ns since the epoch), and all its summaries are added."""
        self.totals.end_interval(now)

    def scrape(self):
        """What is to be shown now.

        Returns:
            By interface number, direction and protocol (256 where flows are not told apart by it):
            counts, flows in the latest interval, mean and deviation of inter-arrival times in it
            (s), or None, loss ratio in it, or None. By key: counts (None: a rare one that has not
            happened), and the last two.
            Counts of the other flows. Counts of series that are no longer there.
        """
        with nogil:
            self.totals.scrape()
        cdef uint32_t number = self.layout.counts
        cdef Protocol_ *p
        cdef Known_ *flow
        protocols, flows = {}, {}
        for i in range(self.totals.protocols.size()):
            p = &self.totals.protocols[i]
            protocols[p.interface, p.direction, p.number] = (
                tuple([p.counts[k] - p.held[k] for k in range(number)]),
                p.latest_flows,
                _gaps(p.latest_gaps),
                _loss(p.latest_loss),
            )
        for i in range(self.totals.flows_.size()):
            flow = &self.totals.flows_[i]
            if flow.shown:
                gaps = _gaps(flow.gaps) if self.totals.recent(flow.gaps_end) else None
                key = flow.key.data()[:self.layout.key_size]
                counts = [
                    flow.values[k]
                    if k < self.layout.first_rare or flow.happened >> k & 1 else None
                    for k in range(number)
                ]
                loss = _loss(flow.loss) if self.totals.recent(flow.loss_end) else None
                flows[key] = (tuple(counts), gaps, loss)
        return (
            protocols, flows, _counts(self.totals.rest, number),
            _counts(self.totals.departed, number),
        )
