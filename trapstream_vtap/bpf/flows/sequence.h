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

/* The same order as EVENT_KINDS in layouts.py */
enum event_kind { REVERSE, SMALL, BIG, DUPLICATE, OUT_OF_ORDER, HOLE, RETRANSMISSION };

#include "flows/number.h"
#include "flows/event.h"
#include "flows/numbers.h"
#include "flows/stream.h"

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
