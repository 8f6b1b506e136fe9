/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The histogram of inter-arrival times, per interface, direction and kind of protocol. A program does not
 * interrupt itself on a CPU, so plain additions do. Arrays, since a lookup in a hash table costs 30 ns more.
 */
#ifdef VTAP_GAPS

BPF_PERCPU_ARRAY(gaps, struct gap_counts, VTAP_GAPS);

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

static __always_inline void book_gap(const struct flow_key *key, const struct link *l, u64 gap)
{
	struct gap_counts *g;
	u32 number;

	number = l->gaps + key->direction * GAP_KINDS + gap_kind(key->protocol);
	g = gaps.lookup(&number);
	if (!g)
		return;
	g->sum += gap;
	g->counts[GAP_BUCKET(gap)]++;
}

#endif
