/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For programs with more to come behind the dissection than the verifier could follow from each way through
 * it. This text is put into them as it is (BCC knows maps in one text only).
 */
BPF_PERCPU_ARRAY(packets, struct packet, 1);

/*
 * P in memory that the verifier knows nothing of; NULL never happens. There are dozens of ways through
 * the dissection, and it would go through all that follows anew for each.
 */
static __always_inline struct packet *forgotten(struct packet *p)
{
	u32 zero = 0;
	struct packet *copy = packets.lookup(&zero);

	if (copy)
		*copy = *p;
	asm volatile("" : : : "memory"); /* nor shall the compiler remember */
	return copy;
}
