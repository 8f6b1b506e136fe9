/* SPDX-License-Identifier: GPL-2.0-only */
/* The whole way: from a context to the packet that is counted, out of a tunnel where that is asked for. */
#ifndef VTAP_DISSECT_H
#define VTAP_DISSECT_H

#include "lib/link.h"

#if DECAPSULATE
#include "lib/tunnel.h"
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
#if WANT_TRANSPORT
	p->numbered = 0;
	p->tcp_sequence = 0;
	p->tcp_flags = 0;
#endif
#ifdef VTAP_RTT
	p->tcp_acknowledgement = 0;
	p->tcp_options = 0;
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
