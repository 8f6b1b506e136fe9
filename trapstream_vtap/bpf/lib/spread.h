/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Places of interfaces in an array, whatever their indices are: an interface's is the first of SPREAD_TRIES
 * that says its index (user space has seen to that, spread.py). A hash table of the kernel's own takes 30 ns
 * more. Generated in front: SPREAD, SPREAD_SHIFT and SPREAD_TRIES.
 */
#ifndef VTAP_SPREAD_H
#define VTAP_SPREAD_H

/* Where to look for INTERFACE at the Nth try */
static __always_inline u32 spread_place(u32 interface, u32 n)
{
	return (((interface * 2654435769U) >> SPREAD_SHIFT) + n) & (SPREAD - 1);
}

#endif
