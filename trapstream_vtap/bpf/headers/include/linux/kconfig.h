/* SPDX-License-Identifier: GPL-2.0-only */
/* Included by BCC ahead of every program, as the kernel's build would do. */
#ifndef VTAP_LINUX_KCONFIG_H
#define VTAP_LINUX_KCONFIG_H
#define CONFIG_64BIT 1
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
#define NULL ((void *)0)
#define __always_inline inline __attribute__((always_inline))
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(x) ((__be16)__builtin_bswap16(x))
#define htonl(x) ((__be32)__builtin_bswap32(x))
#else
#define htons(x) ((__be16)(x))
#define htonl(x) ((__be32)(x))
#endif
#define ntohs(x) ((__u16)htons(x))
#define ntohl(x) ((__u32)htonl(x))
#define __constant_htons(x) htons(x)
#endif
