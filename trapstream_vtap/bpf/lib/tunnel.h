/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a tunnel packet to the packet inside, one level deep. Included where tunnels are
 * asked for: DECAPSULATE_* are constants, and what is not asked for leaves no instruction.
 *
 * What holds no IP packet inside stays what it is outside, a packet of the outer flow: the messages of a
 * tunnel's two ends to each other, what is of another version or contradicts itself, what only happens to go
 * to a tunnel's port; and a fragment, which holds a part of the inner packet only.
 */
#ifndef VTAP_TUNNEL_H
#define VTAP_TUNNEL_H

#include "lib/link.h"

#define PORT_GTPU 2152 /* IANA port numbers */
#define PORT_VXLAN 4789
#define PORT_GENEVE 6081

#define ETHERTYPE_ERSPAN 0x88BE	 /* types I and II */
#define ETHERTYPE_ERSPAN_III 0x22EB

#define VXLAN_HAS_ID 0x08

#define GENEVE_VERSION 0xC0
#define GENEVE_WORDS 0x3F
#define GENEVE_CONTROL 0x80

#define ERSPAN_VERSION(h) ((h) >> 28)
#define ERSPAN_VLAN(h) (((h) >> 16) & 0xFFF)
#define ERSPAN_TAG_TAKEN_OFF(h) ((((h) >> 11) & 3) == 1 || (((h) >> 11) & 3) == 2)
#define ERSPAN_SESSION 0x3FF
#define ERSPAN_III_FRAME(h) (((h) >> 10) & 0x1F) /* of the last word */
#define ERSPAN_III_MORE 1

#define GTPU_VERSION 0xF0 /* and that it is GTP, not GTP' */
#define GTPU_VERSION_1 0x30
#define GTPU_OPTIONAL 0x07
#define GTPU_EXTENSION 0x04
#define GTPU_PACKET 255 /* the message type of a G-PDU */
#define MAX_GTPU_EXTENSIONS 4

/* What is behind a tunnel header; at first, where the tunnel header is. */
struct inner {
	u64 at;	       /* within the frame */
	u64 room;      /* how many bytes the headers outside promise */
	u32 ethertype; /* also ETHERTYPE_BRIDGED, and BY_VERSION */
	u32 vlan;      /* a tag that the tunnel header carries, as in struct packet */
	u64 id;	       /* | TUNNEL_HAS_ID where there is one */
};

#define TUNNEL_HAS_ID (1ULL << 32)
#define BY_VERSION (1 << 16) /* no value on the wire: the IP version says which it is */

/* Read an object of the tunnel header, and go on behind it. */
#define take(ctx, in, to)                                                                          \
	({                                                                                         \
		int gone_ = (in)->room < sizeof(to) || peek(ctx, true, (in)->at, to);                    \
		(in)->at += sizeof(to);                                                            \
		(in)->room -= sizeof(to);                                                          \
		gone_;                                                                             \
	})

/* Go on behind SIZE bytes that do not matter. */
static __always_inline int skip(struct inner *in, u64 size)
{
	if (in->room < size)
		return -1;
	in->at += size;
	in->room -= size;
	return 0;
}

/* RFC 7348 section 5 */
static __always_inline enum verdict vxlan(struct context *ctx, struct inner *in)
{
	__be32 header[2] __attribute__((aligned(8)));

	if (take(ctx, in, header) || !(header[0] & htonl(VXLAN_HAS_ID << 24)))
		return MALFORMED;
	in->id = ntohl(header[1]) >> 8 | TUNNEL_HAS_ID;
	in->ethertype = htons(ETHERTYPE_BRIDGED);
	return IS_IP;
}

/* RFC 8926 section 3.4 */
static __always_inline enum verdict geneve(struct context *ctx, struct inner *in)
{
	struct {
		u8 version_words;
		u8 flags;
		__be16 protocol;
		__be32 id;
	} header __attribute__((aligned(8)));

	if (take(ctx, in, header))
		return MALFORMED;
	if (header.version_words & GENEVE_VERSION || header.flags & GENEVE_CONTROL)
		return NOT_IP;
	if (skip(in, (header.version_words & GENEVE_WORDS) * 4))
		return MALFORMED;
	in->id = ntohl(header.id) >> 8 | TUNNEL_HAS_ID;
	in->ethertype = header.protocol;
	return IS_IP;
}

/* draft-foschiano-erspan-03 sections 4.1 to 4.3; type I has no header of its own */
static __always_inline enum verdict erspan(struct context *ctx, struct inner *in, bool third,
					   bool first)
{
	__be32 words[2] __attribute__((aligned(8)));
	__be32 last;
	u32 header;

	in->ethertype = htons(ETHERTYPE_BRIDGED);
	in->id = 0;
	if (first)
		return IS_IP;
	if (take(ctx, in, words))
		return MALFORMED;
	header = ntohl(words[0]);
	if (ERSPAN_VERSION(header) != (third ? 2 : 1))
		return NOT_IP;
	if (third) {
		if (take(ctx, in, last))
			return MALFORMED;
		last = ntohl(last);
		if (last & ERSPAN_III_MORE && skip(in, 8))
			return MALFORMED;
		if (ERSPAN_III_FRAME(last) == 2)
			in->ethertype = BY_VERSION;
		else if (ERSPAN_III_FRAME(last) != 0)
			return NOT_IP;
	} else if (ERSPAN_TAG_TAKEN_OFF(header)) {
		in->vlan = ERSPAN_VLAN(header) | VLAN_PRESENT;
	}
	in->id = (header & ERSPAN_SESSION) | TUNNEL_HAS_ID;
	return IS_IP;
}

/* RFC 2784 section 2, RFC 2890 section 2 */
static __always_inline enum verdict gre(struct context *ctx, struct inner *in)
{
	struct {
		__be16 flags;
		__be16 protocol;
	} header __attribute__((aligned(4)));
	__be32 key;

	if (take(ctx, in, header))
		return MALFORMED;
	if (header.flags & htons(GRE_VERSION))
		return NOT_IP;
	if (header.flags & htons(GRE_RESERVED))
		return MALFORMED;
	if (header.flags & htons(GRE_CHECKSUM) && skip(in, 4))
		return MALFORMED;
	if (header.flags & htons(GRE_KEY)) {
		if (take(ctx, in, key))
			return MALFORMED;
		in->id = ntohl(key) | TUNNEL_HAS_ID;
	}
	if (header.flags & htons(GRE_SEQUENCE) && skip(in, 4))
		return MALFORMED;
	in->ethertype = header.protocol;
	if (DECAPSULATE_ERSPAN && (header.protocol == htons(ETHERTYPE_ERSPAN) ||
				   header.protocol == htons(ETHERTYPE_ERSPAN_III)))
		return erspan(ctx, in, header.protocol == htons(ETHERTYPE_ERSPAN_III),
			      header.protocol == htons(ETHERTYPE_ERSPAN) &&
				      !(header.flags & htons(GRE_SEQUENCE)));
	return DECAPSULATE_GRE ? IS_IP : NOT_IP;
}

/* 3GPP TS 29.281 sections 5.1 and 5.2 */
static __always_inline enum verdict gtpu(struct context *ctx, struct inner *in)
{
	struct {
		u8 flags;
		u8 type;
		__be16 length;
		__be32 id;
	} header __attribute__((aligned(8)));
	struct {
		u8 rest[3];
		u8 next;
	} optional __attribute__((aligned(4)));
	u64 length;
	u8 words;
	u32 i;

	if (take(ctx, in, header))
		return MALFORMED;
	if ((header.flags & GTPU_VERSION) != GTPU_VERSION_1 || header.type != GTPU_PACKET)
		return NOT_IP;
	length = ntohs(header.length);
	if (length > in->room)
		return MALFORMED;
	in->room = length;
	in->id = ntohl(header.id) | TUNNEL_HAS_ID;
	in->ethertype = BY_VERSION;
	if (!(header.flags & GTPU_OPTIONAL))
		return IS_IP;
	if (take(ctx, in, optional))
		return MALFORMED;
	if (!(header.flags & GTPU_EXTENSION))
		return IS_IP;
	for (i = 0; i <= MAX_GTPU_EXTENSIONS; i++) {
		if (!optional.next)
			return IS_IP;
		/* its length in words stands at its beginning, what follows it at its end */
		if (i == MAX_GTPU_EXTENSIONS || peek(ctx, true, in->at, words) || !words ||
		    skip(in, (words - 1) * 4) || take(ctx, in, optional))
			return MALFORMED;
	}
	return MALFORMED;
}

/* What P is outside: find what is inside. NOT_IP: nothing that we were to look into. */
static __always_inline enum verdict tunnel(struct context *ctx, const struct packet *p,
					   struct inner *in)
{
	switch (p->traits & TRAITS_PROTOCOL) {
	case PROTOCOL_UDP:
		if (DECAPSULATE_VXLAN && (p->ports & 0xFFFF) == PORT_VXLAN)
			return vxlan(ctx, in);
		if (DECAPSULATE_GENEVE && (p->ports & 0xFFFF) == PORT_GENEVE)
			return geneve(ctx, in);
		if (DECAPSULATE_GTPU && (p->ports & 0xFFFF) == PORT_GTPU)
			return gtpu(ctx, in);
		return NOT_IP;
	case PROTOCOL_GRE:
		return DECAPSULATE_GRE || DECAPSULATE_ERSPAN ? gre(ctx, in) : NOT_IP;
	case PROTOCOL_IPV4:
		in->ethertype = htons(ETHERTYPE_IPV4);
		return DECAPSULATE_IPIP ? IS_IP : NOT_IP;
	case PROTOCOL_IPV6:
		in->ethertype = htons(ETHERTYPE_IPV6);
		return DECAPSULATE_IPIP ? IS_IP : NOT_IP;
	}
	return NOT_IP;
}

/* Make of P, which is an IP packet, the one inside; if it is anything but IS_IP, P is not to be used. */
static __always_inline enum verdict look_inside(struct context *ctx, struct packet *p, u32 traits)
{
	struct inner in = {};
	u64 start, at = p->payload_at, room = p->payload - p->missing;
	u32 tags, vlan;
	u16 ethertype;

	if (forget(at, room))
		return MALFORMED;
	in.at = at;
	in.room = room;
	p->missing = 0; /* the headers inside say how much that is */
	if (tunnel(ctx, p, &in) != IS_IP)
		return NOT_IP;
	ethertype = in.ethertype;
	if (in.ethertype == BY_VERSION) {
		if (!in.room)
			return MALFORMED;
		ethertype = ethertype_of_version(ctx, in.at);
	}
	if (ethertype == htons(ETHERTYPE_BRIDGED)) {
		start = in.at;
		vlan = in.vlan;
		tags = vlan ? 1 : 0;
		if (ethernet(ctx, &in.at, &ethertype, &vlan, &tags) != IS_IP || in.at - start > in.room)
			return MALFORMED;
		in.room -= in.at - start;
		p->vlan = vlan;
	} else {
		p->vlan = 0;
	}
#if KEY_TUNNEL_ID
	p->tunnel_id = in.id;
	p->tunnel = in.id >> 32;
#endif
#ifdef VTAP_SEQUENCE
	p->numbered = 0; /* the outer one's numbers are not these */
#endif
	at = in.at;
	room = in.room;
	if (forget(at, room))
		return MALFORMED;
	return network(ctx, true, p, at, room, ethertype, traits);
}

/* Make of P, which is an IP packet, the one inside if there is one. */
static __always_inline void decapsulate(struct context *ctx, struct packet *p, u32 traits)
{
	struct packet outer = *p;

	if (!p->fragment && look_inside(ctx, p, traits) != IS_IP)
		*p = outer;
}

#endif
