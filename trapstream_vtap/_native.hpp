// SPDX-License-Identifier: Apache-2.0
// The two hot loops: from the ring buffer to a batch of records, and from a batch to bytes; and the
// sweep, which visits every flow once an interval. Everything here runs without Python's lock.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace vtap {

using u128 = unsigned __int128;

template <typename T>
inline T load(const uint8_t *at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// What a payload holds of one interface, so that the ledger can book it wherever the payload ends.
struct Tally {
    uint32_t interface;
    uint64_t records = 0;
    uint64_t packets = 0;
    uint64_t bytes = 0;
};

inline void book(std::vector<Tally> &tallies, uint32_t interface, uint64_t records, uint64_t packets,
                 uint64_t bytes) {
    if (tallies.empty() || tallies.back().interface != interface) {
        size_t i = 0;
        while (i < tallies.size() && tallies[i].interface != interface) i++;
        if (i == tallies.size()) tallies.push_back(Tally{interface});
        std::swap(tallies[i], tallies.back());  // the next record is likely of the same interface
    }
    tallies.back().records += records;
    tallies.back().packets += packets;
    tallies.back().bytes += bytes;
}

// ---------------------------------------------------------------------------------- ring to batch

// Reads records of one size out of a BPF ring buffer into contiguous memory.
class Ring {
  public:
    Ring(int map_fd, size_t record_size) : record_size_(record_size) {
        ring_ = ring_buffer__new(map_fd, &Ring::on_record, this, nullptr);
        if (!ring_) error_ = errno;
    }
    ~Ring() { ring_buffer__free(ring_); }
    Ring(const Ring &) = delete;
    Ring &operator=(const Ring &) = delete;

    int error() const { return error_; }
    int descriptor() const { return ring_buffer__epoll_fd(ring_); }

    // Up to `most` records into `to`; returns how many, or -errno.
    long read(uint8_t *to, size_t most) {
        to_ = to;
        left_ = most;
        foreign_ = 0;
        if (most) {
            int rc = ring_buffer__consume(ring_);
            if (rc < 0 && rc != -ENOBUFS) return rc;
        }
        return foreign_ ? -EPROTO : static_cast<long>(most - left_);
    }

  private:
    static int on_record(void *self, void *data, size_t size) {
        auto &ring = *static_cast<Ring *>(self);
        if (size != ring.record_size_) {
            ring.foreign_++;
            return 0;
        }
        std::memcpy(ring.to_, data, size);
        ring.to_ += size;
        return --ring.left_ ? 0 : -ENOBUFS;  // the record is taken; libbpf stops before the next
    }

    ring_buffer *ring_ = nullptr;
    size_t record_size_;
    int error_ = 0;
    uint8_t *to_ = nullptr;
    size_t left_ = 0;
    size_t foreign_ = 0;
};

// --------------------------------------------------------------------------------- batch to bytes

// The same names as schema.Kind; those behind TIME only events have
enum class Kind {
    CONSTANT, LABEL, ADDRESS, PORT, VLAN, ID, COUNT, SIGNED, COUNT_IF, RATE, BIT_RATE, MEAN_MS, STDDEV_MS, EXTREME_MS,
    DEVIATION_MS, SMOOTHED_MS, SECONDS, RATIO, TIME_RFC3339, TIME, TIME_TEXT, NUMBER, HEX, NAME, MAC, ADDRESS_IF,
    NETWORK
};

// A short literal, copied in one go of fixed size: what is too much is overwritten by what follows.
class Literal {
  public:
    static constexpr size_t kInline = 32;

    Literal() = default;
    explicit Literal(const std::string &text) : text_(text), size_(text.size()) {
        std::memcpy(start_, text.data(), std::min(size_, kInline));
    }
    size_t size() const { return size_; }
    char *put(char *to) const {
        if (size_ <= kInline)
            std::memcpy(to, start_, kInline);
        else
            std::memcpy(to, text_.data(), size_);
        return to + size_;
    }

  private:
    char start_[kInline] = {};
    std::string text_;
    size_t size_ = 0;
};

// One exported column: what stands before and behind it, and where it comes from.
struct Slot {
    Kind kind;
    Literal before, behind;
    uint32_t at[4] = {0, 0, 0, 0};  // offsets in the record of up to four columns
    uint32_t width = 0;             // of the first column: 1, 2, 4 or 8 bytes
    uint32_t shift = 0;             // of coarse squares
    std::vector<Literal> low;       // labels of small numbers, escaped for the format
    std::unordered_map<uint32_t, Literal> high;

    void label(uint32_t number, const std::string &text) {
        if (number >= kLow) {
            high.emplace(number, Literal(text));
            return;
        }
        if (low.size() <= number) low.resize(number + 1);
        low[number] = Literal(text);
    }

    const Literal *label(uint32_t number) const {
        if (number < low.size() && low[number].size()) return &low[number];
        auto found = high.find(number);
        return found == high.end() ? nullptr : &found->second;
    }

    // Whether it is of a kind that only events have.
    bool of_event() const { return kind > Kind::TIME; }

    size_t longest() const {
        size_t text = 10;  // a number without a label
        switch (kind) {
        case Kind::CONSTANT: text = 0; break;
        case Kind::LABEL:
        case Kind::NAME:
            for (auto &literal : low) text = std::max(text, literal.size());
            for (auto &pair : high) text = std::max(text, pair.second.size());
            break;
        case Kind::ADDRESS:
        case Kind::ADDRESS_IF: text = 39; break;
        case Kind::NETWORK: text = 39 + 4; break;
        case Kind::MAC: text = 17; break;
        case Kind::PORT: text = 5; break;
        case Kind::VLAN: text = 9; break;
        case Kind::COUNT:
        case Kind::SIGNED:
        case Kind::COUNT_IF:
        case Kind::TIME: text = 20; break;
        case Kind::TIME_RFC3339: text = 30; break;
        case Kind::RATE:
        case Kind::BIT_RATE: text = 27; break;  // 20 digits, a point, 6 digits
        default: text = 21; break;              // 20 digits and a point
        }
        return before.size() + text + behind.size();
    }

  private:
    static constexpr uint32_t kLow = 1024;
};

// A payload: where its bytes lie in the plan's text, and what it holds.
struct Payload {
    size_t at = 0, length = 0;
    uint64_t records = 0;
    std::vector<uint64_t> weights;  // packets of each record
    std::vector<Tally> tallies;
};

inline char *put(char *to, const std::string &text) {
    std::memcpy(to, text.data(), text.size());
    return to + text.size();
}

inline char *integer(char *to, uint64_t value) { return std::to_chars(to, to + 20, value).ptr; }

constexpr uint64_t power(int exponent) { return exponent ? 10 * power(exponent - 1) : 1; }

// WHOLE + FRACTION / 10^PLACES, without trailing zeros but always with a digit behind the point.
template <int PLACES>
inline char *decimal(char *to, uint64_t whole, uint64_t fraction) {
    to = integer(to, whole);
    *to++ = '.';
    if (!fraction) {
        *to++ = '0';
        return to;
    }
    // a leading 1 keeps the zeros behind the point; it lands on the point and gives way to it
    char *end = integer(to - 1, power(PLACES) + fraction);
    to[-1] = '.';
    while (end[-1] == '0') end--;
    return end;
}

template <int PLACES>
inline char *decimal(char *to, uint64_t scaled) {
    return decimal<PLACES>(to, scaled / power(PLACES), scaled % power(PLACES));
}

// a * b / c, rounded half up; in 64 bits where that is enough, which is nearly always
inline uint64_t scale(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product;
    if (!__builtin_mul_overflow(a, b, &product) && product + c / 2 >= product) return (product + c / 2) / c;
    return static_cast<uint64_t>((static_cast<u128>(a) * b + c / 2) / c);
}

// COUNT things of FACTOR units each in DURATION ns (not 0), per second, to six places
inline char *rate(char *to, uint64_t count, uint64_t factor, uint64_t duration) {
    uint64_t product;
    if (__builtin_mul_overflow(count, factor * 1000000000, &product) || duration > power(12)) {
        u128 scaled = (static_cast<u128>(count) * factor * power(15) + duration / 2) / duration;
        return decimal<6>(to, static_cast<uint64_t>(scaled / power(6)), static_cast<uint64_t>(scaled % power(6)));
    }
    uint64_t whole = product / duration;
    uint64_t fraction = scale(product % duration, power(6), duration);
    if (fraction == power(6)) return decimal<6>(to, whole + 1, 0);
    return decimal<6>(to, whole, fraction);
}

inline double as_double(u128 value) {
    return static_cast<double>(static_cast<uint64_t>(value >> 64)) * 18446744073709551616.0 +
           static_cast<double>(static_cast<uint64_t>(value));
}

// sqrt(n * squares - sum²) / n, in picoseconds; the difference is exact, so nothing cancels.
inline uint64_t deviation_ps(uint64_t n, uint64_t sum, u128 squares) {
    u128 left = squares * n, right = static_cast<u128>(sum) * sum;
    if (left <= right) return 0;
    return static_cast<uint64_t>(std::sqrt(as_double(left - right)) / static_cast<double>(n) * 1000 + 0.5);
}

// The mean distance of n numbers from g, in picoseconds, where they add up to `sum` and exceed g by `excess`
// in all: what falls short of g is excess - (sum - n g), so that neither part is ever a difference of squares
// or larger than the sum of the numbers.
inline uint64_t mean_distance_ps(uint64_t n, int64_t sum, uint64_t excess, uint64_t g) {
    __int128 total = 2 * static_cast<__int128>(excess) - sum + static_cast<__int128>(n) * g;
    return total < 0 ? 0 : static_cast<uint64_t>((static_cast<u128>(total) * 1000 + n / 2) / n);
}

inline char *ipv4(char *to, const uint8_t *address) {
    for (int i = 0; i < 4; i++) {
        to = std::to_chars(to, to + 3, address[i]).ptr;
        *to++ = '.';
    }
    return to - 1;
}

// RFC 5952 section 4: lower case, no leading zeros, the longest run of zero groups (the first of
// equals, at least two) left out.
inline char *ipv6(char *to, const uint8_t *address) {
    int best = -1, length = 1;
    for (int i = 0; i < 8; i++) {
        int run = i;
        while (run < 8 && !address[2 * run] && !address[2 * run + 1]) run++;
        if (run - i > length) best = i, length = run - i;
        if (run > i) i = run;
    }
    for (int i = 0; i < 8; i++) {
        if (i == best) {
            *to++ = ':';
            if (i + length == 8) *to++ = ':';
            i += length - 1;
            continue;
        }
        if (i) *to++ = ':';
        to = std::to_chars(to, to + 4, address[2 * i] << 8 | address[2 * i + 1], 16).ptr;
    }
    return to;
}

// Two CPUs that meet may leave the sum of a few tiny gaps below zero by less than they are apart.
inline uint64_t unsigned_sum(const uint8_t *at) {
    return static_cast<uint64_t>(std::max<int64_t>(0, load<int64_t>(at)));
}

inline char *vlan(char *to, uint32_t tags) {
    to = integer(to, tags & 0xFFF);
    if (tags >> 16) {
        *to++ = '.';
        to = integer(to, (tags >> 16) & 0xFFF);
    }
    return to;
}

// An unsigned integer of 1, 2, 4 or 8 bytes.
inline uint64_t number(const uint8_t *at, uint32_t width) {
    switch (width) {
    case 1: return *at;
    case 2: return load<uint16_t>(at);
    case 4: return load<uint32_t>(at);
    default: return load<uint64_t>(at);
    }
}

inline char *mac(char *to, const uint8_t *address) {
    constexpr char digits[] = "0123456789abcdef";
    for (int i = 0; i < 6; i++) {
        *to++ = digits[address[i] >> 4];
        *to++ = digits[address[i] & 15];
        *to++ = ':';
    }
    return to - 1;
}

// NS since the epoch in seconds, always with nine digits behind the point
inline char *time_text(char *to, uint64_t ns) {
    to = integer(to, ns / power(9));
    char *end = integer(to, power(9) + ns % power(9));  // a leading 1 keeps the zeros
    *to = '.';
    return end;
}

// VALUE in so many DIGITS.
template <int DIGITS>
inline char *digits(char *to, uint64_t value) {
    for (int i = DIGITS - 1; i >= 0; i--, value /= 10) to[i] = static_cast<char>('0' + value % 10);
    return to + DIGITS;
}

// NS since the epoch as date and time, UTC (RFC 3339 section 5.6), with nanoseconds.
inline char *rfc3339(char *to, uint64_t ns) {
    const uint64_t seconds = ns / power(9), days = seconds / 86400, second = seconds % 86400;
    // years that begin on 1 March, so that the leap day is the last; 719468 days before 1970 a cycle of 400 begins
    const uint64_t day = days + 719468, cycle = day / 146097, of_cycle = day % 146097;
    const uint64_t year = (of_cycle - of_cycle / 1460 + of_cycle / 36524 - of_cycle / 146096) / 365;
    const uint64_t of_year = of_cycle - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    to = digits<4>(to, cycle * 400 + year + (month >= 10));
    *to++ = '-';
    to = digits<2>(to, month < 10 ? month + 3 : month - 9);
    *to++ = '-';
    to = digits<2>(to, of_year - (153 * month + 2) / 5 + 1);
    *to++ = 'T';
    to = digits<2>(to, second / 3600);
    *to++ = ':';
    to = digits<2>(to, second / 60 % 60);
    *to++ = ':';
    to = digits<2>(to, second % 60);
    *to++ = '.';
    to = digits<9>(to, ns % power(9));
    *to++ = 'Z';
    return to;
}

// Write one column of `record`; nothing at all where the record has none.
// Inlined into both loops: a call for each column would cost a tenth.
[[gnu::always_inline]] inline char *column(char *to, const Slot &slot, const uint8_t *record) {
    const uint8_t *a = record + slot.at[0], *b = record + slot.at[1];
    char *start = to;
    to = slot.before.put(to);
    switch (slot.kind) {
    case Kind::CONSTANT:
        break;
    case Kind::LABEL: {
        uint32_t number = slot.width == 1 ? *a : load<uint32_t>(a);
        const Literal *label = slot.label(number);
        to = label ? label->put(to) : integer(to, number);
        break;
    }
    case Kind::ADDRESS:
        to = *b == 4 ? ipv4(to, a) : ipv6(to, a);
        break;
    case Kind::PORT:
        if (!*b) return start;
        to = integer(to, load<uint16_t>(a));
        break;
    case Kind::VLAN:
        if (!load<uint32_t>(a)) return start;
        to = vlan(to, load<uint32_t>(a));
        break;
    case Kind::ID:
        if (!load<uint32_t>(b)) return start;
        to = integer(to, load<uint32_t>(a));
        break;
    case Kind::COUNT:
    case Kind::TIME:
        to = integer(to, load<uint64_t>(a));
        break;
    case Kind::SIGNED:
        to = std::to_chars(to, to + 20, load<int64_t>(a)).ptr;
        break;
    case Kind::COUNT_IF:
        if (!load<uint64_t>(a)) return start;
        to = integer(to, load<uint64_t>(b));
        break;
    case Kind::RATE:
        if (!load<uint64_t>(b)) return start;
        to = rate(to, load<uint64_t>(a), 1, load<uint64_t>(b));
        break;
    case Kind::BIT_RATE:
        if (!load<uint64_t>(b)) return start;
        to = rate(to, load<uint64_t>(a), 8, load<uint64_t>(b));
        break;
    case Kind::MEAN_MS: {
        uint64_t n = load<uint64_t>(a);
        if (!n) return start;
        to = decimal<9>(to, scale(unsigned_sum(b), 1000, n));
        break;
    }
    case Kind::STDDEV_MS: {
        uint64_t n = load<uint64_t>(a);
        if (!n) return start;
        u128 squares = load<uint64_t>(record + slot.at[2]) +
                       (static_cast<u128>(load<uint64_t>(record + slot.at[3])) << (2 * slot.shift));
        to = decimal<9>(to, deviation_ps(n, unsigned_sum(b), squares));
        break;
    }
    case Kind::EXTREME_MS:
        if (!load<uint64_t>(a)) return start;
        to = decimal<6>(to, load<uint64_t>(b));
        break;
    case Kind::DEVIATION_MS: {
        uint64_t n = load<uint64_t>(a);
        if (!n) return start;
        to = decimal<9>(to, mean_distance_ps(n, load<int64_t>(b), load<uint64_t>(record + slot.at[2]),
                                             load<uint64_t>(record + slot.at[3])));
        break;
    }
    case Kind::SMOOTHED_MS:
        if (!load<uint64_t>(a)) return start;
        to = decimal<9>(to, scale(load<uint64_t>(b), 1000, 1 << 16));
        break;
    case Kind::SECONDS:
        if (!load<uint64_t>(a)) return start;
        to = decimal<9>(to, load<uint64_t>(a));
        break;
    case Kind::TIME_RFC3339:
        to = rfc3339(to, load<uint64_t>(a));
        break;
    case Kind::RATIO: {
        uint64_t whole = load<uint64_t>(record + slot.at[2]);
        if (!load<uint64_t>(a) || !whole) return start;
        to = decimal<9>(to, scale(unsigned_sum(b), power(9), whole));
        break;
    }
    default: break;  // other kinds are those of `event_column`
    }
    return slot.behind.put(to);
}

// The value of a column of a kind that only events have; null where `b` says that there is none.
inline char *event_value(char *to, const Slot &slot, const uint8_t *record) {
    const uint8_t *a = record + slot.at[0], *b = record + slot.at[1];
    if (slot.kind == Kind::TIME_TEXT) return time_text(to, load<uint64_t>(a));
    if (!*b) return nullptr;
    switch (slot.kind) {
    case Kind::ADDRESS_IF: return *b == 4 ? ipv4(to, a) : ipv6(to, a);
    case Kind::NETWORK:
        to = *b == 4 ? ipv4(to, a) : ipv6(to, a);
        *to++ = '/';
        return integer(to, record[slot.at[2]]);
    case Kind::MAC: return mac(to, a);
    case Kind::HEX:
        *to++ = '0';
        *to++ = 'x';
        return std::to_chars(to, to + 16, number(a, slot.width), 16).ptr;
    case Kind::NAME:
        if (const Literal *label = slot.label(static_cast<uint32_t>(number(a, slot.width)))) return label->put(to);
        [[fallthrough]];
    default: return integer(to, number(a, slot.width));
    }
}

// As `column`, of any kind; by itself, so that the columns of flows stay fast.
[[gnu::noinline]] inline char *event_column(char *to, const Slot &slot, const uint8_t *record) {
    if (!slot.of_event()) return column(to, slot, record);
    char *end = event_value(slot.before.put(to), slot, record);
    return end ? slot.behind.put(end) : to;
}

// A format's plan for one kind of record.
struct Plan {
    std::string open, separator, close;  // around and between the records of a payload
    std::vector<Slot> slots;
    size_t record_size = 0;
    uint32_t interface_at = 0;
    bool counts = false;  // whether the records have packets and bytes, and where
    uint32_t packets_at = 0, bytes_at = 0;

    size_t longest() const {
        size_t total = open.size() + separator.size() + close.size();
        for (auto &slot : slots) total += slot.longest();
        return total;
    }

    // Render `count` records into payloads of at most `most_records` records and `most_bytes` bytes;
    // what does not even fit alone is booked into `too_large`. The bytes lie in `text`, payload
    // behind payload, until the next call: memory that is used again needs no new pages.
    void render(const uint8_t *records, size_t count, size_t most_records, size_t most_bytes,
                std::vector<Payload> &payloads, Payload &too_large) {
        const size_t room = longest() + open.size() + 2 * Literal::kInline;  // literals are copied with what is behind them
        if (text.size() < room) text.resize(room);
        const bool events = std::any_of(slots.begin(), slots.end(), [](auto &slot) { return slot.of_event(); });
        Payload payload;
        char *to = put(text.data(), open);
        auto finish = [&] {
            to = put(to, close);
            payload.length = static_cast<size_t>(to - text.data()) - payload.at;
            payloads.push_back(std::move(payload));
            payload = Payload();
            payload.at = static_cast<size_t>(to - text.data());
        };
        for (size_t i = 0; i < count; i++, records += record_size) {
            size_t used = static_cast<size_t>(to - text.data());
            if (text.size() - used < 2 * room) {
                text.resize(2 * text.size() + 2 * room);
                to = text.data() + used;
            }
            uint32_t interface = load<uint32_t>(records + interface_at);
            uint64_t packets = counts ? load<uint64_t>(records + packets_at) : 0;
            uint64_t bytes = counts ? load<uint64_t>(records + bytes_at) : 0;
            char *end = to;  // of the records before
            if (payload.records) to = put(to, separator);
            char *begin = to;
            if (events) {
                for (auto &slot : slots) to = event_column(to, slot, records);
            } else {
                for (auto &slot : slots) to = column(to, slot, records);
            }
            size_t length = static_cast<size_t>(to - begin);
            if (open.size() + length + close.size() > most_bytes) {
                to = end;
                too_large.records++;
                book(too_large.tallies, interface, 1, packets, bytes);
                continue;
            }
            size_t whole = static_cast<size_t>(to - text.data()) - payload.at + close.size();
            if (payload.records && (payload.records == most_records || whole > most_bytes)) {
                size_t shift = close.size() + open.size();  // this record begins the next payload
                std::memmove(end + shift, begin, length);
                to = end;
                finish();
                to = put(to, open) + length;
            }
            payload.records++;
            payload.weights.push_back(packets);
            book(payload.tallies, interface, 1, packets, bytes);
        }
        if (payload.records) finish();
    }

    std::string text;
};

// ------------------------------------------------------------------------------------------ sweep

// Where the sweep finds what it needs in a value of the flow table.
struct FlowLayout {
    uint32_t key_size, value_size;
    uint32_t interface_at;             // in the key
    uint32_t end_at;                   // in the value
    uint32_t arrivals_at[2], gaps_at[2], guest_at[2], merged_at[2], bytes_at[2];
};

struct SweepResult {
    uint64_t flows = 0;                // in the table
    uint64_t closed = 0;               // handed to the kernel program
    std::vector<Tally> pending;        // what the table held before the sweep
};

// Hands the keys of all flows whose interval is over at `now` (CLOCK_MONOTONIC, ns), or of all that
// hold anything if `force`, to the sweep program in frames of `keys_per_run` keys; in steps, so that
// the ring can be emptied in between.
class Sweep {
  public:
    Sweep(int flows_fd, int program_fd, const FlowLayout &layout, uint32_t keys_per_run)
        : flows_fd_(flows_fd), program_fd_(program_fd), layout_(layout), keys_per_run_(keys_per_run),
          keys_(kBatch * layout.key_size), values_(kBatch * layout.value_size) {}

    void begin() {
        first_ = true;
        result_ = SweepResult();
    }

    const SweepResult &result() const { return result_; }

    // Visits the next few thousand flows. 1: there are more; 0: that was all; else -errno.
    int step(uint64_t now, bool force) {
        uint32_t count = kBatch;
        int rc = bpf_map_lookup_batch(flows_fd_, first_ ? nullptr : &token_, &token_, keys_.data(),
                                      values_.data(), &count, nullptr);
        if (rc && rc != -ENOENT) return rc;
        first_ = false;
        std::vector<uint8_t> frame(kHead, 0);
        frame[kForceAt] = force;
        std::memcpy(&frame[kNowAt], &now, sizeof now);
        int failed = visit(count, now, force, frame);
        if (!failed && frame.size() > kHead) failed = flush(frame);
        return failed ? failed : !rc;
    }

  private:
    static constexpr uint32_t kBatch = 4096;
    static constexpr size_t kForceAt = 14, kNowAt = 16, kHead = 24;  // as bpf/flows/flow.c reads them

    int visit(uint32_t count, uint64_t now, bool force, std::vector<uint8_t> &frame) {
        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *key = keys_.data() + size_t{i} * layout_.key_size;
            const uint8_t *value = values_.data() + size_t{i} * layout_.value_size;
            uint64_t arrivals = 0, others = 0, packets = 0, bytes = 0;
            for (int s = 0; s < 2; s++) {
                arrivals += load<uint64_t>(value + layout_.arrivals_at[s]);
                others |= load<uint64_t>(value + layout_.gaps_at[s]) | load<uint64_t>(value + layout_.guest_at[s]);
                packets += load<uint64_t>(value + layout_.merged_at[s]);
                bytes += load<uint64_t>(value + layout_.bytes_at[s]);
            }
            result_.flows++;
            if (!arrivals && !others) continue;
            book(result_.pending, load<uint32_t>(key + layout_.interface_at), 1, arrivals + packets, bytes);
            const uint64_t line = load<uint64_t>(value + layout_.end_at) & ~uint64_t{3};
            if (!force && static_cast<int64_t>(now - line) < 0) continue;  // moments are modulo 2^64
            frame.insert(frame.end(), key, key + layout_.key_size);
            result_.closed++;
            if (frame.size() < kHead + size_t{keys_per_run_} * layout_.key_size) continue;
            if (int failed = flush(frame)) return failed;
        }
        return 0;
    }

    int flush(std::vector<uint8_t> &frame) {
        bpf_test_run_opts opts{};
        opts.sz = sizeof opts;
        opts.data_in = frame.data();
        opts.data_size_in = static_cast<uint32_t>(frame.size());
        opts.repeat = 1;
        int failed = bpf_prog_test_run_opts(program_fd_, &opts);
        frame.resize(kHead);
        return failed;
    }

    int flows_fd_, program_fd_;
    FlowLayout layout_;
    uint32_t keys_per_run_;
    std::vector<uint8_t> keys_, values_;
    bool first_ = true;
    uint32_t token_ = 0;
    SweepResult result_;
};

}  // namespace vtap
