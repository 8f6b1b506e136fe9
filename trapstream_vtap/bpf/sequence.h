/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sequence numbers: what a packet's number says about those before it. docs/sequence.md has the
 * meaning of every count, with examples.
 *
 * This text is put into flow.c as it is (BCC knows maps in one text only). Constants beside those of
 * flow.c: SEQ_TCP_STREAM (else each TCP packet counts one), SEQ_NUMBERS (UDP and ICMP carry numbers)
 * with SEQ_BITS, SEQ_LITTLE_ENDIAN and SEQ_OFFSET, SEQ_SEARCH with SEQ_PATTERN, SEQ_ANCHOR and
 * SEQ_ANCHOR_AT, SEQ_THRESHOLD, MAX_EVENTS, EVENT_PAGES, TRACKED_HOLES.
 *
 * A flow's state is a few words, each changed by one atomic operation, so that two CPUs never work
 * with half of a change. Whatever two CPUs do, every packet is judged exactly once.
 */
#ifdef VTAP_SEQUENCE

/* Beside the number in `seq_last` and `seq_begin` of a TCP stream */
#define SEQ_VALID (1ULL << 32)
#define SEQ_ALONE (1ULL << 33)	/* the last byte came by itself, as that of a zero-window probe does */
#define SEQ_OPEN (1ULL << 34)	/* the end of the last segment is in a later IP fragment */
#define SEQ_SYN (1ULL << 35)	/* the SYN has been seen */
#define SEQ_TRIES 8 /* each failure means that another CPU was faster */

/* A number farther off belongs to another sequence: RFC 7323 section 2.3, the largest window of TCP */
#define SEQ_FARTHEST (1LL << 30)
#define SEQ_SAID (~0ULL >> 1) /* of a number: line protocol has signed integers */
#define SEQ_FAR 64 /* where most are, they are hardly sequence numbers, or 98 % are lost */
#define MOST_DATAGRAM 0xFFFF /* RFC 791 section 3.1 */

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04

/* The same order as EVENT_KINDS in layouts.py */
enum event_kind { REVERSE, SMALL, BIG, DUPLICATE, OUT_OF_ORDER, HOLE, RETRANSMISSION };

#define MAX_REACH 0xF000 /* the verifier grants direct access up to an offset of 0xFFFF */

#if SEQ_NUMBERS && SEQ_SEARCH

#define SEARCHED 5000 /* bytes of payload */
#define CHUNK 512
#define NOWHERE (1ULL << 32)
#define EACH_BYTE 0x0101010101010101ULL

struct scratch {
	u8 bytes[CHUNK + 16];
	u64 at, length;	 /* of the payload */
	u64 start, size; /* of what is in `bytes`, within the payload */
	u64 word;	 /* place in `bytes` */
};
BPF_PERCPU_ARRAY(scratches, struct scratch, 1);

/* Not 0 where a byte of the word at AT is the pattern's anchor (the classic test for a zero byte) */
#define ANCHORED(s, at)                                                                            \
	({                                                                                         \
		u64 w_ = *(u64 *)((s)->bytes + (at) + SEQ_ANCHOR_AT) ^ (SEQ_ANCHOR * EACH_BYTE);   \
		(w_ - EACH_BYTE) & ~w_ & (EACH_BYTE << 7);                                         \
	})

/* 1 where the pattern stands at AT, without a jump */
#define MATCHED(s, at) (((u64)(*(u32 *)((s)->bytes + (at)) ^ (u32)SEQ_PATTERN) - 1) >> 63)

/*
 * Where the pattern first stands in the payload, or NOWHERE. The packet is copied in chunks, wherever
 * its bytes lie in memory; 32 places are tried at a time, by one byte of the pattern, and only where
 * that one is the whole pattern is compared. What was found is handed on through memory, else the
 * verifier would go through all that follows once for every place.
 */
static __always_inline u64 find_pattern(struct context *ctx, u64 at, u64 length)
{
	volatile struct scratch *found;
	u64 start, size, i, j;
	struct scratch *s;
	u32 zero = 0;

	s = scratches.lookup(&zero);
	if (!s)
		return NOWHERE;
	found = s;
	if (length > SEARCHED)
		length = SEARCHED;
	found->at = at;
	found->length = length;
	for (start = 0; start < SEARCHED; start += CHUNK) {
		if (start + 4 > found->length)
			return NOWHERE;
		size = found->length - start;
		if (size > CHUNK + 3)
			size = CHUNK + 3;
		found->size = size;
		size = found->size;
		if (size < 4)
			return NOWHERE;
		asm volatile("" : "+r"(size)); /* two comparisons: from one, 6.1 learns no bounds */
		if (size > CHUNK + 3)
			return NOWHERE;
		if (load_bytes(ctx, found->at + start, s->bytes, size))
			return NOWHERE;
		found->start = start;
		for (i = 0; i < CHUNK; i += 32) {
			if (i >= found->size)
				return NOWHERE;
			if (likely(!(ANCHORED(s, i) | ANCHORED(s, i + 8) | ANCHORED(s, i + 16) |
				     ANCHORED(s, i + 24))))
				continue;
#pragma unroll
			for (j = i; j < i + 32; j += 8) {
				if (ANCHORED(s, j) &&
				    (MATCHED(s, j) | MATCHED(s, j + 1) | MATCHED(s, j + 2) |
				     MATCHED(s, j + 3) | MATCHED(s, j + 4) | MATCHED(s, j + 5) |
				     MATCHED(s, j + 6) | MATCHED(s, j + 7))) {
					found->word = j;
					goto out;
				}
			}
		}
	}
	return NOWHERE;
out:
	j = found->word;
	for (i = 0; i < 7; i++, j++) {
		if (j >= CHUNK || MATCHED(s, j))
			break;
	}
	found->word = j;
	if (found->word + 4 > found->size) /* behind its bytes are those of an older packet */
		return NOWHERE;
	return found->start + found->word;
}

#endif

#if SEQ_BITS == 16
typedef u16 carried;
#define BIG_ENDIAN(number) __builtin_bswap16(number)
#elif SEQ_BITS == 64
typedef u64 carried;
#define BIG_ENDIAN(number) __builtin_bswap64(number)
#else
typedef u32 carried;
#define BIG_ENDIAN(number) __builtin_bswap32(number)
#endif

static __always_inline void note_number(struct packet *p, carried number)
{
	p->number = SEQ_LITTLE_ENDIAN ? number : BIG_ENDIAN(number);
	p->has_number = 1;
}

/* The number that P's payload carries: of UDP and ICMP; of a merged packet, that of the first. */
static __always_inline void read_number(struct context *ctx, struct packet *p)
{
	u64 at = SEQ_OFFSET;
	carried number;

	p->has_number = 0;
	if (!SEQ_NUMBERS || !p->numbered || p->numbered == PROTOCOL_TCP)
		return;
#if SEQ_NUMBERS && SEQ_SEARCH
	at += find_pattern(ctx, p->payload_at, p->payload);
#endif
	if (at + sizeof(number) > p->payload)
		return;
	at += p->payload_at;
#if !SEQ_SEARCH && DIRECT_ACCESS
	if (at <= MAX_REACH) {
		if (!peek(ctx, true, at, number))
			note_number(p, number);
		return;
	}
#endif
	if (!load_bytes(ctx, at, &number, sizeof(number)))
		note_number(p, number);
}

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
#include "allowance.h"

/* A TIME that no other event of the flow has: that of the packet, if need be 1 ns behind the last. */
static __always_inline bool event_time(struct flow *f, u64 now, u64 *time)
{
	u64 last;
	int i;

	for (i = 0; i < SEQ_TRIES; i++) {
		last = *(volatile u64 *)&f->event_time;
		*time = is_before(last, now) ? now : last + 1;
		if (__sync_val_compare_and_swap(&f->event_time, last, *time) == last)
			return true;
	}
	return false;
}

/* Count an error in COUNTER, and tell user space at once if there is room. */
static __always_inline void sequence_error(struct flow_key *key, struct flow *f, struct link *l,
					   u64 *counter, u64 now, u32 kind, u64 expected,
					   u64 received, s64 distance)
{
	struct sequence_event *e;
	struct control *c;
	u64 time;

	__sync_fetch_and_add(counter, 1);
	c = control();
	if (!c)
		return;
	if (!event_allowed())
		goto suppressed;
	if (!event_time(f, now, &time))
		goto suppressed;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e)
		goto suppressed;
	__builtin_memcpy(e, key, sizeof(*key)); /* an event begins with its key */
	e->time = time + c->clock_offset;
	e->expected = expected & SEQ_SAID;
	e->received = received & SEQ_SAID;
	e->distance = distance;
	e->kind = kind;
	e->reserved = 0;
	events.ringbuf_submit(e, 0);
	l->events_handed++;
	return;
suppressed:
	l->events_suppressed++;
}

/* ------------------------------------------------------------------ numbers that packets carry */

static __always_inline u64 ones(u32 word)
{
	word -= word >> 1 & 0x55555555;
	word = (word & 0x33333333) + (word >> 2 & 0x33333333);
	word = (word + (word >> 4)) & 0x0F0F0F0F;
	return word * 0x01010101U >> 24;
}

/* How far it is from B to A, in numbers of 64 bits less UNUSED ones (RFC 1982 section 3.2) */
#define DISTANCE(a, b, unused) ((s64)(((a) - (b)) << (unused)) >> (unused))

/*
 * Whether LAST is smaller than the flow's first number. Once a flow has got further than a quarter of
 * all numbers, nothing is: the first would be taken for a number still to come.
 */
static __always_inline bool before_first(struct flow *f, struct slot *s, u64 last, u64 unused)
{
	u64 advanced = *(volatile u64 *)&f->seq_received + *(volatile u64 *)&f->seq_missing +
		       *(volatile u64 *)&s->arrivals + *(volatile u64 *)&s->merged;

	return DISTANCE(last, *(volatile u64 *)&f->seq_first, unused) < 0 &&
	       !(advanced >> (62 - unused));
}

/*
 * Keep the account of numbers never seen, where COUNT of them up to LAST have come: exact for what
 * comes among the 32 highest numbers; what is older is taken for one that was missing, if it is not
 * ahead of the first. ANEW: what was before belongs to another sequence.
 */
static __always_inline void account_missing(struct flow *f, struct slot *s, struct link *l,
					    u64 last, u64 count, u64 unused, bool anew)
{
	u64 seen = *(volatile u64 *)&f->seq_window, next, came = 1;
	u64 high = unused | 32; /* the window has 32 bits of a number */
	s64 ahead = DISTANCE(last, seen >> 32, high), missing;
	u32 i;

	if (likely(ahead == 1 && count == 1 && seen & 1 && !anew)) {
		next = last << 32 | (u32)((u32)seen << 1) | 1;
		if (likely(__sync_val_compare_and_swap(&f->seq_window, seen, next) == seen))
			return;
	}
	if (unlikely(count > 1))
		came = count < 32 ? (1ULL << (count & 31)) - 1 : 0xFFFFFFFF;
	for (i = 0; i < SEQ_TRIES; i++) {
		seen = *(volatile u64 *)&f->seq_window;
		ahead = DISTANCE(last, seen >> 32, high);
		missing = -(s64)count; /* less what has come before */
		next = seen;
		if (!(seen & 1) || anew) { /* the first; what is below is not expected */
			next = last << 32 | 0xFFFFFFFF;
			*(volatile u64 *)&f->seq_first = last - count + 1;
			missing = 0;
			count = 0;
		} else if (ahead > 0) {
			missing += ahead;
			next = last << 32 | came;
			if (ahead < 32)
				next |= (u32)((u32)seen << ahead);
		} else if (ahead > -32) {
			next = seen | (u32)(came << (-ahead & 31));
			missing = -(s64)ones((u32)next ^ (u32)seen);
		} else if ((s64)*(volatile u64 *)&f->seq_missing < (s64)count ||
			   before_first(f, s, last, unused)) {
			missing = 0;
		}
		if (next == seen || __sync_val_compare_and_swap(&f->seq_window, seen, next) == seen)
			goto done;
	}
	return;
done:
	if (ahead > 0) { /* so many of them are new, at the least */
		count = missing < 0 ? -missing : 0;
		if (missing < 0)
			missing = 0;
	} else {
		count += missing;
	}
	if (missing) {
		__sync_fetch_and_add(&f->seq_missing, missing);
		l->numbers_missing += missing;
		if (missing < 0)
			l->numbers_late -= missing;
	}
	if (count) {
		__sync_fetch_and_add(&s->seq_again, count);
		if (before_first(f, s, last, unused))
			l->numbers_earlier += count;
		else
			l->numbers_twice += count;
	}
}

/*
 * COUNT numbers of 64 bits less UNUSED ones, from FIRST on, have come together (more than one: in a
 * merged packet).
 */
static __always_inline void check_number(struct flow_key *key, struct flow *f, struct slot *s,
					 struct link *l, u64 now, u64 first, u64 count,
					 u64 unused)
{
	u64 mask = ~0ULL >> unused;
	u64 last = (first + count - 1) & mask;
	u64 begun = *(volatile u64 *)&f->seq_window & 1;
	u64 before = __sync_lock_test_and_set(&f->seq_last, last), *counter;
	s64 distance = DISTANCE(first, before, unused);
	bool anew = distance > SEQ_FARTHEST || distance < -SEQ_FARTHEST;
	u32 kind;

	begun |= before; /* even if another CPU has not got further yet */
	l->numbers_read += count;
	account_missing(f, s, l, last, count, unused, begun && anew);
	if (likely(distance == 1 || !begun))
		return;
	if (unlikely(anew))
		__sync_fetch_and_add(&s->seq_restarts, 1);
	if (distance > SEQ_FAR || distance < -SEQ_FAR)
		l->numbers_far++;
	if (distance == 0) {
		kind = DUPLICATE;
		counter = &s->seq_duplicate;
		l->numbers_repeated++;
	} else if (distance < 0) {
		kind = REVERSE;
		counter = &s->seq_reverse;
	} else if (distance <= SEQ_THRESHOLD) {
		kind = SMALL;
		counter = &s->seq_small;
	} else {
		kind = BIG;
		counter = &s->seq_big;
	}
	sequence_error(key, f, l, counter, now, kind, (before + 1) & mask, first, distance);
}

/* --------------------------------------------------------------------------------- TCP streams */

#if SEQ_TCP_STREAM

/*
 * Where a segment that is out of line is worked on. In memory, not in registers: of what it reads
 * there the verifier knows nothing, so that it need not go through all that follows once for every
 * way in which the values may have come about.
 */
struct segment {
	u32 sequence, end;  /* first byte, first byte behind */
	u32 expected;	    /* what would have been in line */
	u32 filled;	    /* bytes that were missing */
	u32 rest_from, rest_to; /* behind the segment in a hole that it has split */
	u32 fragment;	    /* 1: it ends in a later IP fragment, nobody knows where */
	u32 begins;	    /* 1: a stream; 2: another one, without a word of it (SYN) */
	u32 late_syn;	    /* 1: the SYN that the stream began with, seen after what follows it */
	u32 again;	    /* bytes that have been seen before */
	s64 distance;	    /* from the expected number; 0: in line */
};
BPF_PERCPU_ARRAY(segments, struct segment, 1);

static __always_inline void open_hole(struct flow *f, u32 from, u32 to)
{
	u64 *holes = (u64 *)f->seq_holes;
	u32 i;

#pragma unroll
	for (i = 0; i < TRACKED_HOLES; i++)
		if (!*(volatile u64 *)&holes[i] &&
		    !__sync_val_compare_and_swap(&holes[i], 0, (u64)from << 32 | to))
			return;
	__sync_fetch_and_add(&f->seq_untracked, (u64)(u32)(to - from));
}

/* Count in G how many of its bytes were missing; they are not any more. */
static __always_inline void fill_holes(struct flow *f, volatile struct segment *g)
{
	u64 *holes = (u64 *)f->seq_holes;
	u32 i, first, last, begin, end, open;
	u64 hole, rest;
	s64 untracked;

	g->filled = 0;
	g->rest_from = g->rest_to;
#pragma unroll
	for (i = 0; i < TRACKED_HOLES; i++) {
		hole = *(volatile u64 *)&holes[i];
		first = hole >> 32;
		last = hole;
		begin = g->sequence;
		if ((s32)(begin - first) < 0)
			begin = first;
		end = g->end;
		if ((s32)(last - end) < 0)
			end = last;
		if (!hole || (s32)(end - begin) <= 0 || (g->fragment && begin != g->sequence))
			continue;
		rest = begin != first ? (u64)first << 32 | begin : end != last ? (u64)end << 32 | last : 0;
		if (__sync_val_compare_and_swap(&holes[i], hole, rest) != hole)
			continue; /* another CPU has just filled it */
		g->filled += end - begin;
		if (begin != first && end != last) {
			g->rest_from = end;
			g->rest_to = last;
		}
	}
	if (g->rest_from != g->rest_to)
		open_hole(f, g->rest_from, g->rest_to);
	untracked = *(volatile u64 *)&f->seq_untracked;
	open = g->end - g->sequence - g->filled;
	if (unlikely(untracked > 0) && open) {
		if (untracked > open)
			untracked = open;
		__sync_fetch_and_add(&f->seq_untracked, -untracked);
		g->filled += untracked;
	}
}

/* Move the expected number on by G, a segment with FLAGS; false where it says nothing about others. */
static __always_inline bool place(struct flow *f, volatile struct segment *g, u32 flags)
{
	u64 state, next, begin = *(volatile u64 *)&f->seq_begin;
	u32 i, expected, length = g->end - g->sequence;
	s32 distance, beyond;
	bool again, moves;

	for (i = 0; i < SEQ_TRIES; i++) {
		state = *(volatile u64 *)&f->seq_last;
		expected = state;
		distance = g->sequence - expected;
		beyond = g->end - expected;
		moves = !state || beyond || g->fragment;
		again = flags & TCP_SYN && begin && (u32)begin == g->sequence; /* RFC 9293 section 3.10.7.4 */
		g->begins = 0;
		g->again = 0;
		if (!state || (flags & TCP_SYN && !again)) {
			g->begins = 1;
			distance = 0;
		} else if (again && distance >= 0) { /* 2 GiB and more behind: no number says how far */
			return false;
		} else if (distance > SEQ_FARTHEST || (distance < -SEQ_FARTHEST && !again && length)) {
			g->begins = 2;
			distance = 0;
		} else if (distance > 0) {
			if (state & SEQ_OPEN && distance <= MOST_DATAGRAM)
				distance = 0;
		} else if (distance < 0) {
			if (!length)
				return false; /* an acknowledgement */
			if (distance == -1 && !(flags & (TCP_SYN | TCP_FIN)) && length == 1) {
				g->again = 1; /* a keep-alive (RFC 9293 section 3.8.4), or a probe once more */
				g->distance = g->late_syn = 0;
				return true;
			}
			if (distance == -1 && state & SEQ_ALONE && beyond > 0 && !again) {
				g->again = 1; /* behind a zero-window probe (RFC 9293 section 3.8.6.1) */
				distance = 0;
			}
			if (beyond < 0)
				moves = false;
		}
		next = SEQ_VALID | g->end;
		if (g->fragment)
			next |= SEQ_OPEN;
		else if (!distance && length == 1 && !(flags & (TCP_SYN | TCP_FIN)))
			next |= SEQ_ALONE;
		g->expected = expected;
		g->distance = distance;
		if (!moves || __sync_val_compare_and_swap(&f->seq_last, state, next) == state)
			break;
	}
	g->late_syn = again && !(begin & SEQ_SYN);
	if (g->late_syn)
		*(volatile u64 *)&f->seq_begin = begin | SEQ_SYN;
	return true;
}

/* A stream begins with G. */
static __always_inline void begin_stream(struct flow *f, volatile struct segment *g, u32 flags)
{
	u64 *holes = (u64 *)f->seq_holes, initial = flags & TCP_SYN ? SEQ_SYN : 0;
	u32 i;

#pragma unroll
	for (i = 0; i < TRACKED_HOLES; i++)
		__sync_lock_test_and_set(&holes[i], 0);
	__sync_lock_test_and_set(&f->seq_untracked, 0);
	initial |= flags & TCP_SYN ? g->sequence : (u32)(g->sequence - 1);
	*(volatile u64 *)&f->seq_begin = SEQ_VALID | initial;
}

/* A segment (several merged ones are one) that is not simply the next. */
static __always_inline void check_out_of_line(struct flow_key *key, struct flow *f, struct slot *s,
					      struct link *l, u64 now, u32 sequence, u32 length,
					      u32 flags)
{
	u64 *counter = &s->seq_duplicate;
	volatile struct segment *g;
	u32 kind = RETRANSMISSION, marks = !!(flags & TCP_SYN) + !!(flags & TCP_FIN), zero = 0;

	g = segments.lookup(&zero);
	if (!g)
		return;
	g->sequence = sequence;
	g->end = sequence + length;
	g->fragment = !!(flags & TCP_FRAGMENT);
	if (!place(f, g, flags))
		return;
	if (g->begins) {
		begin_stream(f, g, flags);
		if (g->begins > 1)
			__sync_fetch_and_add(&s->seq_restarts, 1);
	}
	if (g->distance > 0) {
		__sync_fetch_and_add(&f->seq_missing, g->distance);
		l->stream_missing += g->distance;
		open_hole(f, g->expected, g->sequence);
		kind = HOLE;
		counter = g->distance <= SEQ_THRESHOLD ? &s->seq_small : &s->seq_big;
	} else if (g->distance < 0) {
		if ((s32)(g->end - g->expected) > 0)
			g->end = g->expected;
		g->again = g->end - sequence;
		if (g->fragment) {
			g->end = g->expected;
			if ((u32)(g->end - sequence) > MOST_DATAGRAM)
				g->end = sequence + MOST_DATAGRAM;
		}
		fill_holes(f, g);
		g->again -= g->filled < g->again ? g->filled : g->again;
		if (g->filled) {
			__sync_fetch_and_add(&f->seq_missing, -(u64)g->filled);
			l->stream_missing -= g->filled;
		}
		if (g->filled || g->late_syn) {
			kind = OUT_OF_ORDER;
			counter = &s->seq_reverse;
			l->stream_late++;
		} else {
			l->stream_twice++;
		}
	}
	if (g->again > marks) { /* of payload */
		__sync_fetch_and_add(&s->seq_again, g->again - marks);
		l->stream_again += g->again - marks;
	}
	if (g->distance)
		sequence_error(key, f, l, counter, now, kind, g->expected, sequence, g->distance);
}

static __always_inline void check_stream(struct flow_key *key, struct flow *f, struct slot *s,
					 struct link *l, u64 now, u32 sequence, u32 payload, u32 flags,
					 u64 packets)
{
	u64 state = *(volatile u64 *)&f->seq_last;
	u32 length = payload + !!(flags & TCP_SYN) + !!(flags & TCP_FIN);

	if (unlikely(flags & TCP_RST)) { /* may say any number (RFC 9293 section 3.5.2) */
		__sync_fetch_and_add(&s->seq_none, packets);
		return;
	}
	l->stream_read += payload;
	if (likely(state == (SEQ_VALID | sequence) && length != 1 && !(flags & (TCP_SYN | TCP_FRAGMENT)))) {
		if (!length)
			return;
		if (likely(__sync_val_compare_and_swap(&f->seq_last, state,
						       SEQ_VALID | (u32)(sequence + length)) ==
			   state))
			return;
	}
	check_out_of_line(key, f, s, l, now, sequence, length, flags);
}

#endif

/* What P's number says; P's key has only what tells flows apart, `numbered` the protocol. */
static __always_inline void check_sequence(struct packet *p, struct flow *f, struct slot *s,
					   struct link *l, u64 now, u64 packets)
{
	struct flow_key *key = (struct flow_key *)p;
	u64 unused = 64 - SEQ_BITS;

	if (p->numbered == PROTOCOL_TCP) {
#if SEQ_TCP_STREAM
		check_stream(key, f, s, l, now, p->tcp_sequence, p->payload, p->tcp_flags, packets);
		return;
#else
		p->number = p->tcp_sequence;
		p->has_number = 1;
		unused = 32;
		if (SEQ_BITS != 32) /* else it is a constant, and all that follows shorter */
			blur(unused);
#endif
	}
	if ((SEQ_NUMBERS || !SEQ_TCP_STREAM) && p->has_number) {
		check_number(key, f, s, l, now, p->number, packets, unused);
		return;
	}
	__sync_fetch_and_add(&s->seq_none, packets);
	if (SEQ_NUMBERS && p->numbered)
		l->numberless += packets;
}

/* Hand over what slot S and flow F have; R's other members are filled already. */
static __always_inline void close_sequence(struct flow_record *r, struct flow *f, struct slot *s)
{
	u64 none = __sync_lock_test_and_set(&s->seq_none, 0);
	u64 again = __sync_lock_test_and_set(&s->seq_again, 0);
	u64 numbered = r->packets - none;
	u64 stream = *(volatile u64 *)&f->seq_begin, last = *(volatile u64 *)&f->seq_last;
	s64 missing, expected;

	r->seq_received = __sync_fetch_and_add(&f->seq_received, numbered) + numbered;
	r->seq_reverse = __sync_lock_test_and_set(&s->seq_reverse, 0);
	r->seq_small = __sync_lock_test_and_set(&s->seq_small, 0);
	r->seq_big = __sync_lock_test_and_set(&s->seq_big, 0);
	r->seq_duplicate = __sync_lock_test_and_set(&s->seq_duplicate, 0);
	r->seq_errors = r->seq_reverse + r->seq_small + r->seq_big + r->seq_duplicate;
	r->seq_restarts = __sync_lock_test_and_set(&s->seq_restarts, 0);
	r->seq_last = stream ? (u32)last : last & SEQ_SAID;
	missing = *(volatile u64 *)&f->seq_missing;
	if (missing < 0)
		missing = 0;
	r->seq_missing = missing;
	r->seq_missed = missing - __sync_lock_test_and_set(&f->seq_missing_closed, missing);
	expected = (stream ? r->payload_bytes : numbered) + r->seq_missed - again;
	r->seq_expected = expected > 0 ? expected : 0;
}

#endif
