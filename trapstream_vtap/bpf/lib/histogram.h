/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Histograms of times with four buckets in a doubling: bucket k has what is no longer than 2^(LEAST_SHIFT +
 * k/4) ns, and the last one, BUCKETS - 1, all that is longer than 2^MOST_SHIFT ns.
 *
 * Generated in front: LEAST_SHIFT, MOST_SHIFT, BUCKETS, and QUARTER1 to QUARTER3, which are 2^(62 + 1/4) to
 * 2^(62 + 3/4), rounded down.
 */
#ifndef VTAP_HISTOGRAM_H
#define VTAP_HISTOGRAM_H

/* 1 where a > b, both below 2^63, else 0; BPF has no instruction for it but a branch, which times mislead. */
static __always_inline u64 exceeds(u64 a, u64 b)
{
	return (b - a) >> 63;
}

/* Upward of 2^8; branches only where most times go the same way */
static __always_inline u32 log2_of(u64 value)
{
	u32 found = 0, more;

	if (value >> 32) {
		value >>= 32;
		found += 32;
	}
	if (value >> 16) {
		value >>= 16;
		found += 16;
	}
	if (value >> 8) {
		value >>= 8;
		found += 8;
	}
	more = exceeds(value, 15) * 4;
	value >>= more;
	return found + more + (0xFFFFAA50 >> 2 * (value & 15) & 3); /* two bits for each of 16 values */
}

static __always_inline u32 bucket_of(u64 time)
{
	u32 octave;
	u64 within;

	if (time <= 1ULL << LEAST_SHIFT)
		return 0;
	if (time > 1ULL << MOST_SHIFT)
		return BUCKETS - 1;
	octave = log2_of(time - 1) & 63;
	within = time << (62 - octave); /* 2^62 < within <= 2^63 */
	return 1 + (octave - LEAST_SHIFT) * 4 + exceeds(within, QUARTER1) + exceeds(within, QUARTER2) +
	       exceeds(within, QUARTER3);
}

#endif
