/* SPDX-License-Identifier: GPL-2.0-only */
/* A sequence error: counted, and told to user space at once as long as --max-events allows it. */

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
#include "lib/allowance.h"

/* A TIME that no other event of the flow has: that of the packet, if need be 1 ns behind the last. */
static __always_inline bool event_time(struct flow *f, u64 now, u64 *time)
{
	u64 last;
	int i;

	for (i = 0; i < SEQ_TRIES; i++) {
		last = *(volatile u64 *)&f->event_time;
		*time = is_before(last, now) ? now : last + 1;
		if (__sync_val_compare_and_swap(&f->event_time, last, *time) == last)
			return true;
	}
	return false;
}

/* Count an error in COUNTER, and tell user space at once if there is room. */
static __always_inline void sequence_error(struct flow_key *key, struct flow *f, struct link *l,
					   u64 *counter, u64 now, u32 kind, u64 expected,
					   u64 received, s64 distance)
{
	struct sequence_event *e;
	struct control *c;
	u64 time;

	__sync_fetch_and_add(counter, 1);
	c = control();
	if (!c)
		return;
	if (!event_allowed())
		goto suppressed;
	if (!event_time(f, now, &time))
		goto suppressed;
	e = events.ringbuf_reserve(sizeof(*e));
	if (!e)
		goto suppressed;
	__builtin_memcpy(e, key, sizeof(*key)); /* an event begins with its key */
	e->time = time + c->clock_offset;
	e->expected = expected & SEQ_SAID;
	e->received = received & SEQ_SAID;
	e->distance = distance;
	e->kind = kind;
	e->reserved = 0;
	events.ringbuf_submit(e, 0);
	l->events_handed++;
	return;
suppressed:
	l->events_suppressed++;
}
