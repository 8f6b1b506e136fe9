/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The round-trip time probe: how long after a packet its answer comes by, without a packet sent.
 *
 * Generated in front, beside what rtt/pairs.h says: the structures rtt_place, rtt_key and rtt_cell, the
 * programs wanted (RTT_INGRESS and so on), CELLS, KEY_SRC_PORT, KEY_DST_PORT, KEY_VLAN, KEY_ADDRESSES, the masks that make of
 * addresses what is asked for of them (SRC_IPV4, SRC_IPV6_0, SRC_IPV6_1, and DST_ likewise), and what
 * lib/spread.h and lib/histogram.h need.
 */
#include <uapi/linux/bpf.h>
#include "lib/moment.h"
#include "lib/dissect.h"
#include "lib/spread.h"
#include "lib/extreme.h"
#include "lib/histogram.h"
#include "rtt/pairs.h"

/* The packet, in memory of which the verifier knows nothing: as in lib/forgotten.h, without a copy */
BPF_PERCPU_ARRAY(packets, struct packet, 1);
BPF_ARRAY(rtt_places, struct rtt_place, SPREAD);
/* In turns: user space reads the one that nobody writes to */
BPF_HASH(cells0, struct rtt_key, struct rtt_cell, CELLS);
BPF_HASH(cells1, struct rtt_key, struct rtt_cell, CELLS);
BPF_PERCPU_ARRAY(blanks, struct rtt_cell, 1); /* too large for the stack */

/* Whether it is measured: not one that has gone into another namespace. */
static __always_inline bool is_measured(u32 interface)
{
	struct rtt_place *place;
	u32 i, at;

#pragma unroll
	for (i = 0; i < SPREAD_TRIES; i++) {
		at = spread_place(interface, i);
		place = rtt_places.lookup(&at);
		if (likely(place && place->interface == interface))
			return true;
	}
	return false;
}

/* Of packet P, or (ANSWERED) of the one that it answers. */
static __always_inline struct rtt_cell *cell_of(struct packet *p, u32 kind, bool answered, u32 left, u32 leaves)
{
	struct rtt_key key = {};
	struct rtt_control *c;
	struct rtt_cell *found, *blank;
	u32 zero = 0, ports = p->ports;
	u64 *src = p->src, *dst = p->dst;
	bool ipv4 = (p->traits & TRAITS_FAMILY) == TRAITS_IPV4;

	if (answered) {
		src = p->dst;
		dst = p->src;
		ports = ports >> 16 | ports << 16;
	}
	key.src[0] = src[0] & (ipv4 ? SRC_IPV4 : SRC_IPV6_0);
	key.src[1] = src[1] & SRC_IPV6_1;
	key.dst[0] = dst[0] & (ipv4 ? DST_IPV4 : DST_IPV6_0);
	key.dst[1] = dst[1] & DST_IPV6_1;
	key.src_port = KEY_SRC_PORT ? ports >> 16 : 0;
	key.dst_port = KEY_DST_PORT ? ports : 0;
	key.has_ports = (KEY_SRC_PORT || KEY_DST_PORT) && p->traits & TRAITS_PORTS;
	key.vlan = KEY_VLAN ? p->vlan : 0;
	key.interface = p->interface;
	key.kind = kind;
	key.family = !KEY_ADDRESSES ? 0 : ipv4 ? 4 : 6; /* one key, if addresses are none of it */
	key.side = !left && leaves; /* 0: remote */
	c = rtt_controls.lookup(&zero);
	blank = blanks.lookup(&zero);
	if (!c || !blank)
		return NULL;
	if (*(volatile u64 *)&c->slot) {
		found = cells1.lookup(&key);
		if (found)
			return found;
		cells1.insert(&key, blank);
		return cells1.lookup(&key);
	}
	found = cells0.lookup(&key);
	if (found)
		return found;
	cells0.insert(&key, blank);
	return cells0.lookup(&key);
}

static __always_inline void book_sample(struct rtt_cell *cell, struct outcome *o)
{
	u32 bucket = bucket_of(o->time);

	raise_to(&cell->most, o->time);
	raise_to(&cell->least, LONGEST - o->time);
	add_time(o, &cell->sum, &cell->jitter, &cell->neighbours, &cell->handshake, &cell->handshakes);
	if (bucket < BUCKETS)
		__sync_fetch_and_add(&cell->buckets[bucket], 1);
	__sync_fetch_and_add(&cell->count, 1);
}

/* What has come of P. */
static __always_inline void book(struct packet *p, struct outcome *o, enum rtt_kind kind, const bool egress)
{
	struct rtt_cell *cell;

	if (o->time || o->lost) {
		cell = cell_of(p, kind, true, o->left, egress);
		if (cell && o->lost)
			__sync_fetch_and_add(&cell->lost, o->lost);
		if (cell && o->time)
			book_sample(cell, o);
		else if (o->time)
			lose_sample(kind);
	}
	if (unlikely(o->lost_own)) {
		cell = cell_of(p, kind, false, egress, o->left);
		if (cell)
			__sync_fetch_and_add(&cell->lost, o->lost_own);
	}
}

static __always_inline void measure(struct context *ctx, const bool egress, const bool layer3)
{
	struct packet *p;
	struct outcome *o;
	enum rtt_kind kind = RTT_OTHER;
	__be32 head[2] = {};
	u32 zero = 0;

	if (unlikely(!is_measured(INTERFACE(ctx))))
		return;
	p = packets.lookup(&zero);
	if (!p)
		return;
	p->interface = INTERFACE(ctx);
	if (likely(dissect(ctx, p, layer3, egress ? TRAITS_EGRESS : 0) == IS_IP)) {
		asm volatile("" : : : "memory"); /* nor shall the compiler remember */
		kind = kind_of(ctx, p, head);
	}
	o = followed(ctx, p, kind, head, egress);
	if (o)
		book(p, o, kind, egress);
}

/* Whatever is attached beside these goes on with the packet: TCX_NEXT and TC_ACT_UNSPEC are -1 */
#define PROGRAM(name, egress, layer3)                                                              \
	int name(struct context *ctx)                                                              \
	{                                                                                          \
		measure(ctx, egress, layer3);                                                      \
		return -1;                                                                         \
	}

#ifdef RTT_INGRESS
PROGRAM(rtt_ingress, false, false)
#endif
#ifdef RTT_EGRESS
PROGRAM(rtt_egress, true, false)
#endif
#ifdef RTT_INGRESS_L3
PROGRAM(rtt_ingress_l3, false, true)
#endif
#ifdef RTT_EGRESS_L3
PROGRAM(rtt_egress_l3, true, true)
#endif
