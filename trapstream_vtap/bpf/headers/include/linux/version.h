/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC stamps programs with this number; the kernel has ignored it since 5.0. */
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
