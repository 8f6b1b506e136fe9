/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * At most MAX_EVENTS events a second. This text is put into the programs as it is (BCC knows maps in
 * one text only).
 */
#include "lib/moment.h"

BPF_ARRAY(event_windows, u64, 1); /* second << 32 | events in it */

/* Whether the second's allowance has room for one more event. */
static __always_inline bool event_allowed(void)
{
	u64 second = NOW() / 1000000000, seen;
	u32 zero = 0;
	u64 *window;

	if (!MAX_EVENTS)
		return false;
	window = event_windows.lookup(&zero);
	if (!window)
		return false;
	seen = *(volatile u64 *)window;
	if ((u32)seen >= MAX_EVENTS && (u32)(seen >> 32) == (u32)second)
		return false; /* in a storm, without a write that all CPUs would wait for */
	if ((s32)((u32)second - (u32)(seen >> 32)) > 0 &&
	    __sync_val_compare_and_swap(window, seen, second << 32 | 1) == seen)
		return true;
	return (u32)__sync_fetch_and_add(window, 1) < MAX_EVENTS;
}
