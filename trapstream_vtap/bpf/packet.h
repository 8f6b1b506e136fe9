/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a packet is: from the bytes of a frame to addresses, ports, lengths.
 *
 * Nothing is assumed about where the bytes lie: what direct access cannot reach (the packet is not
 * linear in memory) is read by helper. Every length that a packet claims is checked against what is
 * really there; a packet that claims more is malformed.
 */
#ifndef VTAP_PACKET_H
#define VTAP_PACKET_H

#include "hook.h"
#include "protocols.h"

#if DECAPSULATE
#define IF_DECAPSULATING(...) __VA_ARGS__
#else
#define IF_DECAPSULATING(...)
#endif

/*
 * The verifier walks every path with what it knows of the numbers there, and two packets in one
 * another have too many paths. Have it forget what it knows of an offset and of the room behind it:
 * from here on most paths look the same to it. Not 0 if headers could not add up to that offset.
 */
#define MAX_HEADERS 0xF000 /* the verifier grants an offset of 0xFFFF */
#define forget(offset, room)                                                                       \
	({                                                                                         \
		u64 any_ = p->bytes;                                                               \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(offset) : "r"(any_));                   \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(room) : "r"(any_));                     \
		(offset) < ETH_HEADER || (offset) > MAX_HEADERS;                                   \
	})

/* Lengths below are u64 all through: this LLVM follows each step of 32-bit arithmetic by two shifts. */
enum verdict { IS_IP, NOT_IP, MALFORMED };

/*
 * Begins with what `struct flow_key` holds, in words as wide as the hash table compares them: a wide
 * load from where narrow stores have just been made stalls the processor for longer than the whole
 * dissection takes.
 */
struct packet {
	u64 src[2], dst[2]; /* IPv4: in the first four bytes, the rest zero */
	u32 ports;	    /* source in the upper half, destination in the lower; host byte order */
	u32 interface;
	u32 traits; /* protocol, family << 8, ports present << 16, direction << 24 */
	u32 vlan;   /* outermost id | VLAN_PRESENT, the second one 16 bits higher */
#if KEY_TUNNEL_ID
	u32 tunnel_id;
	u32 tunnel; /* 1: there is an id */
#endif
	u64 payload_at; /* where the bytes behind the transport header begin, within the frame */
	u64 payload;	/* how many there are, in all merged segments together */
	u64 bytes;	/* of the frame, with a tag that has been taken off */
	u64 packets;	/* on the wire */
#if DECAPSULATE
	u64 fragment;	/* not 0: it holds only a part of what the IP header is of */
#endif
#ifdef VTAP_SEQUENCE
	u32 numbered;	  /* protocol, where the transport header is there and may lead to a number */
	u32 tcp_sequence; /* host byte order */
	u64 tcp_flags;
	u64 number; /* that the payload carries, where it has been looked at already */
#endif
};

#define TRAITS_PROTOCOL 0xFF
#define TRAITS_IPV4 (4 << 8)
#define TRAITS_IPV6 (6 << 8)
#define TRAITS_FAMILY (0xFF << 8)
#define TRAITS_PORTS (1 << 16)
#define TRAITS_EGRESS (1 << 24)
#define TRAITS_ALL (TRAITS_PROTOCOL | TRAITS_FAMILY | TRAITS_PORTS | TRAITS_EGRESS)

/* Behind the IP headers: HEADER bytes of transport header, ROOM bytes with what is behind it. */
static __always_inline enum verdict payload(struct packet *p, u64 offset, u64 header, u64 room,
					    u32 traits, u32 ports)
{
	if (unlikely(room < header))
		return MALFORMED;
	p->ports = ports;
	p->traits = traits;
	p->payload_at = offset + header;
	p->payload = room - header;
	return IS_IP;
}

/* The transport header at OFFSET, of which the IP header promises ROOM bytes with what is behind. */
static __always_inline enum verdict transport(struct context *ctx, struct packet *p, u64 offset,
					      u64 room, u64 protocol, u32 traits)
{
	u64 header = MIN_UDP;
	struct tcp_header tcp;
	__be32 ports;

	traits |= protocol;
#ifdef VTAP_SEQUENCE
	if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6)
		p->numbered = protocol;
#endif
	if (likely(protocol == PROTOCOL_TCP)) {
		/* all of it, ports and length, in one reach */
		if (peek(ctx, offset, tcp))
			return MALFORMED;
		header = (tcp.data_offset >> 4) * 4;
		if (unlikely(header < MIN_TCP))
			return MALFORMED;
#ifdef VTAP_SEQUENCE
		p->numbered = PROTOCOL_TCP;
		p->tcp_sequence = ntohl(tcp.sequence);
		p->tcp_flags = tcp.rest[0];
#endif
		return payload(p, offset, header, room, traits | TRAITS_PORTS, ntohl(tcp.ports));
	}
	if (unlikely(protocol != PROTOCOL_UDP)) {
		switch (protocol) {
		case PROTOCOL_UDPLITE:
			break;
		case PROTOCOL_SCTP:
			header = MIN_SCTP;
			break;
		case PROTOCOL_ICMP:
		case PROTOCOL_ICMPV6:
			return payload(p, offset, MIN_ICMP, room, traits, 0);
		default:
			return payload(p, offset, 0, room, traits, 0);
		}
	}
	if (peek(ctx, offset, ports))
		return MALFORMED;
	return payload(p, offset, header, room, traits | TRAITS_PORTS, ntohl(ports));
}

/* Here and below: the packet at OFFSET, of which THERE bytes are there. */
static __always_inline enum verdict ipv4(struct context *ctx, struct packet *p, u64 offset,
					 u64 there, u32 traits)
{
	struct ipv4_header ip __attribute__((aligned(8)));
	u64 length, header = sizeof(ip);

	if (peek(ctx, offset, ip))
		return MALFORMED;
	if (unlikely(ip.version_ihl != 0x45)) { /* 0x45 is version 4, no options: nothing to compute */
		header = (ip.version_ihl & 0xF) * 4;
		if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
			return MALFORMED;
	}
	length = ntohs(ip.total_length);
	/* more than 64 KiB of merged segments: the length does not fit its field and is 0 */
	if (unlikely(length == 0 && there > 0xFFFF))
		length = there;
	if (unlikely(length < header || length > there))
		return MALFORMED;
	p->src[0] = ip.src;
	p->src[1] = 0;
	p->dst[0] = ip.dst;
	p->dst[1] = 0;
	offset += header;
	length -= header;
	traits |= TRAITS_IPV4;
	IF_DECAPSULATING(p->fragment = ip.fragment & htons(0x3FFF));
	if (unlikely(ip.fragment & htons(0x1FFF))) /* a later fragment has no transport header */
		return payload(p, offset, 0, length, traits | ip.protocol, 0);
	return transport(ctx, p, offset, length, ip.protocol, traits);
}

static __always_inline bool is_extension(u64 next)
{
	switch (next) {
	case IPV6_HOP_BY_HOP:
	case IPV6_ROUTING:
	case IPV6_FRAGMENT:
	case IPV6_AUTHENTICATION:
	case IPV6_DESTINATION:
	case IPV6_MOBILITY:
	case IPV6_HIP:
	case IPV6_SHIM6:
		return true;
	}
	return false;
}

static __always_inline enum verdict ipv6(struct context *ctx, struct packet *p, u64 offset,
					 u64 there, u32 traits)
{
	struct ipv6_header ip;
	struct extension_header x;
	u64 room, next, length;
	u32 i;

	if (peek(ctx, offset, ip))
		return MALFORMED;
	IF_DECAPSULATING(if (there < sizeof(ip)) return MALFORMED; p->fragment = 0);
	offset += sizeof(ip);
	there -= sizeof(ip);
	room = ntohs(ip.payload_length);
	/* RFC 2675, and merged segments of more than 64 KiB */
	if (unlikely(room == 0 && there > 0xFFFF))
		room = there;
	if (unlikely(ip.version_class >> 4 != 6 || room > there))
		return MALFORMED;
	p->src[0] = ip.src[0];
	p->src[1] = ip.src[1];
	p->dst[0] = ip.dst[0];
	p->dst[1] = ip.dst[1];
	next = ip.next;
	traits |= TRAITS_IPV6;

	/*
	 * Kernels of 6.1 refuse a loop whose end runs on into its beginning, as compilers lay it out
	 * that end without a condition: so the number of headers is looked at there.
	 */
	for (i = 0; i < MAX_EXTENSION_HEADERS && is_extension(next); i++) {
		if (peek(ctx, offset, x))
			return MALFORMED;
		length = next == IPV6_FRAGMENT	     ? 8 :
			 next == IPV6_AUTHENTICATION ? (x.length + 2) * 4 :
						       (x.length + 1) * 8;
		if (length > room)
			return MALFORMED;
		offset += length;
		room -= length;
		IF_DECAPSULATING(if (forget(offset, room)) return MALFORMED);
		IF_DECAPSULATING(if (next == IPV6_FRAGMENT) p->fragment |= x.fragment & htons(0xFFF9));
		if (next == IPV6_FRAGMENT && x.fragment & htons(0xFFF8))
			return payload(p, offset, 0, room, traits | x.next, 0);
		next = x.next;
	}
	if (is_extension(next))
		return MALFORMED;
	return transport(ctx, p, offset, room, next, traits);
}

static __always_inline enum verdict network(struct context *ctx, struct packet *p, u64 offset,
					    u64 there, u16 ethertype, u32 traits)
{
	if (likely(ethertype == htons(ETHERTYPE_IPV4)))
		return ipv4(ctx, p, offset, there, traits);
	if (ethertype == htons(ETHERTYPE_IPV6))
		return ipv6(ctx, p, offset, there, traits);
	return NOT_IP;
}

/* The version says which IP it is, where nothing else does: an ethertype, or 0. */
static __always_inline u16 ethertype_of_version(struct context *ctx, u64 offset)
{
	u8 version;

	if (peek(ctx, offset, version))
		return 0;
	return version >> 4 == 4 ? htons(ETHERTYPE_IPV4) :
	       version >> 4 == 6 ? htons(ETHERTYPE_IPV6) :
				   0;
}

/*
 * The Ethernet header at OFFSET, and the tags behind it, of which there are TAGS already: where it
 * ends, and the ethertype that it ends with.
 */
static __always_inline enum verdict ethernet(struct context *ctx, struct packet *p, u64 *offset,
					     u16 *ethertype, u32 vlan, u32 tags)
{
	u16 type;
	u32 i;

	if (peek(ctx, *offset + ETH_HEADER - sizeof(type), type))
		return MALFORMED;
	*offset += ETH_HEADER;
#pragma unroll
	for (i = 0; i <= MAX_VLAN_TAGS; i++) {
		struct vlan_header tag;

		if (likely(!is_vlan(type)))
			break;
		if (tags == MAX_VLAN_TAGS || peek(ctx, *offset, tag))
			return MALFORMED;
		vlan |= ((ntohs(tag.tci) & 0xFFF) | VLAN_PRESENT) << (16 * tags);
		tags++;
		*offset += sizeof(tag);
		type = tag.next;
	}
	p->vlan = vlan;
	*ethertype = type;
	return IS_IP;
}

#if DECAPSULATE
#include "tunnel.h"
#endif

#if HOOK_XDP /* that it is a call counts: `bytes` has no tag in it that is not in the frame */
#define LENGTH(ctx, p) ((p)->bytes)
#else
#define LENGTH(ctx, p) FRAME_LENGTH(ctx)
#endif

/*
 * Fill P, all but the interface, from the frame. LAYER3 is constant: the interface's frames begin
 * with the IP header (tunnels), not with an Ethernet header.
 */
static __always_inline enum verdict dissect(struct context *ctx, struct packet *p,
					    const bool layer3, const u32 traits)
{
	u64 offset = 0, there;
	u32 tags = 0, vlan = 0;
	u16 ethertype;
	enum verdict verdict;

#if KEY_TUNNEL_ID
	p->tunnel = p->tunnel_id = 0;
#endif
	p->bytes = FRAME_LENGTH(ctx);
#ifdef VTAP_SEQUENCE
	p->numbered = 0;
	p->tcp_sequence = 0;
	p->tcp_flags = 0;
#endif
	if (unlikely(TAG_TAKEN_OFF(ctx))) { /* the outermost, by driver or kernel */
		vlan = (TAG(ctx) & 0xFFF) | VLAN_PRESENT;
		tags = 1;
		p->bytes += 4;
	}
	if (layer3) {
		p->vlan = vlan;
#if HOOK_XDP
		ethertype = ethertype_of_version(ctx, 0);
#else
		ethertype = ctx->protocol;
#endif
	} else if (ethernet(ctx, p, &offset, &ethertype, vlan, tags) != IS_IP) {
		return MALFORMED;
	}
	there = LENGTH(ctx, p) - offset;
	IF_DECAPSULATING(if (!layer3 && forget(offset, there)) return MALFORMED);
	verdict = network(ctx, p, offset, there, ethertype, traits);
	IF_DECAPSULATING(if (verdict == IS_IP) verdict = decapsulate(ctx, p, traits));
	return verdict;
}

#endif
