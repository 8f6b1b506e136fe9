/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Receive latency: at several places of the receive path, how long ago the packet came, by its receive
 * timestamp (CLOCK_REALTIME, set where the driver hands it over). Nothing is kept per packet.
 *
 * The text in front of this file is generated: the structures latency_control, latency_state,
 * latency_socket, latency_hole, latency_place and latency_cell (layouts.py says what their members mean); where the members of the
 * kernel's structures lie, by BTF (SKB_*, DEVICE_*, NET_*, SOCK_*, TCP_*, CGROUP_*, KERNFS_*), and the
 * numbers of some of its types (TYPE_*); as constants STAGES, PLACES (interfaces), PROTOCOLS, BY (0, or a
 * BY_*), NUMBERS (values of it that are told apart, and one for all others), CELLS, LONGEST, HOLES (0, or TCP
 * sockets with segments out of order), LONG (1 s), NETNS (whose packets, but for BY_ANY_NETNS), what lib/histogram.h and lib/spread.h need; for each stage its number and
 * a definition of what is to be loaded.
 *
 * A packet costs cache lines and the clock more than instructions: what a program counts and what it
 * remembers of the packet before lie side by side, one value for each program and CPU.
 */
#include <uapi/linux/bpf.h>
#include "lib/histogram.h"
#include "lib/moment.h"
#include "lib/protocols.h"
#include "lib/spread.h"

BPF_ARRAY(controls, struct latency_control, 1);
BPF_PERCPU_ARRAY(states, struct latency_state, 2 * STAGES); /* a program can interrupt another of its stage */
BPF_PERCPU_ARRAY(cells, struct latency_cell, 2 * CELLS); /* two slots take turns */
#if HOLES
struct latency_scratch { /* the stack is short */
	struct latency_socket socket;
	struct latency_hole hole;
	u64 end;
};
BPF_PERCPU_ARRAY(scratches, struct latency_scratch, 1);
BPF_TABLE("lru_hash", struct latency_socket, struct latency_hole, holes, HOLES); /* by socket, of few */
#endif
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

/*
 * What lies at an address, as one of the kernel's types: LOAD loads its members. The kernel does nothing for
 * it but believe us (bpf_rdonly_cast, 6.2 or newer); where there is no memory, zeros are loaded.
 */
#if RDONLY_CAST
static u64 (*rdonly_cast)(u64 address, u64 type) = (void *)RDONLY_CAST;
#define AS(type, address) rdonly_cast(address, type)
#define MEMBER(type, base, at) LOAD(type, base, at)
#else
#define AS(type, address) (address)
#define MEMBER(type, base, at)                                                                            \
	({                                                                                                \
		type _member = 0;                                                                         \
		read_kernel(&_member, sizeof(_member), (void *)((base) + (at)));                          \
		(u64)_member;                                                                             \
	})
#endif

/* Of a traced function, or of netfilter: struct bpf_nf_ctx. BCC would read an array by a helper. */
struct arguments {
	u64 first;
	u64 second;
	u64 third;
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

/* What the program of a stage remembers on this CPU; SECOND: 1 in the other one of two programs of a stage */
static __always_inline struct latency_state *state_of(u32 stage, u32 second)
{
	u32 row = 2 * stage + second;

	return states.lookup(&row);
}

/* The number of an interface among those that are asked for; PLACES where it is none of them */
static __always_inline u32 place_of(struct latency_state *s, u32 interface)
{
	struct latency_place *p;
	u32 i, at, found = PLACES;

	if (s->interface == interface)
		return s->place;
	if (!interface)
		return PLACES;
#pragma unroll
	for (i = 0; i < SPREAD_TRIES; i++) {
		at = spread_place(interface, i);
		p = places.lookup(&at);
		if (p && p->interface == interface) {
			found = p->number;
			break;
		}
	}
	s->interface = interface;
	s->place = found;
	return found;
}

/*
 * The same of an interface in the network namespace NET. Ours does not go while we are there, so that its
 * address is no other's.
 */
static __always_inline u32 place_in(struct latency_state *s, u64 net, u32 interface)
{
#if BY_ANY_NETNS
	s->netns = LOAD(u32, net, NET_INODE);
	if (s->netns != NETNS)
		return PLACES - 1; /* whatever interface it is of theirs */
#else
	if (s->net != net) {
		if (LOAD(u32, net, NET_INODE) != NETNS)
			return PLACES;
		s->net = net;
	}
#endif
	return place_of(s, interface);
}

static __always_inline struct latency_control *control_of(void)
{
	u32 zero = 0;

	return controls.lookup(&zero);
}

/*
 * Where a packet at a STAGE is counted; nowhere, where it is not asked for: PLACE is what place_in() says,
 * PROTOCOL of protocol_of(), BY the value of it.
 */
static __always_inline struct latency_cell *cell_of(struct latency_control *control, struct latency_state *s,
						    u32 stage, u32 place, u32 protocol, u64 by)
{
	u32 cell = (stage * PLACES + place) * PROTOCOLS + protocol;

	if (place >= PLACES || protocol >= PROTOCOLS)
		return 0;
#if BY
	if (s->by != by || !s->number) {
		s->number = number_of(by);
		s->by = by;
	}
	cell = cell * NUMBERS + s->number;
#endif
	if (*(volatile u64 *)&control->slot & 1)
		cell += CELLS;
	return cells.lookup(&cell);
}

/*
 * Whether the clock has not been set, by LONG or more, since user space looked, nor since that STAMP was made.
 * Asked for long times alone: they may be what it has been set by.
 */
static __always_inline bool is_known(struct latency_control *control, u64 now, u64 stamp)
{
	u64 off = now - NOW() - *(volatile u64 *)&control->ahead + LONG / 2;

	return off < LONG && !is_before(stamp, *(volatile u64 *)&control->since);
}

/*
 * Exactly one fate for each packet that the hook sees between the program's begin and end. BLOCKED: the
 * network's time may be in its stamp; DELIVERY: the stamp says when it is to go out, not when it came.
 *
 * The clock waits for all that is being loaded, and nothing behind it begins before: what does not need the
 * time is loaded ahead of it. Little is kept meanwhile: with 64 bytes of stack or more, the kernel gives a
 * program one that no cache has.
 */
static __always_inline void take(struct latency_control *control, struct latency_state *s,
				 struct latency_cell *c, bool blocked, u64 stamp, u64 delivery)
{
	u64 now, latency, bucket, *rare = 0;

	if (!c)
		rare = &s->other;
	else if (!stamp)
		rare = &s->unstamped;
	else if (delivery)
		rare = &s->delivery;
	else if (blocked)
		rare = &s->blocked;
	else
		LOAD(u64, c, 0);
	now = NOW_TAI();
	if (is_before(now, control->begin) || !is_before(now, control->end))
		return; /* another program has it */
	if (rare) {
		*rare += 1;
		return;
	}
	latency = now - *(volatile u64 *)&control->tai_offset - stamp;
	if ((s64)latency < 0 || latency >= LONGEST ||
	    (latency >= LONG && !is_known(control, now, stamp))) {
		s->negative++;
		return;
	}
	bucket = bucket_of(latency);
	asm volatile("" : "+r"(bucket)); /* kernel 6.1 follows a bound in one register alone */
	if (!c || bucket >= BUCKETS)
		return;
	s->measured++;
	if (latency + 1 > c->most)
		c->most = latency + 1;
	if (LONGEST - latency > c->least)
		c->least = LONGEST - latency;
	c->sum += latency;
	c->buckets[bucket]++;
}

#if BY == BY_DST_PORT
/* Destination port behind an IP header; 0 in a later fragment, which has none */
static __always_inline u16 port_of(u64 data, u64 header, bool ipv4)
{
	u64 length = 40;

	if (ipv4) {
		if (MEMBER(u16, header, 6) & bpf_htons(0x1fff))
			return 0;
		length = (MEMBER(u8, header, 0) & 15) * 4;
	}
	header = AS(TYPE_UDPHDR, data + length);
	return bpf_ntohs(MEMBER(u16, header, 2));
}
#endif

/* A packet whose data begins with the IP header, at a device */
static __always_inline void take_packet(u32 stage, u64 skb)
{
	struct latency_state *s = state_of(stage, 0);
	struct latency_control *control;
	struct latency_cell *c;
	u64 device, header, ethertype, by = 0;
	u32 place, protocol = PROTOCOLS;
	bool ipv4;

	if (!s)
		return;
	device = LOAD(u64, skb, SKB_DEVICE);
	place = place_in(s, LOAD(u64, device, DEVICE_NET), LOAD(u32, device, DEVICE_INDEX));
	ethertype = LOAD(u16, skb, SKB_PROTOCOL);
	ipv4 = ethertype == bpf_htons(ETHERTYPE_IPV4);
	if (place < PLACES && (ipv4 || ethertype == bpf_htons(ETHERTYPE_IPV6))) {
		header = AS(TYPE_IPHDR, LOAD(u64, skb, SKB_DATA)); /* IPv6 says the protocol as early */
		protocol = protocol_of(ipv4 ? MEMBER(u8, header, 9) : MEMBER(u8, header, 6));
#if BY == BY_DST_PORT
		if (protocol < PROTOCOLS)
			by = port_of(LOAD(u64, skb, SKB_DATA), header, ipv4);
#endif
	}
#if BY == BY_NETNS
	by = s->netns;
#endif
	control = control_of();
	if (!control)
		return;
	c = cell_of(control, s, stage, place, protocol, by);
	take(control, s, c, false, LOAD(u64, skb, SKB_TSTAMP),
	     LOAD(u8, skb, SKB_TSTAMP_TYPE) & TSTAMP_TYPE_MASK);
}

#if HOLES
/* Whether sequence number a comes before b (RFC 9293 section 3.4) */
static __always_inline bool precedes(u32 a, u32 b)
{
	return (s32)(a - b) < 0;
}

/*
 * Whether what a TCP socket has got, or hands over, may have waited for a segment ahead of it that came later,
 * so that its stamp is older than the moment at which it could be had.
 *
 * The kernel counts what comes out of order, for each socket. If it has counted more since the socket was
 * last seen, that lies behind the numbers that were in order by then, and ahead of the highest that is
 * there now: in that range segments are taken for such that had to wait. Of what was merged the stamp is
 * the last one's, whose number is asked for here. Connections without any such segment, most, end at the first
 * question.
 */
static __always_inline bool may_have_waited(u32 stage, u64 socket, u64 skb)
{
	u64 tcp = AS(TYPE_TCP_SOCK, socket), last;
	u32 packets = MEMBER(u32, tcp, TCP_OUT_OF_ORDER), zero = 0;
	struct latency_scratch *now;
	struct latency_hole *hole;

	if (!packets)
		return false;
	now = scratches.lookup(&zero);
	if (!now)
		return false;
	now->hole.packets = packets;
	now->hole.next = now->hole.until = MEMBER(u32, tcp, TCP_NEXT);
	if (MEMBER(u64, tcp, TCP_WAITING)) {
		last = MEMBER(u64, tcp, TCP_WAITING_LAST);
		now->hole.until = MEMBER(u32, last, SKB_TCP_END);
	}
	now->end = LOAD(u32, skb, SKB_TCP_END);
	now->hole.from = now->end - 1; /* what has been read by now is not asked for again */
	now->socket.socket = socket;
	now->socket.ports = LOAD(u32, socket, SOCK_PORTS); /* another one may get its address */
	now->socket.stage = stage;
	hole = holes.lookup(&now->socket);
	if (!hole) {
		holes.update(&now->socket, &now->hole);
		return !precedes(now->hole.until, now->end);
	}
	if (precedes(hole->until, now->end))
		hole->from = hole->until = now->end; /* the range has been passed */
	if (hole->packets != now->hole.packets) {
		if (hole->from == hole->until)
			hole->from = hole->next;
		hole->until = now->hole.until;
		hole->packets = now->hole.packets;
	}
	hole->next = now->hole.next;
	return precedes(hole->from, now->end) && !precedes(hole->until, now->end);
}
#else
#define may_have_waited(stage, socket, skb) false
#endif

/* The value of BY that a socket has */
static __always_inline u64 by_socket(struct latency_state *s, u64 socket)
{
#if BY == BY_NETNS
	return s->netns;
#elif BY == BY_DST_PORT
	return LOAD(u16, socket, SOCK_PORT);
#elif BY == BY_CGROUP
	u64 group = LOAD(u64, socket, SOCK_CGROUP), node;

	if (!group)
		return 0;
	node = LOAD(u64, group, CGROUP_NODE);
	return LOAD(u64, node, KERNFS_ID);
#else
	return 0;
#endif
}

/* A packet that a socket has got; IN_ORDER: it is known not to have waited for one ahead of it */
static __always_inline void take_queued(u32 stage, u32 second, u64 skb, u64 socket, bool in_order)
{
	struct latency_state *s = state_of(stage, second);
	struct latency_control *control;
	struct latency_cell *c;
	bool blocked = false;
	u32 place, protocol;

	if (!s)
		return;
	place = place_in(s, LOAD(u64, socket, SOCK_NET), LOAD(u32, skb, SKB_IIF));
	protocol = protocol_of(LOAD(u16, socket, SOCK_PROTOCOL));
	if (!in_order && protocol == protocol_of(PROTOCOL_TCP) && place < PLACES)
		blocked = may_have_waited(stage, socket, skb);
	control = control_of();
	if (!control)
		return;
	c = cell_of(control, s, stage, place, protocol, by_socket(s, socket));
	take(control, s, c, blocked, LOAD(u64, skb, SKB_TSTAMP),
	     LOAD(u8, skb, SKB_TSTAMP_TYPE) & TSTAMP_TYPE_MASK);
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
		take_queued(STAGE_QUEUED, 0, LOAD(u64, socket, SOCK_QUEUE_TAIL), socket, false);
	return 0;
}
#endif

#ifdef LOAD_QUEUED_TCP
/* fentry tcp_queue_rcv(sk, skb, ...): what comes in order alone */
int vtap_queued_tcp(struct arguments *ctx)
{
	take_queued(STAGE_QUEUED, 0, ctx->second, ctx->first, true);
	return 0;
}
#endif

#ifdef LOAD_QUEUED_UDP
/* fexit __udp_enqueue_schedule_skb(sk, skb): it has room for it where the result is 0 */
int vtap_queued_udp(struct arguments *ctx)
{
	if (!(u32)ctx->third)
		take_queued(STAGE_QUEUED, 1, ctx->second, ctx->first, true);
	return 0;
}
#endif

#ifdef LOAD_READ_TCP
/* Tracepoint skb_copy_datagram_iovec(skb, len), include/trace/events/skb.h */
int vtap_read_tcp(struct arguments *ctx)
{
	u64 skb = ctx->first, socket = LOAD(u64, skb, SKB_SOCKET);

	if (socket && LOAD(u16, socket, SOCK_PROTOCOL) == PROTOCOL_TCP)
		take_queued(STAGE_READ, 0, skb, socket, false);
	return 0;
}
#endif

#ifdef LOAD_READ_UDP
/* fentry skb_consume_udp(sk, skb, len) */
int vtap_read_udp(struct arguments *ctx)
{
	if ((s64)ctx->third >= 0)
		take_queued(STAGE_READ, 1, ctx->second, ctx->first, true);
	return 0;
}
#endif

#ifdef LOAD_SOCKET
/* A pointer that is no number here, as one: it goes through a map where there is no other way. */
static __always_inline u64 number_from(struct latency_state *s, struct bpf_sock *known)
{
#if RDONLY_CAST
	return AS(TYPE_SOCK, (u64)known);
#else
	*(volatile u64 *)&s->net = (u64)known;
	return *(volatile u64 *)&s->net;
#endif
}

/* A control group's packets that come in, when the socket is known; 1 lets the packet through. */
int vtap_socket(struct __sk_buff *skb)
{
	struct latency_state *s = state_of(STAGE_SOCKET, 0);
	struct latency_control *control;
	struct bpf_sock *known = skb->sk;
	struct latency_cell *c;
	u64 socket, net, by = 0;
	u32 place, protocol;

	if (!known || !s)
		return 1;
	socket = number_from(s, known);
	net = MEMBER(u64, socket, SOCK_NET);
	s->netns = MEMBER(u32, net, NET_INODE);
	if (s->netns == NETNS)
		place = place_of(s, skb->ifindex);
	else
		place = BY_ANY_NETNS ? PLACES - 1 : PLACES;
	protocol = protocol_of(MEMBER(u16, socket, SOCK_PROTOCOL));
#if BY == BY_NETNS
	by = s->netns;
#elif BY == BY_DST_PORT
	by = MEMBER(u16, socket, SOCK_PORT);
#elif BY == BY_CGROUP
	by = bpf_skb_cgroup_id(skb);
#endif
	control = control_of();
	if (!control)
		return 1;
	c = cell_of(control, s, STAGE_SOCKET, place, protocol, by);
	take(control, s, c, false, skb->tstamp, 0);
	return 1;
}
#endif
