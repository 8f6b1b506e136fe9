/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Moments are CLOCK_MONOTONIC in ns. They may lie before the machine's start, as the beginning of an
 * interval does that is longer than the machine has been up: so they are taken modulo 2^64, and two of
 * them are compared by the sign of their difference alone.
 */
#ifndef VTAP_MOMENT_H
#define VTAP_MOMENT_H

/* What time it is. Programs ask nobody else, so that one for a capture may say the capture's time. */
#ifndef NOW
#define NOW() bpf_ktime_get_ns()
#endif

/* CLOCK_TAI, by which what CLOCK_REALTIME has stamped can be held (bpf_ktime_get_tai_ns, kernel 6.1) */
#ifndef NOW_TAI
static u64 (*moment_tai)(void) = (void *)208; /* BCC knows no name for it */
#define NOW_TAI() moment_tai()
#endif

static __always_inline bool is_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/* The later one; without a branch, as the verifier would follow both in each round of a sweep. */
static __always_inline u64 later(u64 a, u64 b)
{
	s64 ahead = a - b;

	return b + (ahead & ~(ahead >> 63));
}

/* Before all that there may be, and near enough for a difference: 146 years */
#define LONG_BEFORE(moment) ((moment) - (1ULL << 62))

#endif
