/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Long: one way, from packet to summary, in which the order of the steps is what keeps counts exact.
 *
 * The flow probe: every packet into exactly one flow's aggregates, every aggregate into exactly one
 * summary.
 *
 * The text in front of this file is generated: the structures flow_key, flow_record, slot, flow, link
 * and control (layouts.py says what their members mean), and as constants KEY_* (the key's fields),
 * VTAP_* (the programs wanted), HOOK_* (where they are attached), WANT_* (the directions), DECAPSULATE
 * and DECAPSULATE_* (the tunnels to look into), DIRECT_ACCESS (to a packet's bytes), FLOW_TABLE_SIZE,
 * INTERVAL_NS (times 4), STOP_GAP_NS, COARSE_LIMIT_NS, COARSE_SHIFT, RING_PAGES, SPREAD, LINK_SHIFT,
 * LINK_TRIES, SWEEP_KEYS, COUNTS_BIT and JITTER_BIT; where they are asked for, LONG_NS (jitter has an interval of its own, and a structure jitter_slot), VTAP_SEQUENCE
 * (sequence numbers), VTAP_DEVIATION (with EXPECTED_GAP_NS), VTAP_SMOOTHED (jitter as in RFC 3550) and
 * VTAP_GAPS (so many histograms, a structure gap_counts, GAP_KINDS and GAP_BUCKET());
 * where there are rules RULES, how many, and the function wanted() that they are (wanted.py);
 * VTAP_GUEST, 1 where another probe measures here, too (flows/guest.h).
 */
#include <uapi/linux/bpf.h>
#include "lib/moment.h"
#include "lib/dissect.h"
#include "lib/spread.h"
#include "lib/extreme.h"

/* A packet begins with its key */
#define SAME(k, p) _Static_assert(__builtin_offsetof(struct flow_key, k) == __builtin_offsetof(struct packet, p), #k)
SAME(src_ip, src);
SAME(dst_ip, dst);
SAME(dst_port, ports);
SAME(interface, interface);
SAME(protocol, traits);
SAME(vlan, vlan);
#if KEY_TUNNEL_ID
SAME(tunnel_id, tunnel_id);
SAME(tunnel, tunnel);
#endif
_Static_assert(sizeof(struct flow_key) == __builtin_offsetof(struct packet, payload_at), "size");
_Static_assert(sizeof(struct flow_key) == __builtin_offsetof(struct flow_record, time), "size");

/*
 * `end` is the grid line at which the current interval ends; its lowest bit says which slot gathers.
 * Who moves `end` on with compare-and-swap owns the other slot, which nobody else fills any more, and
 * hands it over. A straggler (a CPU that read `end` just before) is not lost: it stays in its slot
 * until that one's turn.
 *
 * Where jitter has an interval of its own, the grid is that of the shorter interval, INTERVAL_NS, and
 * every so many lines of it the longer one ends, LONG_NS. Counts and jitter have two slots each; the
 * lowest bit of `end` is for those of the shorter interval, the next for those of the longer one.
 */
#define LINE(end) ((end) & ~3ULL)
#define COUNTS(f, end) (&(f)->slot[(end) / COUNTS_BIT & 1])
#ifdef LONG_NS
#define JITTER(f, end) (&(f)->jitter[(end) / JITTER_BIT & 1])
#else
#define jitter_slot slot
#define JITTER COUNTS
#endif

BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, FLOW_TABLE_SIZE);
BPF_RINGBUF_OUTPUT(summaries, RING_PAGES);
BPF_RINGBUF_OUTPUT(wakeups, 1);
BPF_PERCPU_ARRAY(links, struct link, SPREAD);
BPF_ARRAY(controls, struct control, 1);
BPF_PERCPU_ARRAY(blanks, struct flow, 1); /* for new flows: too large for the stack */

/*
 * What is counted at an interface. Its place follows from its index by Fibonacci hashing, or is one of the
 * next few (user space has seen to that): a hash table of the kernel's own takes 30 ns more. NULL: an
 * interface that is not measured, as one that has gone into another namespace.
 */
static __always_inline struct link *link_of(u32 interface)
{
	struct link *l;
	u32 i, at;

#pragma unroll
	for (i = 0; i < SPREAD_TRIES; i++) {
		at = spread_place(interface, i);
		l = links.lookup(&at);
		if (likely(l && l->interface == interface))
			return l;
	}
	return NULL;
}

static __always_inline struct control *control(void)
{
	u32 zero = 0;

	return controls.lookup(&zero);
}

/* Whether there is more to come than the verifier could follow from each way through the dissection */
#if defined(VTAP_SEQUENCE) || defined(RULES) || DECAPSULATE
#define FORGET 1
#include "lib/forgotten.h"
#else
#define FORGET 0
#endif

#include "flows/sequence.h"
#include "flows/jitter.h"
#include "flows/gaps.h"

#define KEPT_TRAITS                                                                                \
	(TRAITS_EGRESS | (KEY_PROTOCOL ? TRAITS_PROTOCOL : 0) |                                    \
	 (KEY_SRC_IP || KEY_DST_IP ? TRAITS_FAMILY : 0) |                                          \
	 (KEY_SRC_PORT || KEY_DST_PORT ? TRAITS_PORTS : 0))

/* P's key has only what the user tells flows apart by: all else is zero in every key. */
static __always_inline void mask(struct packet *p)
{
	if (!KEY_SRC_IP)
		p->src[0] = p->src[1] = 0;
	if (!KEY_DST_IP)
		p->dst[0] = p->dst[1] = 0;
	if (!KEY_SRC_PORT || !KEY_DST_PORT)
		p->ports &= (KEY_SRC_PORT ? 0xFFFF0000 : 0) | (KEY_DST_PORT ? 0xFFFF : 0);
	if (KEPT_TRAITS != TRAITS_ALL)
		p->traits &= KEPT_TRAITS;
	if (!KEY_VLAN)
		p->vlan = 0;
}

static __always_inline bool guest_gathered(struct slot *s);
static __always_inline void guest_hands_over(struct flow_record *r, struct slot *s);

/* The line behind NOW of a grid that is aligned to the wall clock. */
static __always_inline u64 next_line(struct control *c, u64 now, u64 interval)
{
	u64 wall = now + c->clock_offset;

	return wall - wall % interval + interval - c->clock_offset;
}

/* Whether the slots of KINDS, bits of END, that gather by END have anything to hand over. */
static __always_inline bool gathered(struct flow *f, u64 end, u64 kinds)
{
#ifdef LONG_NS
	if (kinds & JITTER_BIT && *(volatile u64 *)&JITTER(f, end)->iat_count)
		return true;
#endif
	return kinds & COUNTS_BIT &&
	       (*(volatile u64 *)&COUNTS(f, end)->arrivals || guest_gathered(COUNTS(f, end)));
}

static __always_inline void hand_over_counts(struct flow_record *r, struct flow *f, struct slot *s)
{
	u64 arrivals = __sync_lock_test_and_set(&s->arrivals, 0);

	r->packets = arrivals + __sync_lock_test_and_set(&s->merged, 0);
	r->bytes = __sync_lock_test_and_set(&s->bytes, 0);
	r->payload_bytes = __sync_lock_test_and_set(&s->payload, 0);
#ifndef LONG_NS
	r->iat_count = arrivals - __sync_lock_test_and_set(&s->stops, 0);
#endif
#ifdef VTAP_SEQUENCE
	close_sequence(r, f, s);
#endif
	guest_hands_over(r, s);
}

/*
 * Close the current interval of F if it is over, or in any case if FORCE; and the longer one if that
 * ends with it. Returns the `end` that is then in force. When the ring is full nothing is closed and
 * the flow goes on gathering.
 */
static __always_inline u64 close_interval(struct flow_key *key, struct flow *f, u64 now,
					  const bool by_packet, bool force)
{
	u64 end = *(volatile u64 *)&f->end, kinds = 1;
	u64 line, next, start;
	struct control *c;
	struct flow_record *r;
#ifdef LONG_NS
	u64 long_line, long_start, long_next;
#endif

	if (by_packet) /* a receive timestamp runs ahead where the wall clock has just been set forward */
		now = NOW();
	if (is_before(now, LINE(end)) && !force)
		return end;
	c = control();
	if (!c)
		return end;
	line = now;
	/* Not always LINE(end), even if that is still to come: when the clock is set the grid moves */
	next = next_line(c, later(now, f->start), INTERVAL_NS);
	if (!is_before(now, LINE(end))) {
		line = LINE(end);
		/* What came too late for its own interval makes the record end where it really ends. */
		if (*(volatile u64 *)&f->overdue)
			line = next - INTERVAL_NS;
	}
#ifdef LONG_NS
	long_line = next_line(c, LINE(end) - 1, LONG_NS);
	long_next = next_line(c, now, LONG_NS) - LONG_NS;
	if (is_before(long_next, line))
		long_next = line;
	if (!is_before(line, long_line) || (force && is_before(now, long_line)))
		kinds |= 2;
	else if (!is_before(now, long_line)) /* the flow has paused across it: one line after the other */
		next = long_line;
#endif
	next |= (end ^ kinds) & 3;
	if (!gathered(f, end, kinds)) {
		if (__sync_val_compare_and_swap(&f->end, end, next) != end)
			return *(volatile u64 *)&f->end;
		if (is_before(now, LINE(end)))
			return next;
		f->start = later(LINE(next) - INTERVAL_NS, LINE(end));
#ifdef LONG_NS
		if (kinds & 2)
			f->long_start = long_next;
#endif
		return next;
	}
	r = summaries.ringbuf_reserve(sizeof(*r));
	if (!r) {
		struct link *l = link_of(key->interface);

		if (l)
			l->ring_full++;
		if (by_packet)
			f->overdue = 1;
		return end;
	}
	start = f->start;
	if (!is_before(start, now)) { /* the interval has begun since the sweep did: it is not its turn */
		summaries.ringbuf_discard(r, BPF_RB_NO_WAKEUP);
		return end;
	}
#ifdef LONG_NS
	long_start = f->long_start;
#endif
	if (__sync_val_compare_and_swap(&f->end, end, next) != end) {
		summaries.ringbuf_discard(r, BPF_RB_NO_WAKEUP);
		return *(volatile u64 *)&f->end;
	}
	f->overdue = 0;
	f->start = is_before(now, LINE(end)) ? now : later(LINE(next) - INTERVAL_NS, line);
#ifdef LONG_NS
	__builtin_memset(r, 0, sizeof(*r));
	if (kinds & 2)
		f->long_start = long_next;
	if (kinds & COUNTS_BIT) {
		r->duration = line - (COUNTS_BIT & 2 ? long_start : start);
		hand_over_counts(r, f, COUNTS(f, end));
	}
	if (kinds & JITTER_BIT) {
		r->jitter_duration = line - (JITTER_BIT & 2 ? long_start : start);
		hand_over_jitter(r, f, JITTER(f, end));
	}
#else
	r->duration = line - start;
	hand_over_counts(r, f, COUNTS(f, end));
	hand_over_jitter(r, f, JITTER(f, end));
#endif
	__builtin_memcpy(r, key, sizeof(*key)); /* a record begins with its key */
	r->time = line + c->clock_offset;
	summaries.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return next;
}

/* Close what is over, in two steps where a line of the longer interval has passed since. */
static __always_inline u64 close_intervals(struct flow_key *key, struct flow *f, u64 now,
					   const bool by_packet, bool force)
{
#ifdef LONG_NS
	u64 before = *(volatile u64 *)&f->end;
	u64 end = close_interval(key, f, now, by_packet, force);

	if (likely(end == before || is_before(now, LINE(end))))
		return end;
#endif
	return close_interval(key, f, now, by_packet, force);
}

/* GAP, forward or backward, and how long that is. */
static __always_inline void count_gap(struct flow_key *key, struct flow *f, struct link *l,
				      struct jitter_slot *j, u64 gap, u64 iat)
{
#ifdef VTAP_DEVIATION
	if ((s64)gap > (s64)EXPECTED_GAP_NS)
		__sync_fetch_and_add(&j->iat_excess, gap - EXPECTED_GAP_NS);
#endif
#ifdef VTAP_SMOOTHED
	smooth(f, iat);
#endif
	__sync_fetch_and_add(&j->iat_sum, gap);
	if (likely(iat < COARSE_LIMIT_NS))
		__sync_fetch_and_add(&j->iat_squares, iat * iat);
	else
		__sync_fetch_and_add(&j->iat_squares_coarse,
				     (iat >> COARSE_SHIFT) * (iat >> COARSE_SHIFT));
	raise_to(&j->iat_max, iat);
	raise_to(&j->iat_min_inverted, ~iat);
#ifdef VTAP_GAPS
	book_gap(key, l, iat);
#endif
#ifdef LONG_NS
	__sync_fetch_and_add(&j->iat_count, 1); /* last: with it they are handed over */
#endif
}

static __always_inline void count(struct packet *p, struct flow *f, struct link *l, u64 now)
{
	struct flow_key *key = (struct flow_key *)p;
	u64 packets = p->packets, bytes = p->bytes, payload = p->payload;
	u64 end = *(volatile u64 *)&f->end;
	u64 last, gap, iat;
	struct jitter_slot *j;
	struct slot *s;

	if (unlikely(!is_before(now, LINE(end))))
		end = close_intervals(key, f, now, true, false);
	s = COUNTS(f, end);
	j = JITTER(f, end);
	last = __sync_lock_test_and_set(&f->last, now);
#ifdef VTAP_SEQUENCE
	check_sequence(p, f, s, l, now, packets);
#endif
	/* Two CPUs may take their times in one order and get here in the other: the sum stays true */
	gap = now - last;
	iat = (s64)gap < 0 ? -gap : gap;
	if (unlikely(iat > STOP_GAP_NS)) {
#ifndef LONG_NS
		__sync_fetch_and_add(&s->stops, 1);
#endif
#ifdef VTAP_SMOOTHED
		smooth_anew(f);
#endif
	} else {
		count_gap(key, f, l, j, gap, iat);
	}
	__sync_fetch_and_add(&s->bytes, bytes);
	if (payload)
		__sync_fetch_and_add(&s->payload, payload);
	if (unlikely(packets > 1))
		__sync_fetch_and_add(&s->merged, packets - 1);
	/* Last, as what has arrivals is handed over: whatever another CPU closes meanwhile, nothing stays behind */
	__sync_fetch_and_add(&s->arrivals, 1);
}

static __always_inline struct flow *new_flow(struct flow_key *key, struct link *l)
{
	u64 now = NOW();
	struct control *c = control();
	u32 zero = 0;
	struct flow *fresh = blanks.lookup(&zero);

	if (!c || !fresh)
		return NULL;
	fresh->end = next_line(c, now, INTERVAL_NS);
	fresh->start = later(fresh->end - INTERVAL_NS, c->began);
	fresh->last = LONG_BEFORE(now); /* so that the first packet ends no gap */
#ifdef VTAP_SEQUENCE
	fresh->event_time = LONG_BEFORE(now);
#endif
#ifdef LONG_NS
	fresh->long_start = later(next_line(c, now, LONG_NS) - LONG_NS, c->began);
#endif
	if (!flows.insert(key, fresh)) /* fails when another CPU was faster, which is as good */
		l->flows_begun++;
	/* So many new flows evict others before the next sweep: have user space sweep at once */
	if (__sync_fetch_and_add(&c->inserts, 1) + 1 == FLOW_TABLE_SIZE / 4) {
		u64 *wakeup = wakeups.ringbuf_reserve(sizeof(*wakeup));

		if (wakeup)
			wakeups.ringbuf_discard(wakeup, BPF_RB_FORCE_WAKEUP);
	}
	return flows.lookup(key);
}

#include "flows/guest.h"

/*
 * When the packet arrived, CLOCK_MONOTONIC: the receive timestamp that the kernel gave it, where
 * there is one (user space has it turned on), as that knows nothing of what has delayed us since.
 */
static __always_inline u64 arrival(struct context *ctx, const bool egress)
{
	u64 stamp = egress ? 0 : TIMESTAMP(ctx);
	struct control *c;

	if (stamp) {
		c = control();
		if (c)
			return stamp - c->clock_offset;
	}
	return NOW();
}

/* Zero, which neither compiler nor verifier can know: a counter and its copy, XORed. */
static __always_inline u64 hidden_zero(const struct link *l)
{
	u64 counter = l->seen_packets, copy = counter;

	asm volatile("" : "+r"(copy));
	return counter ^ copy;
}

/* P is no packet of a flow. */
static __always_inline void turn_away(struct context *ctx, struct packet *p, struct link *l,
				      enum verdict verdict)
{
	u64 packets = SEGMENT_SIZE(ctx) && SEGMENTS(ctx) ? SEGMENTS(ctx) : 1;

	l->seen_packets += packets;
	l->seen_bytes += p->bytes;
	if (verdict == NOT_IP) {
		l->not_ip_packets += packets;
		l->not_ip_bytes += p->bytes;
	} else {
		l->malformed_packets += packets;
		l->malformed_bytes += p->bytes;
	}
}

#if !HOOK_XDP /* there nothing is merged yet */

/* A merged packet (GRO, GSO) is many on the wire, each with all the headers: P becomes all of them. */
static __always_inline void unmerge(struct context *ctx, struct packet *p)
{
	u64 tag = p->bytes - FRAME_LENGTH(ctx), headers = p->payload_at + tag;
	u64 padding = FRAME_LENGTH(ctx) - p->payload_at - p->payload;
	u64 packets = SEGMENTS(ctx);

	if (!packets) /* a sender that the kernel does not trust: a virtual machine */
		packets = (p->payload + SEGMENT_SIZE(ctx) - 1) / SEGMENT_SIZE(ctx);
	if (packets <= 1)
		return;
	p->packets = packets;
	p->bytes += (packets - 1) * headers;
	/* only the kernel knows the headers inside a tunnel, and only when it sends */
	if (WIRE_LENGTH(ctx) + packets * tag > p->bytes)
		p->bytes = WIRE_LENGTH(ctx) + packets * tag;
	p->payload = p->bytes - packets * headers - padding;
}

#endif

static __always_inline void measure(struct context *ctx, const bool egress, const bool layer3)
{
	struct link *l = link_of(INTERFACE(ctx));
	struct packet found;
	struct packet *p = &found;
	struct flow_key *key;
	struct flow *f;
	u64 now;
	enum verdict verdict;

	if (unlikely(!l))
		return;
#if FORGET
	__builtin_memset(p, 0, sizeof(*p)); /* all of it is copied, also where dissect() gave up */
#endif
	p->interface = INTERFACE(ctx);
	verdict = dissect(ctx, p, layer3, egress ? TRAITS_EGRESS : 0);
	if (unlikely(verdict != IS_IP)) { /* first, so that each exit of dissect() jumps right here */
		turn_away(ctx, p, l, verdict);
		return;
	}
	p->packets = 1;
#if !HOOK_XDP
	if (unlikely(SEGMENT_SIZE(ctx) && !p->missing))
		unmerge(ctx, p);
#endif
	if (unlikely(p->missing)) {
		p->bytes += p->missing;
		l->truncated_packets += p->packets;
		l->truncated_bytes += p->missing;
	}
	l->seen_packets += p->packets;
	l->seen_bytes += p->bytes;
#if FORGET
	p = forgotten(p);
	if (!p)
		return;
#endif
	guest_sees(ctx, p, egress);
#ifdef RULES
	if (!wanted(p->src[0], p->src[1], p->dst[0], p->dst[1], p->ports, p->traits, hidden_zero(l))) {
		l->filtered_packets += p->packets;
		l->filtered_bytes += p->bytes;
		return;
	}
#endif

	mask(p);

#ifdef VTAP_SEQUENCE
	read_number(ctx, p);
#endif
	key = (struct flow_key *)p;
	/* Not earlier: the clock waits for all work before it, the dissection does not */
	now = arrival(ctx, egress);
	f = flows.lookup(key);
	if (unlikely(!f)) {
		f = new_flow(key, l);
		if (!f) {
			l->no_flow_packets += p->packets;
			l->no_flow_bytes += p->bytes;
			return;
		}
	}
	count(p, f, l, now);
	l->counted_packets += p->packets;
	l->counted_bytes += p->bytes;
}

/* Whatever is attached beside these goes on with the packet: TCX_NEXT and TC_ACT_UNSPEC are -1 */
#define PROGRAM(name, egress, layer3)                                                              \
	int name(struct context *ctx)                                                              \
	{                                                                                          \
		measure(ctx, egress, layer3);                                                      \
		guest_follows(ctx, egress);                                                        \
		return HOOK_XDP ? XDP_PASS : -1;                                                   \
	}

/* A packet socket sees both directions; 0 keeps the packet out of its queue */
#define PACKET_OUTGOING 4 /* include/uapi/linux/if_packet.h */
#define SOCKET_PROGRAM(name, layer3)                                                               \
	int name(struct context *ctx)                                                              \
	{                                                                                          \
		bool egress = ctx->pkt_type == PACKET_OUTGOING;                                    \
                                                                                                   \
		if (egress ? WANT_EGRESS : WANT_INGRESS)                                           \
			measure(ctx, egress, layer3);                                              \
		return 0;                                                                          \
	}

#ifdef VTAP_INGRESS
PROGRAM(vtap_ingress, false, false)
#endif
#ifdef VTAP_EGRESS
PROGRAM(vtap_egress, true, false)
#endif
#ifdef VTAP_INGRESS_L3
PROGRAM(vtap_ingress_l3, false, true)
#endif
#ifdef VTAP_EGRESS_L3
PROGRAM(vtap_egress_l3, true, true)
#endif
#ifdef VTAP_SOCKET
SOCKET_PROGRAM(vtap_socket, false)
#endif
#ifdef VTAP_SOCKET_L3
SOCKET_PROGRAM(vtap_socket_l3, true)
#endif

/*
 * Run by user space on a made-up frame: 14 bytes that pass for an Ethernet header, 1 byte that
 * forces, 1 byte of padding, 8 bytes that say when it is (CLOCK_MONOTONIC, the same for all flows of
 * a sweep), then keys. Closes the intervals of these flows.
 */
int vtap_sweep(struct __sk_buff *skb)
{
	struct flow_key key;
	struct flow *f;
	u64 now = 0;
	u8 force = 0;
	u32 i;

	bpf_skb_load_bytes(skb, 14, &force, 1);
	bpf_skb_load_bytes(skb, 16, &now, sizeof(now));
	for (i = 0; i < SWEEP_KEYS; i++) {
		if (bpf_skb_load_bytes(skb, 24 + i * sizeof(key), &key, sizeof(key)))
			break;
		f = flows.lookup(&key);
		if (f)
			close_intervals(&key, f, now, false, force);
	}
	return i;
}
