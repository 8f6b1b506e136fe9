/* SPDX-License-Identifier: GPL-2.0-only */
/* Numbers that packets carry: what is missing, late and twice. */

static __always_inline u64 ones(u32 word)
{
	word -= word >> 1 & 0x55555555;
	word = (word & 0x33333333) + (word >> 2 & 0x33333333);
	word = (word + (word >> 4)) & 0x0F0F0F0F;
	return word * 0x01010101U >> 24;
}

/* How far it is from B to A, in numbers of 64 bits less UNUSED ones (RFC 1982 section 3.2) */
#define DISTANCE(a, b, unused) ((s64)(((a) - (b)) << (unused)) >> (unused))

/*
 * Whether LAST is smaller than the flow's first number. Once a flow has got further than a quarter of
 * all numbers, nothing is: the first would be taken for a number still to come.
 */
static __always_inline bool before_first(struct flow *f, struct slot *s, u64 last, u64 unused)
{
	u64 advanced = *(volatile u64 *)&f->seq_received + *(volatile u64 *)&f->seq_missing +
		       *(volatile u64 *)&s->arrivals + *(volatile u64 *)&s->merged;

	return DISTANCE(last, *(volatile u64 *)&f->seq_first, unused) < 0 &&
	       !(advanced >> (62 - unused));
}

/*
 * Keep the account of numbers never seen, where COUNT of them up to LAST have come: exact for what
 * comes among the 32 highest numbers; what is older is taken for one that was missing, if it is not
 * ahead of the first. ANEW: what was before belongs to another sequence.
 */
static __always_inline void account_missing(struct flow *f, struct slot *s, struct link *l,
					    u64 last, u64 count, u64 unused, bool anew)
{
	u64 seen = *(volatile u64 *)&f->seq_window, next, came = 1;
	u64 high = unused | 32; /* the window has 32 bits of a number */
	s64 ahead = DISTANCE(last, seen >> 32, high), missing;
	u32 i;

	if (likely(ahead == 1 && count == 1 && seen & 1 && !anew)) {
		next = last << 32 | (u32)((u32)seen << 1) | 1;
		if (likely(__sync_val_compare_and_swap(&f->seq_window, seen, next) == seen))
			return;
	}
	if (unlikely(count > 1))
		came = count < 32 ? (1ULL << (count & 31)) - 1 : 0xFFFFFFFF;
	for (i = 0; i < SEQ_TRIES; i++) {
		seen = *(volatile u64 *)&f->seq_window;
		ahead = DISTANCE(last, seen >> 32, high);
		missing = -(s64)count; /* less what has come before */
		next = seen;
		if (!(seen & 1) || anew) { /* the first; what is below is not expected */
			next = last << 32 | 0xFFFFFFFF;
			*(volatile u64 *)&f->seq_first = last - count + 1;
			missing = 0;
			count = 0;
		} else if (ahead > 0) {
			missing += ahead;
			next = last << 32 | came;
			if (ahead < 32)
				next |= (u32)((u32)seen << ahead);
		} else if (ahead > -32) {
			next = seen | (u32)(came << (-ahead & 31));
			missing = -(s64)ones((u32)next ^ (u32)seen);
		} else if ((s64)*(volatile u64 *)&f->seq_missing < (s64)count ||
			   before_first(f, s, last, unused)) {
			missing = 0;
		}
		if (next == seen || __sync_val_compare_and_swap(&f->seq_window, seen, next) == seen)
			goto done;
	}
	return;
done:
	if (ahead > 0) { /* so many of them are new, at the least */
		count = missing < 0 ? -missing : 0;
		if (missing < 0)
			missing = 0;
	} else {
		count += missing;
	}
	if (missing) {
		__sync_fetch_and_add(&f->seq_missing, missing);
		l->numbers_missing += missing;
		if (missing < 0)
			l->numbers_late -= missing;
	}
	if (count) {
		__sync_fetch_and_add(&s->seq_again, count);
		if (before_first(f, s, last, unused))
			l->numbers_earlier += count;
		else
			l->numbers_twice += count;
	}
}

/*
 * COUNT numbers of 64 bits less UNUSED ones, from FIRST on, have come together (more than one: in a
 * merged packet).
 */
static __always_inline void check_number(struct flow_key *key, struct flow *f, struct slot *s,
					 struct link *l, u64 now, u64 first, u64 count,
					 u64 unused)
{
	u64 mask = ~0ULL >> unused;
	u64 last = (first + count - 1) & mask;
	u64 begun = *(volatile u64 *)&f->seq_window & 1;
	u64 before = __sync_lock_test_and_set(&f->seq_last, last), *counter;
	s64 distance = DISTANCE(first, before, unused);
	bool anew = distance > SEQ_FARTHEST || distance < -SEQ_FARTHEST;
	u32 kind;

	begun |= before; /* even if another CPU has not got further yet */
	l->numbers_read += count;
	account_missing(f, s, l, last, count, unused, begun && anew);
	if (likely(distance == 1 || !begun))
		return;
	if (unlikely(anew))
		__sync_fetch_and_add(&s->seq_restarts, 1);
	if (distance > SEQ_FAR || distance < -SEQ_FAR)
		l->numbers_far++;
	if (distance == 0) {
		kind = DUPLICATE;
		counter = &s->seq_duplicate;
		l->numbers_repeated++;
	} else if (distance < 0) {
		kind = REVERSE;
		counter = &s->seq_reverse;
	} else if (distance <= SEQ_THRESHOLD) {
		kind = SMALL;
		counter = &s->seq_small;
	} else {
		kind = BIG;
		counter = &s->seq_big;
	}
	sequence_error(key, f, l, counter, now, kind, (before + 1) & mask, first, distance);
}
