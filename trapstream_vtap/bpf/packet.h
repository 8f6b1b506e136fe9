/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a packet is: from the bytes of a frame to addresses, ports, lengths.
 *
 * Nothing is assumed about where the bytes lie: what direct access cannot reach (the packet is not
 * linear in memory) is read by helper. Every length that a packet claims is checked. Headers that are cut
 * off, or contradict themselves or each other, make it malformed. Where all headers are there, and only what
 * is behind them has been cut off (by what mirrors packets), it is counted with the lengths that they say.
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

/* The same for a number that is no offset. */
#define blur(number)                                                                               \
	({                                                                                         \
		u64 any_ = p->bytes;                                                               \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(number) : "r"(any_));                   \
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
	u64 missing;	/* bytes that the headers promise and the frame has not: they have been cut off */
#if DECAPSULATE
	u64 fragment;	/* not 0: it holds only a part of what the IP header is of */
#endif
#ifdef VTAP_SEQUENCE
	u32 numbered;	  /* protocol, where the transport header is there and may lead to a number */
	u32 tcp_sequence; /* host byte order */
	u64 tcp_flags;
	u64 number, has_number; /* that the payload carries, where it has been looked at already */
#endif
};

#define TCP_FRAGMENT 0x100 /* in `tcp_flags`: more of the segment is in later IP fragments */

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
	if (unlikely(room < header + p->missing))
		return MALFORMED;
	p->ports = ports;
	p->traits = traits;
	p->payload_at = offset + header;
	p->payload = room - header;
	return IS_IP;
}

/* The headers promise LENGTH bytes, more than the bytes that are THERE. */
static __always_inline void cut_off(struct packet *p, u64 length, u64 there)
{
	p->missing += length - there;
	blur(p->missing);
}

/*
 * RFC 768. Its length is that of the datagram: where it is shorter than what the IP header says, the rest is
 * no payload. A FIRST fragment has the length of the whole.
 */
static __always_inline enum verdict udp(struct context *ctx, const bool direct, struct packet *p, u64 offset, u64 room,
					u32 traits, u64 first)
{
	struct udp_header udp __attribute__((aligned(8)));
	enum verdict verdict;
	u64 length;

	if (peek(ctx, direct, offset, udp))
		return MALFORMED;
	verdict = payload(p, offset, MIN_UDP, room, traits | TRAITS_PORTS, ntohl(udp.ports));
	length = ntohs(udp.length);
	if (likely(length == room) || unlikely(verdict != IS_IP))
		return verdict;
	if (length >= MIN_UDP && length < room) {
		room -= length; /* what is no payload is not missing either */
		p->payload = length - MIN_UDP;
		p->missing -= p->missing < room ? p->missing : room;
		return IS_IP;
	}
	if (length >= MIN_UDP ? first : length == 0 && room > 0xFFFF) /* RFC 2675 section 4, and merged ones */
		return IS_IP;
	return MALFORMED;
}

/*
 * The transport header at OFFSET, of which the IP header promises ROOM bytes with what is behind; of a FIRST
 * fragment, which may end within it (RFC 791 section 3.2: behind its 8th byte), the ports are enough.
 */
static __always_inline enum verdict transport(struct context *ctx, const bool direct, struct packet *p, u64 offset,
					      u64 room, u64 protocol, u32 traits, u64 first)
{
	u64 header = MIN_UDP;
	struct tcp_header tcp;
	__be32 ports;
#ifdef VTAP_SEQUENCE
	__be32 sequence;
#endif

	traits |= protocol;
#ifdef VTAP_SEQUENCE
	if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6)
		p->numbered = protocol;
#endif
	if (likely(protocol == PROTOCOL_TCP)) {
		if (unlikely(first && room < sizeof(tcp))) {
			if (room < MIN_FRAGMENT || peek(ctx, false, offset, ports))
				return MALFORMED;
#ifdef VTAP_SEQUENCE
			if (peek(ctx, false, offset + sizeof(ports), sequence))
				return MALFORMED;
			p->numbered = PROTOCOL_TCP;
			p->tcp_sequence = ntohl(sequence);
			p->tcp_flags = TCP_FRAGMENT;
#endif
			return payload(p, offset, room, room, traits | TRAITS_PORTS, ntohl(ports));
		}
		/* all of it, ports and length, in one reach */
		if (peek(ctx, direct, offset, tcp))
			return MALFORMED;
		header = (tcp.data_offset >> 4) * 4;
		if (unlikely(header < MIN_TCP))
			return MALFORMED;
		if (unlikely(first && header > room))
			header = room;
#ifdef VTAP_SEQUENCE
		p->numbered = PROTOCOL_TCP;
		p->tcp_sequence = ntohl(tcp.sequence);
		p->tcp_flags = tcp.rest[0] | (first ? TCP_FRAGMENT : 0);
#endif
		return payload(p, offset, header, room, traits | TRAITS_PORTS, ntohl(tcp.ports));
	}
	switch (protocol) {
	case PROTOCOL_UDP:
		return udp(ctx, direct, p, offset, room, traits, first);
	case PROTOCOL_UDPLITE: /* in the place of the length it says how much the checksum covers */
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
	if (peek(ctx, direct, offset, ports))
		return MALFORMED;
	return payload(p, offset, header, room, traits | TRAITS_PORTS, ntohl(ports));
}

/* Here and below: the packet at OFFSET, of which THERE bytes are there. */
static __always_inline enum verdict ipv4(struct context *ctx, const bool direct, struct packet *p, u64 offset,
					 u64 there, u32 traits)
{
	struct ipv4_header ip __attribute__((aligned(8)));
	u64 length, header = sizeof(ip), protocol;
	struct extension_header x;

	if (peek(ctx, direct, offset, ip))
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
	if (unlikely(length < header || there < header))
		return MALFORMED;
	if (unlikely(length > there))
		cut_off(p, length, there);
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
	protocol = ip.protocol;
	if (unlikely(protocol == PROTOCOL_AH)) { /* RFC 4302 section 2: looked through as in IPv6 */
		if (peek(ctx, false, offset, x))
			return MALFORMED;
		header = (x.length + 2) * 4;
		if (header > length)
			return MALFORMED;
		offset += header;
		length -= header;
		IF_DECAPSULATING(if (forget(offset, length)) return MALFORMED);
		protocol = x.next;
	}
	return transport(ctx, direct, p, offset, length, protocol, traits, ip.fragment & htons(0x2000));
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

/* Headers that are a protocol of their own where nothing follows them. */
static __always_inline bool may_be_last(u64 next)
{
	return next == IPV6_MOBILITY || next == IPV6_HIP || next == IPV6_SHIM6;
}

static __always_inline enum verdict ipv6(struct context *ctx, const bool direct, struct packet *p, u64 offset,
					 u64 there, u32 traits)
{
	struct ipv6_header ip;
	struct extension_header x;
	u64 room, next, length, last = 0, first = 0;
	u32 i;

	if (peek(ctx, direct, offset, ip))
		return MALFORMED;
	IF_DECAPSULATING(if (there < sizeof(ip)) return MALFORMED; p->fragment = 0);
	offset += sizeof(ip);
	there -= sizeof(ip);
	room = ntohs(ip.payload_length);
	/* RFC 2675, and merged segments of more than 64 KiB */
	if (unlikely(room == 0 && there > 0xFFFF))
		room = there;
	if (unlikely(ip.version_class >> 4 != 6))
		return MALFORMED;
	if (unlikely(room > there))
		cut_off(p, room, there);
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
		if (peek(ctx, direct, offset, x))
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
		if (next == IPV6_FRAGMENT)
			first |= x.fragment & htons(1);
		blur(first);
		last = next;
		blur(last);
		next = x.next;
	}
	if (is_extension(next))
		return MALFORMED;
	if (unlikely(next == IPV6_NONE) && may_be_last(last))
		next = last;
	return transport(ctx, direct, p, offset, room, next, traits, first);
}

static __always_inline enum verdict network(struct context *ctx, const bool direct, struct packet *p, u64 offset,
					    u64 there, u16 ethertype, u32 traits)
{
	if (likely(ethertype == htons(ETHERTYPE_IPV4)))
		return ipv4(ctx, direct, p, offset, there, traits);
	if (ethertype == htons(ETHERTYPE_IPV6))
		return ipv6(ctx, direct, p, offset, there, traits);
	return NOT_IP;
}

/* The version says which IP it is, where nothing else does: an ethertype, or 0. */
static __always_inline u16 ethertype_of_version(struct context *ctx, u64 offset)
{
	u8 version;

	if (peek(ctx, false, offset, version))
		return 0;
	return version >> 4 == 4 ? htons(ETHERTYPE_IPV4) :
	       version >> 4 == 6 ? htons(ETHERTYPE_IPV6) :
				   0;
}

/*
 * The VLAN tags at OFFSET, ahead of which TYPE stands; TAGS of them are in VLAN already. Not 0: too many, or
 * cut off.
 */
static __always_inline int vlan_tags(struct context *ctx, const bool direct, u64 *offset, u16 *type,
				     u32 *vlan, u32 *tags)
{
	u32 i;

#pragma unroll
	for (i = 0; i <= MAX_VLAN_TAGS; i++) {
		struct vlan_header tag;

		if (likely(!is_vlan(*type)))
			break;
		if (*tags == MAX_VLAN_TAGS || peek(ctx, direct, *offset, tag))
			return -1;
		*vlan |= ((ntohs(tag.tci) & 0xFFF) | VLAN_PRESENT) << (16 * *tags);
		++*tags;
		*offset += sizeof(tag);
		*type = tag.next;
	}
	return 0;
}

/*
 * The Ethernet header at OFFSET, and the tags behind it, of which there are TAGS already: where it
 * ends, and the ethertype that it ends with.
 */
static __always_inline enum verdict ethernet(struct context *ctx, u64 *offset, u16 *type, u32 *vlan,
					     u32 *tags)
{
	if (peek(ctx, true, *offset + ETH_HEADER - sizeof(*type), *type))
		return MALFORMED;
	*offset += ETH_HEADER;
	return vlan_tags(ctx, true, offset, type, vlan, tags) ? MALFORMED : IS_IP;
}

/* The shim at OFFSET, ahead of which TYPE stands, if it is a common one: behind it, and what type that is. */
static __always_inline void skip_shim(struct context *ctx, u64 *offset, u16 *type)
{
	struct pppoe_header pppoe __attribute__((aligned(8)));
	struct snap_header snap __attribute__((aligned(8)));
	__be32 label;
	u32 i;

	if (ntohs(*type) < ETHERTYPE_LEAST) {
		if (peek(ctx, false, *offset, snap) || snap.dsap != 0xAA || snap.ssap != 0xAA ||
		    snap.control != 3 || snap.oui[0] || snap.oui[1] || snap.oui[2])
			return;
		*offset += sizeof(snap);
		*type = snap.type;
	} else if (*type == htons(ETHERTYPE_PPPOE)) {
		if (peek(ctx, false, *offset, pppoe) || pppoe.version_type != 0x11 || pppoe.code)
			return;
		*offset += sizeof(pppoe);
		*type = pppoe.protocol == htons(PPP_IPV4) ? htons(ETHERTYPE_IPV4) :
			pppoe.protocol == htons(PPP_IPV6) ? htons(ETHERTYPE_IPV6) :
							    0;
	} else if (*type == htons(ETHERTYPE_MPLS) || *type == htons(ETHERTYPE_MPLS_UPSTREAM)) {
#pragma unroll
		for (i = 0; i < MAX_MPLS_LABELS; i++) {
			if (peek(ctx, false, *offset, label))
				return;
			*offset += sizeof(label);
			if (label & htonl(MPLS_BOTTOM)) {
				*type = ethertype_of_version(ctx, *offset);
				return;
			}
		}
	}
}

/* What is at OFFSET, behind TYPE, which is neither IP: an IP packet behind shims, or none. */
static __always_inline enum verdict shimmed(struct context *ctx, struct packet *p, u64 offset, u64 there,
					    u16 type, u32 vlan, u32 tags, u32 traits)
{
	u64 start = offset;

	if (type == htons(ETHERTYPE_VN_TAG) || type == htons(ETHERTYPE_I_TAG)) {
		offset += type == htons(ETHERTYPE_VN_TAG) ? VN_TAG : I_TAG;
		if (peek(ctx, false, offset - sizeof(type), type) ||
		    vlan_tags(ctx, false, &offset, &type, &vlan, &tags))
			return MALFORMED;
	}
	skip_shim(ctx, &offset, &type);
	if (offset - start > there)
		return NOT_IP;
	there -= offset - start;
	p->vlan = vlan;
	if (forget(offset, there))
		return MALFORMED;
	return network(ctx, false, p, offset, there, type, traits);
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
	p->missing = 0;
	blur(p->missing);
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
#if HOOK_XDP
		ethertype = ethertype_of_version(ctx, 0);
#else
		ethertype = ctx->protocol;
#endif
	} else if (ethernet(ctx, &offset, &ethertype, &vlan, &tags) != IS_IP) {
		return MALFORMED;
	}
	there = LENGTH(ctx, p) - offset;
	if (layer3 || likely(ethertype == htons(ETHERTYPE_IPV4) || ethertype == htons(ETHERTYPE_IPV6))) {
		p->vlan = vlan;
		IF_DECAPSULATING(if (!layer3 && forget(offset, there)) return MALFORMED);
		verdict = network(ctx, true, p, offset, there, ethertype, traits);
	} else {
		verdict = shimmed(ctx, p, offset, there, ethertype, vlan, tags, traits);
	}
	IF_DECAPSULATING(if (verdict == IS_IP) decapsulate(ctx, p, traits));
	/* whichever way it went: to the verifier it is all the same from here on */
	blur(p->payload_at);
	blur(p->payload);
	return verdict;
}

#endif
