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

#include "lib/hook.h"
#include "lib/protocols.h"

#if defined(VTAP_SEQUENCE) || defined(VTAP_RTT)
#define WANT_TRANSPORT 1
#endif

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
#if DECAPSULATE && !DIRECT_ACCESS
#define BOUND(offset) /* helpers check it, and with tunnels there are paths enough */
#else /* what LLVM makes of the comparisons below may tell kernel 6.1 nothing */
#define BOUND(offset)                                                                              \
	asm volatile("if %0 <= %1 goto +1\n\t%0 = %1 + 1" : "+r"(offset) : "i"(MAX_HEADERS))
#endif
#define forget(offset, room)                                                                       \
	({                                                                                         \
		u64 any_ = p->bytes;                                                               \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(offset) : "r"(any_));                   \
		asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(room) : "r"(any_));                     \
		BOUND(offset);                                                                     \
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
#if WANT_TRANSPORT
	u32 numbered;	  /* protocol, where the transport header is there and may lead to a number */
	u32 tcp_sequence; /* host byte order */
	u64 tcp_flags;
#endif
#ifdef VTAP_SEQUENCE
	u64 number, has_number; /* that the payload carries, where it has been looked at already */
#endif
#ifdef VTAP_RTT
	u32 tcp_acknowledgement; /* host byte order */
	u32 tcp_options;	 /* how many bytes there are behind the fixed header */
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
#if WANT_TRANSPORT
	__be32 sequence;
#endif

	traits |= protocol;
#if WANT_TRANSPORT
	if (protocol == PROTOCOL_UDP || protocol == PROTOCOL_ICMP || protocol == PROTOCOL_ICMPV6)
		p->numbered = protocol;
#endif
	if (likely(protocol == PROTOCOL_TCP)) {
		if (unlikely(first && room < sizeof(tcp))) {
			if (room < MIN_FRAGMENT || peek(ctx, false, offset, ports))
				return MALFORMED;
#if WANT_TRANSPORT
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
#if WANT_TRANSPORT
		p->numbered = PROTOCOL_TCP;
		p->tcp_sequence = ntohl(tcp.sequence);
		p->tcp_flags = tcp.rest[0] | (first ? TCP_FRAGMENT : 0);
#endif
#ifdef VTAP_RTT
		p->tcp_acknowledgement = ntohl(tcp.acknowledgement);
		p->tcp_options = header - MIN_TCP;
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

#endif
