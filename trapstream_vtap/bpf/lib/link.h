/* SPDX-License-Identifier: GPL-2.0-only */
/* From the start of a frame to its network header: Ethernet, VLAN tags, LLC/SNAP and shims. */
#ifndef VTAP_LINK_H
#define VTAP_LINK_H

#include "lib/ip.h"

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

#endif
