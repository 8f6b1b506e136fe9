/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Round-trip times as a guest of the flow program (flows/guest.h): into the flow of what was answered.
 *
 * Generated in front, beside what rtt/pairs.h says: where somebody scrapes RTT_HISTOGRAMS, how many there are, the
 * structures rtt_place and rtt_histogram, and what lib/histogram.h needs.
 */
#include "lib/extreme.h"
#include "rtt/pairs.h"

BPF_PERCPU_ARRAY(answered_packets, struct packet, 1);

#ifdef RTT_HISTOGRAMS
#include "lib/histogram.h"
BPF_ARRAY(rtt_places, struct rtt_place, SPREAD);
BPF_PERCPU_ARRAY(rtt_histograms, struct rtt_histogram, RTT_HISTOGRAMS);

static __always_inline void book_histogram(struct packet *p, u64 time, u32 kind, u32 side)
{
	struct rtt_histogram *h;
	struct rtt_place *place;
	u32 i, at, bucket = bucket_of(time);

#pragma unroll
	for (i = 0; i < SPREAD_TRIES; i++) {
		at = spread_place(p->interface, i);
		place = rtt_places.lookup(&at);
		if (place && place->interface == p->interface) {
			at = (place->number * 2 + side) * RTT_KINDS + kind;
			h = rtt_histograms.lookup(&at);
			if (h && bucket < BUCKETS) {
				h->sum += time;
				h->buckets[bucket]++;
			}
			return;
		}
	}
}
#endif

/* The slot of the flow of P, or (ANSWERED) of the packet that P answers, which LEFT; NULL: there is none. */
static __always_inline struct slot *slot_of(struct packet *p, bool answered, u32 left)
{
	struct packet *a;
	struct flow *f;
	u64 end;
	u32 zero = 0;

	a = answered_packets.lookup(&zero);
	if (!a)
		return NULL;
	*a = *p;
	if (answered) {
		a->src[0] = p->dst[0];
		a->src[1] = p->dst[1];
		a->dst[0] = p->src[0];
		a->dst[1] = p->src[1];
		a->ports = p->ports >> 16 | p->ports << 16;
		a->traits = (p->traits & ~TRAITS_EGRESS) | (left ? TRAITS_EGRESS : 0);
	}
	mask(a);
	asm volatile("" : : : "memory");
	f = flows.lookup((struct flow_key *)a);
	if (!f)
		return NULL;
	end = *(volatile u64 *)&f->end;
	return COUNTS(f, end);
}

static __always_inline void guest_sees(struct context *ctx, struct packet *p, const bool egress)
{
	__be32 head[2] = {};
	enum rtt_kind kind = kind_of(ctx, p, head);
	struct rtt_counts *c = counts_of(kind);
	struct outcome *o;
	struct slot *s;
	u64 time, before;
	u32 zero = 0;

	o = outcomes.lookup(&zero);
	if (!c || !o)
		return;
	c->seen_packets++;
	if (kind == RTT_OTHER)
		return;
	o->time = 0;
	o->lost = o->lost_own = 0;
	follow(ctx, p, o, c, kind, head, egress);
	if (unlikely(o->lost_own)) {
		s = slot_of(p, false, egress);
		if (s)
			__sync_fetch_and_add(&s->rtt_invalidated, o->lost_own);
	}
	if (likely(!o->time && !o->lost))
		return;
	s = slot_of(p, true, o->left);
	time = o->time;
	before = o->before;
	if (!s) {
		c->samples_lost += !!time;
		return;
	}
	if (o->lost)
		__sync_fetch_and_add(&s->rtt_invalidated, o->lost);
	if (!time)
		return;
	raise_to(&s->rtt_max, time);
	raise_to(&s->rtt_min_inverted, ~time);
	__sync_fetch_and_add(&s->rtt_sum, time);
	if (before) {
		__sync_fetch_and_add(&s->rtt_jitter, time > before ? time - before : before - time);
		__sync_fetch_and_add(&s->rtt_neighbours, 1);
	}
	if (o->handshake) {
		__sync_fetch_and_add(&s->rtt_handshake, time);
		__sync_fetch_and_add(&s->rtt_handshakes, 1);
	}
	c->samples_booked++;
	__sync_fetch_and_add(&s->rtt_count, 1); /* last: with it they are handed over */
#ifdef RTT_HISTOGRAMS
	book_histogram(p, time, kind, !o->left && egress);
#endif
}

static __always_inline bool guest_gathered(struct slot *s)
{
	return *(volatile u64 *)&s->rtt_count;
}

static __always_inline void guest_hands_over(struct flow_record *r, struct slot *s)
{
	u64 inverted;

	r->rtt_count = __sync_lock_test_and_set(&s->rtt_count, 0);
	r->rtt_sum = __sync_lock_test_and_set(&s->rtt_sum, 0);
	r->rtt_max = __sync_lock_test_and_set(&s->rtt_max, 0);
	inverted = __sync_lock_test_and_set(&s->rtt_min_inverted, 0);
	r->rtt_min = ~inverted;
	r->rtt_jitter = __sync_lock_test_and_set(&s->rtt_jitter, 0);
	r->rtt_neighbours = __sync_lock_test_and_set(&s->rtt_neighbours, 0);
	r->rtt_handshake = __sync_lock_test_and_set(&s->rtt_handshake, 0);
	r->rtt_handshakes = __sync_lock_test_and_set(&s->rtt_handshakes, 0);
	r->rtt_invalidated = __sync_lock_test_and_set(&s->rtt_invalidated, 0);
	/* Another CPU may be in the middle of its sample: then part of that goes with the next record */
	if (!inverted)
		r->rtt_min = r->rtt_max;
}
