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

/*
 * The slot that gathers of the flow of P, or (ANSWERED) of the packet that P answers, which LEFT; NULL: there is
 * none.
 */
static __always_inline struct slot *slot_of(struct packet *p, bool answered, u32 left)
{
	struct packet *a;
	struct flow *f;
	u64 end, now;
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
	now = NOW();
	/* nothing of the flow may have come by since, unless P has just been counted in its own */
	if ((answered || !FORGET) && unlikely(!is_before(now, LINE(end))))
		end = close_intervals((struct flow_key *)a, f, now, true, false);
	return COUNTS(f, end);
}

/* So many probes that wait in the flow of S have been dropped. */
static __always_inline void book_dropped(struct slot *s, u32 dropped)
{
	if (!s)
		return;
	__sync_fetch_and_add(&s->rtt_invalidated, dropped);
	__sync_fetch_and_add(&s->rtt_events, 1); /* last: what has any is handed over */
}

static __always_inline void book_sample(struct slot *s, struct outcome *o, u32 kind)
{
	raise_to(&s->rtt_max, o->time);
	raise_to(&s->rtt_min_inverted, ~o->time);
	add_time(o, &s->rtt_sum, &s->rtt_jitter, &s->rtt_neighbours, &s->rtt_handshake, &s->rtt_handshakes);
	__sync_fetch_and_add(kind == RTT_TCP  ? &s->rtt_tcp :
			     kind == RTT_ICMP ? &s->rtt_icmp :
			     kind == RTT_DNS  ? &s->rtt_dns :
						&s->rtt_quic, 1);
	__sync_fetch_and_add(&s->rtt_events, 1);
}

/* What has come of P. */
static __always_inline void book(struct context *ctx, struct packet *p, const bool egress)
{
	__be32 head[2] = {};
	enum rtt_kind kind = kind_of(ctx, p, head);
	struct outcome *o = followed(ctx, p, kind, head, egress);
	struct slot *s;

	if (likely(!o))
		return;
	if (o->time || o->lost) {
		s = slot_of(p, true, o->left);
		if (o->lost)
			book_dropped(s, o->lost);
		if (o->time) {
			if (s)
				book_sample(s, o, kind);
			else
				lose_sample(kind);
#ifdef RTT_HISTOGRAMS
			book_histogram(p, o->time, kind, !o->left && egress);
#endif
		}
	}
	if (o->lost_own)
		book_dropped(slot_of(p, false, egress), o->lost_own);
}

#if FORGET /* the verifier would follow all that the host does for each way through here: so when it is done */
BPF_PERCPU_ARRAY(kept_packets, struct packet, 1); /* as it came: the host takes from the key what is no part of it */

static __always_inline void guest_sees(struct context *ctx, struct packet *p, const bool egress)
{
	u32 zero = 0;
	struct packet *kept = kept_packets.lookup(&zero);

	if (kept)
		*kept = *p;
}

static __always_inline void guest_follows(struct context *ctx, const bool egress)
{
	u32 zero = 0;
	struct packet *kept = kept_packets.lookup(&zero);

	if (!kept || !kept->packets) /* it was no packet of a flow */
		return;
	kept->packets = 0;
	book(ctx, kept, egress);
}
#else
static __always_inline void guest_sees(struct context *ctx, struct packet *p, const bool egress)
{
	book(ctx, p, egress);
}

static __always_inline void guest_follows(struct context *ctx, const bool egress)
{
}
#endif

static __always_inline bool guest_gathered(struct slot *s)
{
	return *(volatile u64 *)&s->rtt_events;
}

/* Samples of KIND go out with a record. */
static __always_inline u64 hand_over_kind(u64 *gathered, u32 kind)
{
	struct rtt_counts *c;
	u64 samples;

	if (likely(!*(volatile u64 *)gathered))
		return 0;
	samples = __sync_lock_test_and_set(gathered, 0);
	c = counts_of(kind);
	if (c)
		__sync_fetch_and_add(&c->samples_handed, samples); /* a sweep may be interrupted by a packet */
	return samples;
}

static __always_inline void guest_hands_over(struct flow_record *r, struct slot *s)
{
	u64 inverted;

	__sync_lock_test_and_set(&s->rtt_events, 0);
	r->rtt_count = hand_over_kind(&s->rtt_tcp, RTT_TCP) + hand_over_kind(&s->rtt_icmp, RTT_ICMP) +
		       hand_over_kind(&s->rtt_dns, RTT_DNS) + hand_over_kind(&s->rtt_quic, RTT_QUIC);
	r->rtt_sum = __sync_lock_test_and_set(&s->rtt_sum, 0);
	r->rtt_max = __sync_lock_test_and_set(&s->rtt_max, 0);
	inverted = __sync_lock_test_and_set(&s->rtt_min_inverted, 0);
	r->rtt_min = ~inverted;
	r->rtt_jitter = __sync_lock_test_and_set(&s->rtt_jitter, 0);
	r->rtt_neighbours = __sync_lock_test_and_set(&s->rtt_neighbours, 0);
	r->rtt_handshake = __sync_lock_test_and_set(&s->rtt_handshake, 0);
	r->rtt_handshakes = __sync_lock_test_and_set(&s->rtt_handshakes, 0);
	r->rtt_invalidated = __sync_lock_test_and_set(&s->rtt_invalidated, 0);
	/*
	 * Another CPU may be in the middle of its sample: then its time has gone with the record before, and its
	 * count comes alone. No time is said that nobody has measured.
	 */
	r->rtt_timed = inverted ? r->rtt_count : 0;
	if (r->rtt_sum > r->rtt_timed * r->rtt_max)
		r->rtt_sum = r->rtt_timed * r->rtt_max;
}
