/* SPDX-License-Identifier: GPL-2.0-only */
/* TCP's own numbers: the bytes of a stream, its holes, what fills them. */

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
