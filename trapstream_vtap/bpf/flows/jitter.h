/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Jitter: what is handed over of a flow's inter-arrival times, and the smoothed one, after RFC 3550
 * section 6.4.1: J += (|D| - J) / 16, where D is how far an inter-arrival time is from the expected gap
 * (then D is the RFC's, of a sender that keeps it), or from the flow's running mean, which is smoothed
 * with the same gain. Fixed point with 16 binary places: a nanosecond's rounding would stay in a jitter
 * of nanoseconds for good.
 */
#ifdef VTAP_SMOOTHED

#define SMOOTH_PLACES 16
#define SMOOTH_GAIN 4 /* 1/16 */
#define SMOOTH_TRIES 8

/* Move *MEAN by 1/16 of the way to VALUE; what it was before. A mean of 0 is none yet if FIRST. */
static __always_inline u64 approach(u64 *mean, u64 value, const bool first)
{
	u64 seen = *(volatile u64 *)mean, next;
	int i;

	for (i = 0; i < SMOOTH_TRIES; i++) { /* each failure means that another CPU was faster */
		seen = *(volatile u64 *)mean;
		next = first && !seen ? value : seen + ((s64)(value - seen) >> SMOOTH_GAIN);
		if (likely(__sync_val_compare_and_swap(mean, seen, next) == seen))
			break;
	}
	return first && !seen ? value : seen;
}

static __always_inline void smooth(struct flow *f, u64 iat)
{
	u64 value = iat << SMOOTH_PLACES, reference;

#ifdef VTAP_DEVIATION
	reference = EXPECTED_GAP_NS << SMOOTH_PLACES;
#else
	reference = approach(&f->iat_mean, value, true);
#endif
	approach(&f->iat_smoothed, value > reference ? value - reference : reference - value, false);
}

/* The flow has stopped. */
static __always_inline void smooth_anew(struct flow *f)
{
	__sync_lock_test_and_set(&f->iat_smoothed, 0);
	__sync_lock_test_and_set(&f->iat_mean, 0);
}

#endif

static __always_inline void hand_over_jitter(struct flow_record *r, struct flow *f,
					     struct jitter_slot *j)
{
	u64 inverted;

#ifdef LONG_NS
	r->iat_count = __sync_lock_test_and_set(&j->iat_count, 0);
#endif
	r->iat_sum = __sync_lock_test_and_set(&j->iat_sum, 0);
	r->iat_squares = __sync_lock_test_and_set(&j->iat_squares, 0);
	r->iat_squares_coarse = __sync_lock_test_and_set(&j->iat_squares_coarse, 0);
	r->iat_max = __sync_lock_test_and_set(&j->iat_max, 0);
	inverted = __sync_lock_test_and_set(&j->iat_min_inverted, 0);
	r->iat_min = ~inverted;
	/*
	 * Another CPU may be in the middle of its packet: then part of that has gone with the record before,
	 * or goes with the next one.
	 */
	if (!inverted || (s64)r->iat_count < 0)
		r->iat_count = 0;
	else if (r->iat_max < r->iat_min)
		r->iat_max = r->iat_min;
#ifdef VTAP_DEVIATION
	r->iat_excess = __sync_lock_test_and_set(&j->iat_excess, 0);
	r->expected_gap = EXPECTED_GAP_NS;
#endif
#ifdef VTAP_SMOOTHED
	r->iat_smoothed = *(volatile u64 *)&f->iat_smoothed;
#endif
}
