/* SPDX-License-Identifier: GPL-2.0-only */
/* IPv4 and IPv6, with their extension headers: from the network header to the transport header. */
#ifndef VTAP_IP_H
#define VTAP_IP_H

#include "lib/packet.h"

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
		length = extension_length(next, x.length);
		if (length > room)
			return MALFORMED;
		offset += length;
		room -= length;
		if (forget(offset, room))
			return MALFORMED;
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

#endif
