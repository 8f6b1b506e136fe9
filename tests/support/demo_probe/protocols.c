/* SPDX-License-Identifier: GPL-2.0-only */
/* Counts packets that come in by their protocol: a probe of a few lines, for a test. */

#include <uapi/linux/bpf.h>

#define LEFT_OUT 256 /* behind the numbers of all protocols */

BPF_PERCPU_ARRAY(counts, u64, 257);

int vtap_protocols(struct __sk_buff *skb)
{
	u32 which = LEFT_OUT;
	u64 *count;
	u8 protocol = 0;

	if (skb->protocol == 0x0008 && skb->len >= SMALLEST) { /* ETH_P_IP in network byte order */
		if (bpf_skb_load_bytes(skb, 14 + 9, &protocol, 1) == 0)
			which = protocol;
	}
	count = counts.lookup(&which);
	if (count)
		(*count)++;
	return -1; /* TC_ACT_UNSPEC */
}
