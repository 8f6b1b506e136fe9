/* SPDX-License-Identifier: GPL-2.0-only */
/* The highest of what several CPUs find. */
#ifndef VTAP_EXTREME_H
#define VTAP_EXTREME_H

#include "lib/hook.h"

static __always_inline void raise_to(u64 *extreme, u64 value)
{
	u64 seen;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) { /* each failure means that another CPU raised it meanwhile */
		seen = *(volatile u64 *)extreme;
		if (likely(value <= seen))
			return;
		if (__sync_val_compare_and_swap(extreme, seen, value) == seen)
			return;
	}
}

#endif
