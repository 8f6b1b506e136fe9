/* SPDX-License-Identifier: GPL-2.0-only */
/* Empty: BCC's built-in copy of bpf.h is already in. */
