/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Dropped and trapped packets: every one into exactly one count. It is handed over by itself, or
 * counted into a record of equal ones, or by its cause alone; or it is left out, and that is counted.
 *
 * The text in front of this file is generated: the structures drop_key, drop_event, cause, cause_key
 * and drop_control (layouts.py says what their members mean); where the members of the kernel's
 * structures lie, by BTF (SKB_*, DEVICE_*, NET_*, SOCK_*, DST_*, TRAP_*); as constants TRAPS (the
 * tracepoint is devlink_trap_report, else kfree_skb), ARG_REASON and ARG_SOCKET (which arguments of
 * kfree_skb these are; ARG_SOCKET is 0 where there is none), UNIQUE (nothing is handed over by
 * itself), MAX_EVENTS, EVENT_PAGES, TABLE_SIZE, WAKE_AT, MAX_CAUSES; and the functions wanted() and
 * selected().
 */
#include "drops/drop_packet.h"
#include "lib/allowance.h"

/* The same order as RECORD_KINDS in layouts.py */
enum { EVENT, AGGREGATE, SUPPRESSED };

BPF_PERCPU_ARRAY(scratches, struct scratch, 1); /* too large for the stack */
BPF_TABLE("percpu_hash", struct cause_key, struct cause, causes, MAX_CAUSES);
BPF_TABLE("hash", struct drop_key, struct drop_event, aggregates0, TABLE_SIZE);
BPF_TABLE("hash", struct drop_key, struct drop_event, aggregates1, TABLE_SIZE);
BPF_ARRAY(controls, struct drop_control, 1);
BPF_PERCPU_ARRAY(strays, u64, 1); /* reports that found no room among the causes */
BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_RINGBUF_OUTPUT(wakeups, 1);

/* The counts of the cause; NULL where there are too many causes. */
static __always_inline struct cause *cause_of(struct cause_key *key)
{
	struct cause none = {};
	struct cause *c = causes.lookup_or_try_init(key, &none);

	if (!c) {
		u32 zero = 0;
		u64 *stray = strays.lookup(&zero);

		if (stray)
			(*stray)++;
	}
	return c;
}

/* Whether the packet went as an event of its own. */
static __always_inline bool hand_over(struct drop_event *e)
{
	struct drop_event *room;

	if (UNIQUE || !event_allowed())
		return false;
	room = events.ringbuf_reserve(sizeof(*room));
	if (!room)
		return false;
	__builtin_memcpy(room, e, sizeof(*room));
	events.ringbuf_submit(room, 0);
	return true;
}

static __always_inline void count_into(struct drop_event *record, struct drop_event *e)
{
	u64 duration = e->time - record->time;

	__sync_fetch_and_add(&record->packets, 1);
	__sync_fetch_and_add(&record->bytes, e->bytes);
	if ((s64)duration > (s64)record->duration)
		record->duration = duration;
}

static __always_inline void note_insert(struct drop_control *c)
{
	u64 *to;

	if (__sync_fetch_and_add(&c->inserts, 1) != WAKE_AT)
		return;
	to = wakeups.ringbuf_reserve(sizeof(*to));
	if (!to)
		return;
	*to = 0;
	wakeups.ringbuf_submit(to, 0);
}

static __always_inline struct drop_event *find(u64 table, struct drop_key *key)
{
	return table ? aggregates1.lookup(key) : aggregates0.lookup(key);
}

static __always_inline bool insert(u64 table, struct drop_key *key, struct drop_event *e)
{
	return !(table ? aggregates1.insert(key, e) : aggregates0.insert(key, e));
}

/* Whether E was counted into the record of its like. */
static __always_inline bool aggregate(struct drop_event *e, struct drop_control *c)
{
	/* chosen once: user space waits for us before it empties the table that we have chosen */
	u64 table = *(volatile u64 *)&c->table;
	struct drop_key *key = (struct drop_key *)e;
	struct drop_event *record;

	e->kind = AGGREGATE;
	record = find(table, key);
	if (!record) {
		if (insert(table, key, e)) {
			note_insert(c);
			return true;
		}
		record = find(table, key); /* another CPU was faster, or the table is full */
		if (!record)
			return false;
	}
	count_into(record, e);
	return true;
}

/*
 * Whether SOCKET is the one that the kernel makes up for test runs of programs (BPF_PROG_TEST_RUN), our own
 * sweeps among them: no other is of no family. See: bpf_prog_test_run_skb(), net/bpf/test_run.c
 */
static __always_inline bool of_test_run(u64 socket)
{
	u16 family = 0;

	return socket && !bpf_probe_read_kernel(&family, sizeof(family), (void *)(socket + SOCK_FAMILY)) &&
	       !family;
}

/* Fill in the event, and count it where it belongs; DEVICE and SOCKET: where the packet is. */
static __always_inline void take(struct scratch *s, struct cause *cause, u64 skb, u64 device,
				 u64 socket)
{
	struct drop_event *e = &s->event;
	struct drop_control *control;
	u32 zero = 0;

	control = controls.lookup(&zero);
	if (!control || bpf_probe_read_kernel(s->skb, SKB_SIZE, (void *)skb)) {
		cause->no_packet++;
		return;
	}
	if (!socket)
		socket = SKB(s, u64, SOCKET);
	if (of_test_run(socket)) {
		cause->no_packet++;
		return;
	}
	find_interface(s, TRAPS ? device : SKB(s, u64, DEVICE), socket);
	if (!TRAPS && !s->event.interface && !SKB(s, u16, PROTOCOL) &&
	    !SKB(s, u16, NETWORK_HEADER)) { /* of Unix sockets, netlink */
		cause->no_packet++;
		return;
	}
	if (!selected(e)) {
		cause->elsewhere++;
		return;
	}
	dissect(s);
	e->time = NOW() + *(volatile u64 *)&control->clock_offset;
	e->packets = 1;
	if (hand_over(e)) {
		cause->events++;
	} else if (aggregate(e, control)) {
		cause->aggregated++;
	} else {
		cause->suppressed++;
		cause->suppressed_bytes += e->bytes;
	}
}

static __always_inline struct scratch *clean_scratch(void)
{
	u32 zero = 0;
	struct scratch *s = scratches.lookup(&zero);

	if (s)
		__builtin_memset(&s->event, 0, sizeof(s->event));
	return s;
}

#if TRAPS

/* See: trace/events/devlink.h; the arguments are the devlink, the packet, and what is known of it */
int vtap_drop(struct bpf_raw_tracepoint_args *ctx)
{
	u64 trap = ctx->args[2];
	struct scratch *s = clean_scratch();
	struct cause_key *key;
	struct cause *c;

	if (!s)
		return 0;
	bpf_probe_read_kernel_str(s->event.trap, sizeof(s->event.trap),
				  (void *)member(u64, trap, TRAP_NAME));
	bpf_probe_read_kernel_str(s->event.group, sizeof(s->event.group),
				  (void *)member(u64, trap, TRAP_GROUP));
	s->event.type = member(u32, trap, TRAP_TYPE);
	key = (struct cause_key *)s->skb; /* not in use yet */
	__builtin_memset(key, 0, sizeof(*key));
	key->type = s->event.type;
	__builtin_memcpy(key->trap, s->event.trap, sizeof(key->trap));
	__builtin_memcpy(key->group, s->event.group, sizeof(key->group));
	c = cause_of(key);
	if (!c)
		return 0;
	c->seen++;
	take(s, c, ctx->args[1], member(u64, trap, TRAP_DEVICE), 0);
	return 0;
}

#else

/* See: trace/events/skb.h */
int vtap_drop(struct bpf_raw_tracepoint_args *ctx)
{
	struct cause_key key = {.reason = ctx->args[ARG_REASON]};
	struct cause *c = cause_of(&key);
	struct scratch *s;

	if (!c)
		return 0;
	c->seen++;
	if (!wanted(key.reason)) {
		c->left_out++;
		return 0;
	}
	s = clean_scratch();
	if (!s)
		return 0;
	s->event.reason = key.reason;
	s->event.location = ctx->args[1];
	take(s, c, ctx->args[0], 0, ARG_SOCKET ? ctx->args[ARG_SOCKET] : 0);
	return 0;
}

#endif
