/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the hooks: how the bytes of a packet are reached, and what is known beside
 * them. HOOK_XDP or HOOK_SOCKET is 1, or neither: traffic control.
 */
#ifndef VTAP_HOOK_H
#define VTAP_HOOK_H

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#if HOOK_XDP
#define context xdp_md
#else
#define context __sk_buff
#endif

/* Copy SIZE bytes at OFFSET of the frame, wherever they lie, to TO; not 0 where it is shorter. */
#if HOOK_XDP
#define load_bytes(ctx, offset, to, size) bpf_xdp_load_bytes(ctx, offset, to, size)
#else
#define load_bytes(ctx, offset, to, size) bpf_skb_load_bytes(ctx, offset, to, size)
#endif

/*
 * Copy the bytes at OFFSET of the frame into the object TO; not 0 where the frame is shorter. The
 * alignment is a promise that only chooses the width of the copy: BPF's machines read unaligned.
 *
 * DIRECT is constant: whether to try direct access first. Where packets are few a helper alone gives the
 * verifier less to follow.
 */
#if HOOK_SOCKET || !DIRECT_ACCESS /* a socket filter has none */
#define peek(ctx, direct, offset, to) load_bytes(ctx, offset, &(to), sizeof(to))
#else
#if DECAPSULATE /* with so many accesses LLVM keeps the members' addresses, which the verifier refuses */
#define FRESH(ctx)                                                                                 \
	({                                                                                         \
		struct context *ctx_ = (ctx);                                                      \
		asm volatile("" : "+r"(ctx_));                                                     \
		ctx_;                                                                              \
	})
#else
#define FRESH(ctx) (ctx)
#endif
#define WIDTH(object) (sizeof(object) >= 8 ? 8 : sizeof(object))
#define peek(ctx, direct, offset, to)								\
	({                                                                                         \
		struct context *from_ctx_ = FRESH(ctx);                                            \
		void *from_ = (void *)(long)from_ctx_->data + (offset);                            \
		int failed_ = 0;                                                                   \
		if ((direct) && likely(from_ + sizeof(to) <= (void *)(long)from_ctx_->data_end)) \
			__builtin_memcpy(__builtin_assume_aligned(&(to), WIDTH(to)),               \
					 __builtin_assume_aligned(from_, WIDTH(to)), sizeof(to)); \
		else                                                                               \
			failed_ = load_bytes(ctx, offset, &(to), sizeof(to));                      \
		failed_;                                                                           \
	})
#endif

/*
 * XDP: not merged yet, no receive timestamp yet; a tag that the card has taken off is not seen.
 * Socket filter: merged packets as with traffic control, but the timestamp and the kernel's length
 * of all segments are out of its reach.
 */
#if HOOK_XDP
#define FRAME_LENGTH(ctx) bpf_xdp_get_buff_len(ctx)
#define INTERFACE(ctx) ((ctx)->ingress_ifindex)
#define TAG_TAKEN_OFF(ctx) 0
#define TAG(ctx) 0
#define SEGMENT_SIZE(ctx) 0
#define SEGMENTS(ctx) 0
#define WIRE_LENGTH(ctx) 0
#define TIMESTAMP(ctx) 0
#else
#define FRAME_LENGTH(ctx) ((ctx)->len)
#define INTERFACE(ctx) ((ctx)->ifindex)
#define TAG_TAKEN_OFF(ctx) ((ctx)->vlan_present)
#define TAG(ctx) ((ctx)->vlan_tci)
#define SEGMENT_SIZE(ctx) ((ctx)->gso_size)
#define SEGMENTS(ctx) ((ctx)->gso_segs)
#if HOOK_SOCKET
#define WIRE_LENGTH(ctx) 0
#define TIMESTAMP(ctx) 0
#else
#define WIRE_LENGTH(ctx) ((ctx)->wire_len)
#define TIMESTAMP(ctx) ((ctx)->tstamp)
#endif
#endif

#endif
