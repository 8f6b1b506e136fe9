/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Receive latency: at several places of the receive path, how long ago the packet came, by its receive
 * timestamp (CLOCK_REALTIME, set where the driver hands it over). Nothing is kept per packet.
 *
 * The text in front of this file is generated: the structures latency_control, latency_fates,
 * latency_place and latency_cell (layouts.py says what their members mean); where the members of the
 * kernel's structures lie, by BTF (SKB_*, DEVICE_*, NET_*, SOCK_*, CGROUP_*, KERNFS_*); as constants STAGES,
 * PLACES (interfaces), PROTOCOLS, BY (0, or a BY_*), NUMBERS (values of it that are told apart, and one for
 * all others), CELLS, LONGEST, NETNS (whose packets, but for BY_ANY_NETNS), what lib/histogram.h and lib/spread.h need; for
 * each stage its number and a definition of what is to be loaded.
 */
#include <uapi/linux/bpf.h>
#include "lib/histogram.h"
#include "lib/moment.h"
#include "lib/protocols.h"
#include "lib/spread.h"

BPF_ARRAY(controls, struct latency_control, 1);
BPF_PERCPU_ARRAY(fates, struct latency_fates, 2 * STAGES); /* a program can interrupt another of its stage */
BPF_PERCPU_ARRAY(cells, struct latency_cell, 2 * CELLS); /* two slots take turns */
BPF_ARRAY(places, struct latency_place, SPREAD);
#if BY
BPF_HASH(numbers, u64, u32, NUMBERS);
BPF_ARRAY(given, u64, 1); /* how many numbers have been */
#endif

/* bpf_probe_read_kernel(): BCC takes another helper where the kernel does not show it its symbols */
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;

/* A member of a structure of the kernel, of this type, by an instruction of its own: no helper is called. */
#define LOAD(type, base, at)                                                                              \
	({                                                                                                \
		u64 _value;                                                                               \
		asm volatile("%0 = *(" #type " *)(%1 + %2)" : "=r"(_value) : "r"(base), "i"(at));        \
		_value;                                                                                   \
	})

/* Of a traced function, or of netfilter: struct bpf_nf_ctx. BCC would read an array by a helper. */
struct arguments {
	u64 first;
	u64 second;
	u64 third;
};

/* What is asked for of a packet; protocol is PROTOCOLS where it is neither TCP nor UDP */
struct what {
	u64 stamp;
	u64 by;
	u32 interface;
	u32 netns;
	u32 protocol;
	bool delivery; /* the stamp says when it is to go out, not when it came in */
};

static __always_inline u32 protocol_of(u64 number)
{
	return number == PROTOCOL_TCP ? 0 : number == PROTOCOL_UDP ? 1 : PROTOCOLS;
}

#if BY
/* The number of a value; 0 where there is no room for one of its own */
static __always_inline u32 number_of(u64 value)
{
	u32 *known = numbers.lookup(&value), zero = 0, mine;
	u64 *count;

	if (known)
		return *known;
	if (!value)
		return 0; /* not known */
	count = given.lookup(&zero);
	if (!count || *(volatile u64 *)count >= NUMBERS - 1)
		return 0;
	mine = __sync_fetch_and_add(count, 1) + 1;
	if (mine >= NUMBERS)
		return 0;
	if (numbers.insert(&value, &mine)) {
		known = numbers.lookup(&value); /* another CPU was faster */
		return known ? *known : 0;
	}
	return mine;
}
#endif

static __always_inline void measure(u32 stage, const struct what *w, u64 slot, u32 place, u64 latency)
{
	u32 cell = (stage * PLACES + place) * PROTOCOLS + w->protocol;
	u64 bucket = bucket_of(latency);
	struct latency_cell *c;

#if BY
	cell = cell * NUMBERS + number_of(w->by);
#endif
	if (slot & 1)
		cell += CELLS;
	c = cells.lookup(&cell);
	asm volatile("" : "+r"(bucket)); /* kernel 6.1 follows a bound in one register alone */
	if (!c || bucket >= BUCKETS)
		return;
	if (latency + 1 > c->most)
		c->most = latency + 1;
	if (LONGEST - latency > c->least)
		c->least = LONGEST - latency;
	c->sum += latency;
	c->buckets[bucket]++;
}

/* The number of an interface among those that are asked for; PLACES where it is none of them */
static __always_inline u32 place_of(u32 interface)
{
	struct latency_place *p;
	u32 i, at;

#pragma unroll
	for (i = 0; i < SPREAD_TRIES; i++) {
		at = spread_place(interface, i);
		p = places.lookup(&at);
		if (p && p->interface == interface)
			return p->number;
	}
	return PLACES;
}

/*
 * Exactly one fate for each packet that the hook sees between the program's begin and end. SECOND: 1 in the
 * other one of two programs of a stage.
 */
static __always_inline void take(u32 stage, u32 second, const struct what *w)
{
	u32 zero = 0, place = PLACES, row = 2 * stage + second;
	struct latency_control *control = controls.lookup(&zero);
	struct latency_fates *f = fates.lookup(&row);
	u64 now = NOW_TAI(), latency;

	if (!control || !f)
		return;
	if (is_before(now, control->begin) || !is_before(now, control->end))
		return; /* another program has it */
	if (w->protocol < PROTOCOLS && w->netns == NETNS && w->interface)
		place = place_of(w->interface);
	else if (BY_ANY_NETNS && w->protocol < PROTOCOLS && w->netns != NETNS)
		place = PLACES - 1; /* whatever interface it is of theirs */
	if (place >= PLACES) {
		f->other++;
		return;
	}
	if (!w->stamp) {
		f->unstamped++;
		return;
	}
	if (w->delivery) {
		f->delivery++;
		return;
	}
	latency = now - *(volatile u64 *)&control->tai_offset - w->stamp;
	if ((s64)latency < 0 || latency >= LONGEST) {
		f->negative++;
		return;
	}
	f->measured++;
	measure(stage, w, *(volatile u64 *)&control->slot, place, latency);
}

#if BY == BY_DST_PORT
/* Destination port behind an IP header; 0 in a later fragment, which has none */
static __always_inline u16 port_of(u64 data, bool ipv4)
{
	u16 port = 0, fragment = 0;
	u64 length = 40;
	u8 first = 0;

	if (ipv4) {
		read_kernel(&first, 1, (void *)data);
		read_kernel(&fragment, 2, (void *)(data + 6));
		length = (first & 15) * 4;
	}
	if (!(fragment & bpf_htons(0x1fff)))
		read_kernel(&port, 2, (void *)(data + length + 2));
	return bpf_ntohs(port);
}
#endif

/* A packet whose data begins with the IP header, at a device */
static __always_inline void take_packet(u32 stage, u64 skb)
{
	struct what w = {};
	u64 device, net, data, ethertype = LOAD(u16, skb, SKB_PROTOCOL);
	bool ipv4 = ethertype == bpf_htons(ETHERTYPE_IPV4);
	u8 protocol = 0;

	device = LOAD(u64, skb, SKB_DEVICE);
	w.interface = LOAD(u32, device, DEVICE_INDEX);
	net = LOAD(u64, device, DEVICE_NET);
	w.netns = LOAD(u32, net, NET_INODE);
	w.protocol = PROTOCOLS;
	data = LOAD(u64, skb, SKB_DATA);
	if (ipv4 || ethertype == bpf_htons(ETHERTYPE_IPV6)) {
		read_kernel(&protocol, 1, (void *)(data + (ipv4 ? 9 : 6)));
		w.protocol = protocol_of(protocol);
	}
	w.stamp = LOAD(u64, skb, SKB_TSTAMP);
	w.delivery = LOAD(u8, skb, SKB_TSTAMP_TYPE) & TSTAMP_TYPE_MASK;
#if BY == BY_NETNS
	w.by = w.netns;
#elif BY == BY_DST_PORT
	if (w.protocol < PROTOCOLS)
		w.by = port_of(data, ipv4);
#endif
	take(stage, 0, &w);
}

/* A packet that a socket has got */
static __always_inline void take_queued(u32 stage, u32 second, u64 skb, u64 socket)
{
	struct what w = {};
	u64 net = LOAD(u64, socket, SOCK_NET);

	w.netns = LOAD(u32, net, NET_INODE);
	w.interface = LOAD(u32, skb, SKB_IIF);
	w.protocol = protocol_of(LOAD(u16, socket, SOCK_PROTOCOL));
	w.stamp = LOAD(u64, skb, SKB_TSTAMP);
	w.delivery = LOAD(u8, skb, SKB_TSTAMP_TYPE) & TSTAMP_TYPE_MASK;
#if BY == BY_NETNS
	w.by = w.netns;
#elif BY == BY_DST_PORT
	w.by = LOAD(u16, socket, SOCK_PORT);
#elif BY == BY_CGROUP
	{
		u64 group = LOAD(u64, socket, SOCK_CGROUP), node;

		if (group) {
			node = LOAD(u64, group, CGROUP_NODE);
			w.by = LOAD(u64, node, KERNFS_ID);
		}
	}
#endif
	take(stage, second, &w);
}

#ifdef LOAD_STACK
/* Tracepoint netif_receive_skb(skb), include/trace/events/net.h */
int vtap_stack(struct arguments *ctx)
{
	take_packet(STAGE_STACK, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_IP
/* fentry ip_rcv_core(skb, ...) and ip6_rcv_core(skb, ...) */
int vtap_ip(struct arguments *ctx)
{
	take_packet(STAGE_IP, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_LOCAL
/* fentry ip_local_deliver(skb) and ip6_input(skb) */
int vtap_local(struct arguments *ctx)
{
	take_packet(STAGE_LOCAL, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_IP_RULES
/* Netfilter, ahead of all rules: struct bpf_nf_ctx, include/linux/netfilter.h; 1 is NF_ACCEPT */
int vtap_ip_rules(struct arguments *ctx)
{
	take_packet(STAGE_IP, ctx->second);
	return 1;
}
#endif

#ifdef LOAD_RULES
/* Behind all rules of PRE_ROUTING */
int vtap_rules(struct arguments *ctx)
{
	take_packet(STAGE_RULES, ctx->second);
	return 1;
}
#endif

#ifdef LOAD_LOCAL_RULES
/* Ahead of all rules of LOCAL_IN */
int vtap_local_rules(struct arguments *ctx)
{
	take_packet(STAGE_LOCAL, ctx->second);
	return 1;
}
#endif

#ifdef LOAD_QUEUED
/* Tracepoint sk_data_ready(sk), include/trace/events/sock.h: what has been queued last */
int vtap_queued(struct arguments *ctx)
{
	u64 socket = ctx->first;

	if (LOAD(u32, socket, SOCK_QUEUE_LENGTH))
		take_queued(STAGE_QUEUED, 0, LOAD(u64, socket, SOCK_QUEUE_TAIL), socket);
	return 0;
}
#endif

#ifdef LOAD_QUEUED_TCP
/* fentry tcp_queue_rcv(sk, skb, ...) */
int vtap_queued_tcp(struct arguments *ctx)
{
	take_queued(STAGE_QUEUED, 0, ctx->second, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_QUEUED_UDP
/* fexit __udp_enqueue_schedule_skb(sk, skb): it has room for it where the result is 0 */
int vtap_queued_udp(struct arguments *ctx)
{
	if (!(u32)ctx->third)
		take_queued(STAGE_QUEUED, 1, ctx->second, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_READ_TCP
/* Tracepoint skb_copy_datagram_iovec(skb, len), include/trace/events/skb.h */
int vtap_read_tcp(struct arguments *ctx)
{
	u64 skb = ctx->first, socket = LOAD(u64, skb, SKB_SOCKET);

	if (socket && LOAD(u16, socket, SOCK_PROTOCOL) == PROTOCOL_TCP)
		take_queued(STAGE_READ, 0, skb, socket);
	return 0;
}
#endif

#ifdef LOAD_READ_UDP
/* fentry skb_consume_udp(sk, skb, len) */
int vtap_read_udp(struct arguments *ctx)
{
	if ((s64)ctx->third >= 0)
		take_queued(STAGE_READ, 1, ctx->second, ctx->first);
	return 0;
}
#endif

#ifdef LOAD_SOCKET
BPF_PERCPU_ARRAY(scratches, u64, 1);

/*
 * A control group's packets that come in, when the socket is known; 1 lets the packet through. Types are
 * not known here, so that the socket is a pointer that goes through a map to become a number.
 */
int vtap_socket(struct __sk_buff *skb)
{
	struct bpf_sock *known = skb->sk;
	u64 socket, net = 0, *scratch;
	struct what w = {};
	u32 zero = 0;
	u16 word = 0;

	scratch = scratches.lookup(&zero);
	if (!known || !scratch)
		return 1;
	*(volatile u64 *)scratch = (u64)known;
	socket = *(volatile u64 *)scratch;
	read_kernel(&net, 8, (void *)(socket + SOCK_NET));
	read_kernel(&w.netns, 4, (void *)(net + NET_INODE));
	read_kernel(&word, 2, (void *)(socket + SOCK_PROTOCOL));
	w.protocol = protocol_of(word);
	w.interface = skb->ifindex;
	w.stamp = skb->tstamp;
#if BY == BY_NETNS
	w.by = w.netns;
#elif BY == BY_DST_PORT
	word = 0;
	read_kernel(&word, 2, (void *)(socket + SOCK_PORT));
	w.by = word;
#elif BY == BY_CGROUP
	w.by = bpf_skb_cgroup_id(skb);
#endif
	take(STAGE_SOCKET, 0, &w);
	return 1;
}
#endif
