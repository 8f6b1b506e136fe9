// SPDX-License-Identifier: Apache-2.0
// What a scrape shows: summaries of flows added up by protocol, and the top flows by themselves.
// Everything here runs without Python's lock.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "_native.hpp"

namespace vtap {

constexpr size_t kMostCounts = 7;
constexpr size_t kMostKey = 56;
using Counts = std::array<uint64_t, kMostCounts>;
using Key = std::array<uint8_t, kMostKey>;

inline void add(Counts &to, const Counts &counts) {
    for (size_t i = 0; i < kMostCounts; i++) to[i] += counts[i];
}

// Where a summary has what is added up.
struct SummaryLayout {
    uint32_t record_size, key_size;
    uint32_t interface_at, direction_at, protocol_at;
    bool by_protocol;                 // whether the key has it
    uint32_t time_at;
    uint32_t counts_at[kMostCounts];  // the first is of packets, the second of bytes
    uint32_t counts;                  // how many there are
    uint32_t first_rare;              // from this one on, a flow has a series once it is not zero
    uint32_t gaps_at[4];              // n, sum (ns), sum of squares (ns²), the same of coarse ones
    uint32_t coarse_shift;
    uint32_t loss_at[2];              // change of what is missing (signed), what was expected
    bool numbered;                    // whether the summary has that
    uint64_t longest;                 // interval, ns
};

// What is missing by sequence numbers, of what was expected: numbers, or bytes of TCP.
struct Loss {
    int64_t missed = 0;
    uint64_t expected = 0;

    void add(const Loss &loss) {
        missed += loss.missed;
        expected += loss.expected;
    }
    double ratio() const { return missed > 0 ? static_cast<double>(missed) / static_cast<double>(expected) : 0; }
};

// Inter-arrival times.
struct Gaps {
    uint64_t count = 0;
    double seconds = 0;    // their sum
    double deviations = 0; // sum of the squares of how far each is from the mean of its flow, s²

    void add(const Gaps &gaps) {
        count += gaps.count;
        seconds += gaps.seconds;
        deviations += gaps.deviations;
    }
    double mean() const { return seconds / static_cast<double>(count); }
    double jitter() const { return std::sqrt(deviations / static_cast<double>(count)); }
};

// A flow that has been seen lately; all times by the wall clock, ns.
struct Known {
    Key key;
    Counts pending{};          // since the last scrape
    Counts values{};           // what its series shows, if it has one
    double score = 0;          // bytes, those of a half-life before `scored` half
    uint64_t scored = 0, last = 0;
    Gaps gaps;                 // of the latest interval that had any, which ended at
    uint64_t gaps_end = 0;
    Loss loss;                 // likewise of the latest that expected numbers
    uint64_t loss_end = 0;
    uint64_t period = 0;       // in which it was last counted
    uint32_t protocol = 0;     // position
    bool shown = false;
    uint32_t happened = 0;     // bits: rare counts that have a series
};

// An interface, direction and protocol; its number is 256 where the flows are not told apart by it.
struct Protocol {
    uint32_t interface = 0;
    uint16_t direction = 0, number = 0;
    Counts counts{};
    Counts held{};             // of these, what flows will not show before the next scrape
    uint64_t flows = 0;        // in this period
    Gaps gaps;
    uint64_t latest_flows = 0; // in the latest period that is over
    Gaps latest_gaps;
    uint64_t gaps_end = 0;
    Loss loss, latest_loss;
    uint64_t loss_end = 0;
};

class Totals {
  public:
    // Shows the TOP flows; remembers at most LIMIT, more than TOP. SEED: nobody outside may know it.
    Totals(size_t top, size_t limit, uint64_t seed) : top_(top), limit_(limit), seed_(seed | 1) { index(); }

    // Summaries are laid out like that from now on; unless SAME, their flows are others than before.
    // NUMBERS: of interfaces, by index.
    void use(const SummaryLayout &layout, std::unordered_map<uint32_t, uint32_t> numbers, bool same) {
        layout_ = layout;
        numbers_ = std::move(numbers);
        if (same) return;
        for (auto &flow : flows_) leave(flow);
        flows_.clear();
        index();
    }

    void add_summaries(const uint8_t *records, size_t count) {
        for (size_t i = 0; i < count; i++) add_summary(records + i * layout_.record_size);
    }

    // An interval has ended, all its summaries have been added.
    void end_interval(uint64_t now) {
        if (now < now_)  // somebody has set the clock back
            for (auto &flow : flows_) flow.last = std::min(flow.last, now), flow.scored = std::min(flow.scored, now);
        now_ = now;
        period_++;
        for (auto &protocol : protocols) {
            protocol.latest_flows = std::exchange(protocol.flows, 0);
            Gaps gaps = std::exchange(protocol.gaps, Gaps());
            if (gaps.count) {
                protocol.latest_gaps = gaps;
                protocol.gaps_end = now;
            } else if (!recent(protocol.gaps_end)) {
                protocol.latest_gaps = Gaps();
            }
            Loss loss = std::exchange(protocol.loss, Loss());
            if (loss.expected) {
                protocol.latest_loss = loss;
                protocol.loss_end = now;
            } else if (!recent(protocol.loss_end)) {
                protocol.latest_loss = Loss();
            }
        }
    }

    // Decide which flows are shown from now on, and bring what they show up to date.
    void scrape() {
        std::vector<std::pair<double, uint32_t>> ranking;
        std::vector<bool> gone(flows_.size());
        for (uint32_t i = 0; i < flows_.size(); i++) {
            Known &flow = flows_[i];
            bool unseen = flow.shown && flow.pending != Counts{};
            gone[i] = now_ > flow.last + idle() && !unseen;
            if (!gone[i]) ranking.emplace_back(-score(flow, now_), i);
        }
        for (auto &protocol : protocols) protocol.held = Counts{};
        size_t top = std::min(top_, ranking.size());
        if (top < ranking.size()) std::nth_element(ranking.begin(), ranking.begin() + static_cast<long>(top), ranking.end());
        std::vector<bool> chosen(flows_.size());
        for (size_t i = 0; i < top; i++) chosen[ranking[i].second] = true;
        for (size_t i = 0; i < flows_.size(); i++) {
            Known &flow = flows_[i];
            if (!chosen[i]) {
                leave(flow);
                continue;
            }
            Counts held{};
            if (flow.shown || !scraped_) {
                held = begin_rare(flow);
                add(flow.values, flow.pending);
            } else {
                add(rest, flow.pending);
            }
            flow.pending = held;
            flow.shown = true;
        }
        scraped_ = true;
        forget(gone);
    }

    // What scrape() has brought up to date.
    Counts rest{}, departed{};
    std::vector<Protocol> protocols;
    std::vector<Known> flows_;

    // Whether what ended then is still the latest there is.
    bool recent(uint64_t end) const { return end + layout_.longest > now_; }

  private:
    static constexpr uint64_t kSecond = 1000000000;
    static constexpr uint64_t kHalfLife = 60 * kSecond;
    static constexpr uint32_t kNone = UINT32_MAX;

    uint64_t idle() const { return std::max(60 * kSecond, 2 * layout_.longest); }

    static double score(const Known &flow, uint64_t now) {
        if (now <= flow.scored) return flow.score;
        return flow.score * std::exp2(-static_cast<double>(now - flow.scored) / static_cast<double>(kHalfLife));
    }

    // Series of what has happened for the first time: they begin with zero, so that rates see all.
    // What that is, is taken out of what is pending.
    Counts begin_rare(Known &flow) {
        Counts held{};
        for (uint32_t i = layout_.first_rare; i < layout_.counts; i++) {
            if (!flow.pending[i] || flow.happened >> i & 1) continue;
            flow.happened |= 1u << i;
            if (scraped_) held[i] = std::exchange(flow.pending[i], 0);
        }
        add(protocols[flow.protocol].held, held);
        return held;
    }

    void leave(Known &flow) {
        if (flow.shown) add(departed, flow.values);
        add(rest, flow.pending);
        flow.values = flow.pending = Counts{};
        flow.shown = false;
        flow.happened = 0;
    }

    void add_summary(const uint8_t *record) {
        Counts counts{};
        for (size_t i = 0; i < layout_.counts; i++) counts[i] = load<uint64_t>(record + layout_.counts_at[i]);
        Key key{};
        std::memcpy(key.data(), record, layout_.key_size);
        uint32_t interface = load<uint32_t>(record + layout_.interface_at);
        auto number = numbers_.find(interface);
        if (number != numbers_.end()) interface = number->second;
        std::memcpy(key.data() + layout_.interface_at, &interface, sizeof interface);
        uint64_t time = load<uint64_t>(record + layout_.time_at);

        Known &flow = known(key, time);
        Protocol &protocol = protocols[flow.protocol];
        add(protocol.counts, counts);
        add(flow.pending, counts);
        flow.score = score(flow, time) + static_cast<double>(counts[1]);
        flow.scored = flow.last = time;
        if (counts[0] && flow.period != period_) {
            flow.period = period_;
            protocol.flows++;
        }
        Loss loss;
        if (layout_.numbered)
            loss = Loss{load<int64_t>(record + layout_.loss_at[0]), load<uint64_t>(record + layout_.loss_at[1])};
        if (loss.expected) {
            flow.loss = loss;
            flow.loss_end = time;
            protocol.loss.add(loss);
        }
        Gaps gaps = gaps_of(record);
        if (!gaps.count) return;
        flow.gaps = gaps;
        flow.gaps_end = time;
        protocol.gaps.add(gaps);
    }

    Gaps gaps_of(const uint8_t *record) const {
        Gaps gaps;
        uint64_t n = gaps.count = load<uint64_t>(record + layout_.gaps_at[0]);
        if (!n) return gaps;
        uint64_t sum = unsigned_sum(record + layout_.gaps_at[1]);
        u128 squares = load<uint64_t>(record + layout_.gaps_at[2]) +
                       (static_cast<u128>(load<uint64_t>(record + layout_.gaps_at[3])) << (2 * layout_.coarse_shift));
        u128 left = squares * n, right = static_cast<u128>(sum) * sum;  // exact, so nothing cancels
        gaps.seconds = static_cast<double>(sum) / 1e9;
        if (left > right) gaps.deviations = as_double(left - right) / static_cast<double>(n) / 1e18;
        return gaps;
    }

    Known &known(const Key &key, uint64_t time) {
        size_t at = place(key);
        if (places_[at] != kNone) return flows_[places_[at]];
        if (flows_.size() >= limit_) {
            forget_half(time);
            at = place(key);
        }
        places_[at] = static_cast<uint32_t>(flows_.size());
        flows_.push_back(Known{key});
        flows_.back().protocol = protocol_of(key);
        return flows_.back();
    }

    uint32_t protocol_of(const Key &key) {
        uint32_t interface = load<uint32_t>(key.data() + layout_.interface_at);
        uint16_t direction = key[layout_.direction_at], number = layout_.by_protocol ? key[layout_.protocol_at] : 256;
        auto found = protocol_.emplace(uint64_t{interface} << 16 | direction << 9 | number, protocols.size());
        if (found.second) {
            protocols.emplace_back();
            protocols.back().interface = interface;
            protocols.back().direction = direction;
            protocols.back().number = number;
        }
        return found.first->second;
    }

    // The table is full: the half that has mattered least lately goes, of those that are not shown.
    void forget_half(uint64_t now) {
        std::vector<std::pair<double, uint32_t>> ranking;
        for (uint32_t i = 0; i < flows_.size(); i++)
            if (!flows_[i].shown) ranking.emplace_back(score(flows_[i], now), i);
        size_t half = (ranking.size() + 1) / 2;
        std::nth_element(ranking.begin(), ranking.begin() + static_cast<long>(half - 1), ranking.end());
        std::vector<bool> gone(flows_.size());
        for (size_t i = 0; i < half; i++) {
            gone[ranking[i].second] = true;
            leave(flows_[ranking[i].second]);
        }
        forget(gone);
    }

    void forget(const std::vector<bool> &gone) {
        size_t kept = 0;
        for (size_t i = 0; i < gone.size(); i++) {
            if (gone[i]) continue;
            if (kept != i) flows_[kept] = flows_[i];
            kept++;
        }
        if (kept == flows_.size()) return;
        flows_.resize(kept, Known{});
        index();
    }

    // ---- which flow is where: a hash table of positions

    void index() {
        if (places_.empty()) {
            size_t size = 1;
            while (size < 2 * limit_) size *= 2;
            places_.resize(size);
        }
        std::fill(places_.begin(), places_.end(), kNone);
        for (uint32_t i = 0; i < flows_.size(); i++) places_[place(flows_[i].key)] = i;
    }

    // Where KEY is, or belongs.
    size_t place(const Key &key) const {
        size_t at = hash(key) & (places_.size() - 1);
        while (places_[at] != kNone && flows_[places_[at]].key != key) at = (at + 1) & (places_.size() - 1);
        return at;
    }

    // Others choose their ports and addresses: the seed keeps them from choosing places, too.
    uint64_t hash(const Key &key) const {
        uint64_t state = seed_;
        for (size_t i = 0; i < kMostKey; i += 8) {
            u128 product = static_cast<u128>(state ^ load<uint64_t>(key.data() + i)) * (seed_ ^ 0x9E3779B97F4A7C15ULL * (i | 1));
            state = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
        }
        return state;
    }

    size_t top_, limit_;
    uint64_t seed_;
    SummaryLayout layout_{};
    std::unordered_map<uint32_t, uint32_t> numbers_;
    std::unordered_map<uint64_t, uint32_t> protocol_;
    std::vector<uint32_t> places_;
    uint64_t now_ = 0, period_ = 1;
    bool scraped_ = false;
};

}  // namespace vtap
