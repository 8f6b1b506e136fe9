/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What has been sent and waits for its answer: probes, and how a packet sets, answers or drops one.
 * docs/rtt.md has the rules. This text is put into the programs as it is (BCC knows maps in one text only).
 *
 * Generated in front: the structures rtt_pair_key, rtt_stream, rtt_pair, rtt_ask_key, rtt_control and
 * rtt_counts (layouts.py says what their members mean), RTT_TABLE_SIZE, RTT_KINDS, HAVE_TAI, and
 * RTT_TIMESTAMPS, whether TCP's timestamps are compared in the place of its numbers.
 *
 * A stream is what goes one way between two ends, as it is seen arriving or as it is seen leaving: where
 * packets come by twice (the loopback interface, a router with one leg) each sighting is one of its own.
 * A probe is one word, so that two CPUs never work with half of one: whoever takes it out has it.
 */

/* In the order of KINDS in layouts.py */
enum rtt_kind { RTT_TCP, RTT_ICMP, RTT_DNS, RTT_QUIC, RTT_OTHER };

#define RTT_SEEN (1ULL << 32)	/* beside the number in `highest` */
#define RTT_FARTHEST (1LL << 30) /* a number farther off belongs to another stream, as for sequences */
#define RTT_SYN_REACH 65536	/* so far behind a SYN its connection is the same */
#define RTT_TRIES 8		/* each failure means that another CPU was faster */
#define RTT_AT_ONCE 2000	/* ns within which two clocks have been read */
#define RTT_FRESH 1000000000ULL /* a receive timestamp is not older than that, ns */

/* A probe: its number in the upper half, then the moment in units of 64 ns, of which two bits say more */
#define PROBE_OUT 1
#define PROBE_SYN 2
#define PROBE_TIME(moment) ((u32)((moment) >> 6) & ~3U)
#define PROBE_AGE 64

/* The QUIC spin bit: edges that went as they must, before they are believed (RFC 9000 section 17.4) */
#define SPIN_TRUSTED 16
#define SPIN_EDGES 8 /* bits up to where they are counted in `highest` */
#define RTT_FORGOTTEN 60000000000ULL /* ns after which a question with the same number is another one */
#define ASKED_AGAIN 1ULL /* in a moment: that of a question that was asked more than once */
#define QUIC_FORM 0xC0 /* of the first byte: long header, fixed bit */
#define QUIC_SHORT 0x40
#define QUIC_SPIN 0x20
#define QUIC_PORT 443
#define DNS_PORT 53
#define DNS_ANSWER 0x80 /* of the third byte: RFC 1035 section 4.1.1 */
#define ICMP_ECHO 8
#define ICMP_ECHO_REPLY 0
#define ICMPV6_ECHO 128
#define ICMPV6_ECHO_REPLY 129
#define TCP_OPTION_TIMESTAMPS 8 /* RFC 7323 section 3.2 */
#define TCP_OPTION_USUAL 0x0101080A /* behind two that do nothing: RFC 7323 appendix A */
#define MAX_TCP_OPTIONS 12

BPF_TABLE("lru_hash", struct rtt_pair_key, struct rtt_pair, pairs, RTT_TABLE_SIZE);
BPF_TABLE("lru_hash", struct rtt_ask_key, u64, asks, RTT_TABLE_SIZE);
BPF_PERCPU_ARRAY(rtt_counted, struct rtt_counts, RTT_KINDS);
BPF_ARRAY(rtt_controls, struct rtt_control, 1);

/*
 * What has come of a packet: a round-trip time of what it answers, and probes that it has dropped. In memory, of
 * which the verifier knows nothing, so that it need not go on once for every way in which this came about.
 */
struct outcome {
	u64 time;      /* round-trip time, ns; 0: none */
	u64 before;    /* the one before it, of the same stream; 0: none */
	u32 handshake; /* of a SYN */
	u32 left;      /* what it answers was seen leaving */
	u32 lost;      /* probes dropped of what it answers */
	u32 lost_own;  /* probes dropped of its own way */
};
BPF_PERCPU_ARRAY(outcomes, struct outcome, 1);

static __always_inline struct rtt_counts *counts_of(u32 kind)
{
	return rtt_counted.lookup(&kind);
}

/* When the packet came by, CLOCK_MONOTONIC; asked only where a probe begins or ends. */
static __always_inline u64 rtt_moment(struct context *ctx, const bool egress)
{
	u64 now = NOW();
#if HAVE_TAI
	u64 stamp = egress ? 0 : TIMESTAMP(ctx), age, then;
	struct rtt_control *c;
	u32 zero = 0;

	if (stamp) {
		c = rtt_controls.lookup(&zero);
		age = c ? NOW_TAI() - c->tai_offset - stamp : ~0ULL;
		then = NOW();
		/* else somebody has just set the clock, or something came between the two */
		if (age < RTT_FRESH && then - now < RTT_AT_ONCE)
			return then - age;
	}
#endif
	return now;
}

/* NUMBER, which this packet brings, waits for its answer, if nothing does in S. */
static __always_inline void set_probe(struct context *ctx, struct rtt_counts *c, struct rtt_stream *s, u32 number,
				      bool syn, const bool egress)
{
	u64 now, probe;

	if (*(volatile u64 *)&s->probe)
		return;
	now = rtt_moment(ctx, egress);
	probe = (u64)number << 32 | PROBE_TIME(now) | PROBE_OUT | (syn ? PROBE_SYN : 0);
	if (__sync_val_compare_and_swap(&s->probe, 0, probe))
		return; /* another CPU was faster */
	*(volatile u64 *)&s->set = now;
	c->probes_set++;
}

/* The time from PROBE, which has been taken out of a stream, to NOW; `set` said SET just before. */
static __always_inline u64 age_of(u64 probe, u64 set, u64 now)
{
	/* another CPU may have set the next one since: then to 256 ns */
	if (PROBE_TIME(set) == ((u32)probe & ~3U))
		return now - set;
	return (s64)(s32)(PROBE_TIME(now) - ((u32)probe & ~3U)) * PROBE_AGE;
}

/* PROBE of stream S is answered by this packet; it is taken, by nobody else. */
static __always_inline void answered(struct context *ctx, struct outcome *o, struct rtt_counts *c,
				     struct rtt_stream *s, u64 probe, const bool egress)
{
	u64 set = *(volatile u64 *)&s->set, time;

	if (__sync_val_compare_and_swap(&s->probe, probe, 0) != probe)
		return;
	time = age_of(probe, set, rtt_moment(ctx, egress));
	if ((s64)time < 1) { /* two processors took their times in another order */
		c->invalidated++;
		o->lost++;
		return;
	}
	c->samples++;
	o->time = time;
	o->before = __sync_lock_test_and_set(&s->last, time);
	o->handshake = !!(probe & PROBE_SYN);
}

/* The stream of the other way than WAY: as seen at the other side of this interface, if it is there. */
static __always_inline struct rtt_stream *opposite(struct rtt_pair *pair, struct outcome *o, u32 way,
						   const bool egress)
{
	struct rtt_stream *s = &pair->stream[(!way & 1) * 2 + !egress];
	struct rtt_stream *mirrored = &pair->stream[(!way & 1) * 2 + egress];

	o->left = !egress;
	if (likely(*(volatile u64 *)&s->highest) || !*(volatile u64 *)&mirrored->highest)
		return s;
	o->left = egress; /* mirrored traffic: both ways come in */
	return mirrored;
}

/* The probe of S is dropped, which nobody will answer; LOST counts it. */
static __always_inline void invalidate(struct rtt_counts *c, struct rtt_stream *s, u32 *lost)
{
	if (!*(volatile u64 *)&s->probe || !__sync_lock_test_and_set(&s->probe, 0))
		return;
	c->invalidated++;
	++*lost;
}

/* The pair of P's ends, as KIND, and which way P goes; NULL: there is no room. */
static __always_inline struct rtt_pair *pair_of(struct packet *p, u32 kind, u32 *way)
{
	u32 ports = p->ports;
	struct rtt_pair_key key;
	struct rtt_pair fresh, *found;
	bool first = p->src[0] < p->dst[0] ||
		     (p->src[0] == p->dst[0] &&
		      (p->src[1] < p->dst[1] ||
		       (p->src[1] == p->dst[1] && (u16)(ports >> 16) < (u16)ports)));

	if (first) {
		key.one[0] = p->src[0];
		key.one[1] = p->src[1];
		key.other[0] = p->dst[0];
		key.other[1] = p->dst[1];
		key.ports = ports;
	} else {
		key.one[0] = p->dst[0];
		key.one[1] = p->dst[1];
		key.other[0] = p->src[0];
		key.other[1] = p->src[1];
		key.ports = ports >> 16 | ports << 16;
	}
	key.interface = p->interface;
	key.vlan = p->vlan;
	key.kind = kind;
	*way = first;
	found = pairs.lookup(&key);
	if (likely(found))
		return found;
	__builtin_memset(&fresh, 0, sizeof(fresh));
	pairs.insert(&key, &fresh); /* fails when another CPU was faster, which is as good */
	return pairs.lookup(&key);
}

/*
 * How the numbers from BEGIN to END lie to all that stream S has had: behind them (BEYOND); the first of another
 * connection, by its SYN (ANEW); not behind them, or not wholly (AGAIN); or nobody knows (JOINED), as what
 * went before has not been seen.
 */
enum order { BEYOND, ANEW, AGAIN, JOINED };

static __always_inline enum order advance(struct rtt_stream *s, u32 begin, u32 end, bool syn)
{
	u64 seen;
	s64 ahead, since;
	u32 i;

#pragma unroll
	for (i = 0; i < RTT_TRIES; i++) {
		seen = *(volatile u64 *)&s->highest;
		ahead = (s32)(end - (u32)seen);
		since = (s32)((u32)seen - begin);
		/* a SYN that is sent again may leave out data that it had with it */
		if (seen && (syn ? since > 0 && since <= RTT_SYN_REACH : ahead <= 0 && ahead > -RTT_FARTHEST))
			return AGAIN;
		if (__sync_val_compare_and_swap(&s->highest, seen, RTT_SEEN | end) != seen)
			continue;
		if (syn)
			return ANEW;
		if (!seen || ahead < 0 || ahead > RTT_FARTHEST)
			return JOINED;
		return (s32)(begin - (u32)seen) < 0 ? AGAIN : BEYOND;
	}
	return AGAIN;
}

/* NUMBER is acknowledged, of stream S. */
static __always_inline void acknowledge(struct context *ctx, struct outcome *o, struct rtt_counts *c,
					struct rtt_stream *s, u32 number, const bool egress)
{
	u64 probe = *(volatile u64 *)&s->probe;
	s32 beyond = number - (u32)(probe >> 32);

	if (!probe || beyond < 0)
		return;
	if (!beyond) {
		answered(ctx, o, c, s, probe, egress);
	} else if (__sync_val_compare_and_swap(&s->probe, probe, 0) == probe) {
		c->stretched++; /* of what was sent later: when that one came is not known */
		o->lost++;
	}
}

#if RTT_TIMESTAMPS

/* The option with TCP's timestamps (RFC 7323 section 3.2), host byte order; false: there is none. */
static __always_inline bool tcp_timestamps(struct context *ctx, struct packet *p, u32 *value, u32 *echo)
{
	u64 at = p->payload_at - p->tcp_options, end = p->payload_at;
	__be32 usual[3], both[2];
	u8 option[2];
	u32 i;

	if (likely(p->tcp_options >= sizeof(usual)) && !load_bytes(ctx, at, usual, sizeof(usual)) &&
	    likely(usual[0] == htonl(TCP_OPTION_USUAL))) {
		*value = ntohl(usual[1]);
		*echo = ntohl(usual[2]);
		return true;
	}
	for (i = 0; i < MAX_TCP_OPTIONS && at + sizeof(option) <= end; i++) {
		if (load_bytes(ctx, at, option, sizeof(option)) || !option[0])
			return false;
		if (option[0] == TCP_OPTION_TIMESTAMPS) {
			if (option[1] != sizeof(option) + sizeof(both) || at + option[1] > end ||
			    load_bytes(ctx, at + sizeof(option), both, sizeof(both)))
				return false;
			*value = ntohl(both[0]);
			*echo = ntohl(both[1]);
			return true;
		}
		at += option[0] == 1 ? 1 : option[1] < sizeof(option) ? sizeof(option) : option[1];
	}
	return false;
}

#endif

static __always_inline void follow_tcp(struct context *ctx, struct packet *p, struct outcome *o,
				       struct rtt_counts *c, const bool egress)
{
	u32 flags = p->tcp_flags, way, number, begin, answer;
	u32 marks = !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
	struct rtt_pair *pair;
	struct rtt_stream *own, *other;
	enum order order;

	if (unlikely(flags & TCP_FRAGMENT)) /* where it ends is not known */
		return;
	pair = pair_of(p, RTT_TCP, &way);
	if (unlikely(!pair)) {
		c->no_room++;
		return;
	}
	own = &pair->stream[(way & 1) * 2 + egress];
	other = opposite(pair, o, way, egress);
	if (unlikely(flags & TCP_RST)) { /* it answers nothing, and nothing will be answered */
		invalidate(c, own, &o->lost_own);
		invalidate(c, other, &o->lost);
		return;
	}
	begin = p->tcp_sequence;
	number = begin + (u32)p->payload + marks;
	answer = p->tcp_acknowledgement;
#if RTT_TIMESTAMPS
	begin = number - begin;
	if (!tcp_timestamps(ctx, p, &number, &answer))
		return;
	if (unlikely(flags & TCP_SYN)) { /* another connection, whose clock may begin anywhere */
		invalidate(c, own, &o->lost_own);
		*(volatile u64 *)&own->highest = RTT_SEEN | number;
		order = BEYOND;
	} else { /* also what has no data: what is sent later within the tick has the same */
		order = advance(own, number, number, false);
	}
	if (begin && order == BEYOND)
		set_probe(ctx, c, own, number, flags & TCP_SYN, egress);
#else
	if (number == begin) {
		/* what its end has not sent yet begins there */
		if (unlikely(!*(volatile u64 *)&own->highest))
			__sync_val_compare_and_swap(&own->highest, 0, RTT_SEEN | begin);
	} else {
		order = advance(own, begin, number, flags & TCP_SYN);
		if (unlikely(order != BEYOND))
			invalidate(c, own, &o->lost_own);
		if (likely(order == BEYOND || order == ANEW))
			set_probe(ctx, c, own, number, flags & TCP_SYN, egress);
	}
#endif
	if (likely(flags & TCP_ACK))
		acknowledge(ctx, o, c, other, answer, egress);
}

/* A question, or (IS_ANSWER) its answer, that NUMBER tells from others between the same ends and ports. */
static __always_inline void follow_question(struct context *ctx, struct packet *p, struct outcome *o,
					    struct rtt_counts *c, u32 kind, u32 number, bool is_answer,
					    const bool egress)
{
	struct rtt_ask_key key = {};
	u64 now = rtt_moment(ctx, egress) & ~ASKED_AGAIN, *asked, then;
	struct rtt_pair *pair;
	u32 way;

	key.number = number;
	key.interface = p->interface;
	key.vlan = p->vlan;
	key.kind = kind;
	key.asker[0] = is_answer ? p->dst[0] : p->src[0];
	key.asker[1] = is_answer ? p->dst[1] : p->src[1];
	key.asked[0] = is_answer ? p->src[0] : p->dst[0];
	key.asked[1] = is_answer ? p->src[1] : p->dst[1];
	key.ports = is_answer ? p->ports >> 16 | p->ports << 16 : p->ports;
	key.left = is_answer ? !egress : egress;
	asked = asks.lookup(&key);
	if (is_answer) {
		if (!asked) {
			key.left = egress; /* mirrored traffic */
			asked = asks.lookup(&key);
			if (!asked)
				return;
		}
		then = *(volatile u64 *)asked;
		/* whatever answers what was asked again, nobody knows which it answers */
		if (!then || then & ASKED_AGAIN || __sync_val_compare_and_swap(asked, then, 0) != then)
			return;
		asks.delete(&key);
		if (!is_before(then, now)) {
			c->invalidated++;
			o->lost++;
			return;
		}
		c->samples++;
		o->time = now - then;
		o->before = 0;
		o->handshake = 0;
		o->left = key.left;
		if (kind == RTT_ICMP) { /* one question follows another between the same ends */
			pair = pair_of(p, kind, &way);
			if (pair)
				o->before = __sync_lock_test_and_set(
					&pair->stream[(way & 1) * 2 + egress].last, o->time);
		}
	} else if (likely(!asked)) {
		if (!asks.insert(&key, &now))
			c->probes_set++;
		else
			c->no_room++;
	} else if (!*(volatile u64 *)asked || /* it is just being answered, or numbers come round again */
		   (s64)(now - *(volatile u64 *)asked) > (s64)RTT_FORGOTTEN) {
		__sync_lock_test_and_set(asked, now);
		c->probes_set++;
	} else if (!(__sync_lock_test_and_set(asked, now | ASKED_AGAIN) & ASKED_AGAIN)) {
		c->invalidated++; /* which of both will be answered? */
		o->lost_own++;
		o->left = !egress;
	}
}

/* The spin bit of a packet with a short header; FROM_CLIENT: to port 443. */
static __always_inline void follow_spin(struct context *ctx, struct packet *p, struct outcome *o,
					struct rtt_counts *c, u32 spin, bool from_client, const bool egress)
{
	struct rtt_pair *pair;
	struct rtt_stream *own, *other;
	u64 seen, theirs, edges, probe;
	u32 way;

	pair = pair_of(p, RTT_QUIC, &way);
	if (!pair) {
		c->no_room++;
		return;
	}
	own = &pair->stream[(way & 1) * 2 + egress];
	other = opposite(pair, o, way, egress);
	seen = *(volatile u64 *)&own->highest;
	if (seen && (seen & 1) == spin)
		return;
	edges = (seen & ~RTT_SEEN) >> SPIN_EDGES;
	theirs = *(volatile u64 *)&other->highest;
	/* RFC 9000 section 17.4: the client inverts what it has got, the server repeats it */
	if (!seen || !theirs || (theirs & 1) != (from_client ? !spin : spin)) {
		edges = 0; /* this connection does not spin, or packets have come in another order */
		invalidate(c, other, &o->lost);
	} else if (edges < SPIN_TRUSTED) {
		edges++;
	}
	if (__sync_val_compare_and_swap(&own->highest, seen, RTT_SEEN | edges << SPIN_EDGES | spin) != seen)
		return;
	probe = *(volatile u64 *)&other->probe;
	if (probe)
		answered(ctx, o, c, other, probe, egress);
	invalidate(c, own, &o->lost_own); /* its answer did not come by here */
	/* of both directions: one alone goes right by chance too often */
	if (edges == SPIN_TRUSTED && (theirs & ~RTT_SEEN) >> SPIN_EDGES == SPIN_TRUSTED)
		set_probe(ctx, c, own, spin, 0, egress);
}

static __always_inline bool to_port(struct packet *p, u32 port)
{
	return (u16)p->ports == port;
}

static __always_inline bool from_port(struct packet *p, u32 port)
{
	return p->ports >> 16 == port;
}

/* What P is, by what leads to an answer; HEAD gets what its bytes say. */
static __always_inline enum rtt_kind kind_of(struct context *ctx, struct packet *p, __be32 head[2])
{
	if (likely(p->numbered == PROTOCOL_TCP))
		return RTT_TCP;
	if (p->numbered == PROTOCOL_ICMP || p->numbered == PROTOCOL_ICMPV6) {
		if (load_bytes(ctx, p->payload_at - MIN_ICMP, head, MIN_ICMP))
			return RTT_OTHER;
		switch (((u8 *)head)[0]) {
		case ICMP_ECHO:
		case ICMP_ECHO_REPLY:
			return p->numbered == PROTOCOL_ICMP ? RTT_ICMP : RTT_OTHER;
		case ICMPV6_ECHO:
		case ICMPV6_ECHO_REPLY:
			return p->numbered == PROTOCOL_ICMPV6 ? RTT_ICMP : RTT_OTHER;
		}
		return RTT_OTHER;
	}
	if (p->numbered != PROTOCOL_UDP)
		return RTT_OTHER;
	if (to_port(p, DNS_PORT) || from_port(p, DNS_PORT))
		return load_bytes(ctx, p->payload_at, head, 4) ? RTT_OTHER : RTT_DNS;
	if (to_port(p, QUIC_PORT) == from_port(p, QUIC_PORT) || load_bytes(ctx, p->payload_at, head, 4))
		return RTT_OTHER;
	return (((u8 *)head)[0] & QUIC_FORM) == QUIC_SHORT ? RTT_QUIC : RTT_OTHER;
}

static __always_inline void follow(struct context *ctx, struct packet *p, struct outcome *o, struct rtt_counts *c,
				   enum rtt_kind kind, const __be32 head[2], const bool egress)
{
	const u8 *bytes = (const u8 *)head;

	if (likely(kind == RTT_TCP)) {
		follow_tcp(ctx, p, o, c, egress);
	} else if (kind == RTT_QUIC) {
		follow_spin(ctx, p, o, c, !!(bytes[0] & QUIC_SPIN), to_port(p, QUIC_PORT), egress);
	} else if (kind == RTT_ICMP) { /* by identifier and sequence number: RFC 792, RFC 4443 section 4 */
		follow_question(ctx, p, o, c, kind, head[1],
				bytes[0] == ICMP_ECHO_REPLY || bytes[0] == ICMPV6_ECHO_REPLY, egress);
	} else if (kind == RTT_DNS &&
		   (bytes[2] & DNS_ANSWER ? from_port(p, DNS_PORT) : to_port(p, DNS_PORT))) {
		follow_question(ctx, p, o, c, kind, (u16)head[0], bytes[2] & DNS_ANSWER, egress);
	}
}

/* What comes of P, of that KIND; NULL: nothing. */
static __always_inline struct outcome *followed(struct context *ctx, struct packet *p, enum rtt_kind kind,
						const __be32 head[2], const bool egress)
{
	struct rtt_counts *c = counts_of(kind);
	struct outcome *o;
	u32 zero = 0;

	o = outcomes.lookup(&zero);
	if (!c || !o)
		return NULL;
	c->seen_packets++;
	if (kind == RTT_OTHER)
		return NULL;
	o->time = 0;
	o->lost = o->lost_own = 0;
	follow(ctx, p, o, c, kind, head, egress);
	return o->time || o->lost || o->lost_own ? o : NULL;
}

/* A sample is in no record. */
static __always_inline void lose_sample(enum rtt_kind kind)
{
	struct rtt_counts *c = counts_of(kind);

	if (c)
		c->samples_lost++;
}

/* The time of O into sums of times: all, what neighbours differ by and how many there are, handshakes likewise. */
static __always_inline void add_time(struct outcome *o, u64 *sum, u64 *jitter, u64 *neighbours, u64 *handshake,
				     u64 *handshakes)
{
	u64 time = o->time, before = o->before;

	__sync_fetch_and_add(sum, time);
	if (before) {
		__sync_fetch_and_add(jitter, time > before ? time - before : before - time);
		__sync_fetch_and_add(neighbours, 1);
	}
	if (o->handshake) {
		__sync_fetch_and_add(handshake, time);
		__sync_fetch_and_add(handshakes, 1);
	}
}
