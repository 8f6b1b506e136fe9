/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What another probe measures in this program, of each flow: nothing. Where there is such a guest, its own
 * header stands in the place of this one, and VTAP_GUEST is 1.
 *
 * It finds the flow of a packet by what mask() leaves of it, and keeps what it has of it in the flow's slots.
 */

/* P comes by, whether it belongs to a flow that is wanted or not. */
static __always_inline void guest_sees(struct context *ctx, struct packet *p, const bool egress)
{
}

/* Whether S has anything of it to hand over. */
/* The packet has been counted, if it is one of a flow. */
static __always_inline void guest_follows(struct context *ctx, const bool egress)
{
}

static __always_inline bool guest_gathered(struct slot *s)
{
	return false;
}

static __always_inline void guest_hands_over(struct flow_record *r, struct slot *s)
{
}
