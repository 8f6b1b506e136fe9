/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The histogram of inter-arrival times, per interface, direction and kind of protocol; user space has made
 * its entries. A program does not interrupt itself on a CPU, so plain additions do.
 */
#ifdef VTAP_GAPS

BPF_TABLE("percpu_hash", u32, struct gap_counts, gaps, VTAP_GAPS);

/* Positions in GAP_PROTOCOLS */
static __always_inline u32 gap_kind(u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_TCP:
		return 0;
	case PROTOCOL_UDP:
		return 1;
	case PROTOCOL_ICMP:
		return 2;
	case PROTOCOL_ICMPV6:
		return 3;
	}
	return 4;
}

static __always_inline void book_gap(const struct flow_key *key, u64 gap)
{
	u32 number = key->interface << 4 | key->direction << 3 | gap_kind(key->protocol);
	/* how many bounds it is above; without branches, since the verifier would follow each */
	u64 bucket = GAP_BUCKET(gap);
	struct gap_counts *g = gaps.lookup(&number);

	if (!g || bucket >= GAP_BUCKETS)
		return;
	g->sum += gap;
	g->counts[bucket]++;
}

#endif
