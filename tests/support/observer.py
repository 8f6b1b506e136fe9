# SPDX-License-Identifier: Apache-2.0
"""How many packets the kernel has shown to programs at a tracepoint, by one that is always there.

A kernel may show them fewer than there are: on a virtual machine with 6.18 no tracing program was
run for what came in while a process of the machine's own init had the processor.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.loading import load
from trapstream_vtap.bpf import btf, kernel
from trapstream_vtap.bpf.source import Program, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.namespace import Namespace

_COUNT = """
#include <uapi/linux/bpf.h>
struct arguments {
	u64 skb;
};
BPF_PERCPU_ARRAY(packets, u64, 1);
#define LOAD(type, from, at)                                                                   \
	({                                                                                     \
		u64 _v;                                                                        \
		asm volatile("%%0 = *(" #type " *)(%%1 + %%2)" : "=r"(_v) : "r"(from), "i"(at));  \
		_v;                                                                            \
	})
int observer(struct arguments *ctx)
{
	u64 device = LOAD(u64, ctx->skb, %(dev)d), net = LOAD(u64, device, %(net)d), *count;
	u32 zero = 0;

	if (LOAD(u32, device, %(index)d) != %(interface)dULL)
		return 0;
	if (LOAD(u32, net, %(inode)d) != %(netns)dULL)
		return 0;
	count = packets.lookup(&zero);
	if (count)
		*count += 1;
	return 0;
}
"""


@contextmanager
def observer(namespace: Namespace, ifname: str) -> Iterator[Callable[[], int]]:
    """What says how many have come by at the tracepoint netif_receive_skb, as programs see it."""
    types = btf.read()
    with namespace.entered():
        words = {
            "interface": socket.if_nametoindex(ifname),
            "netns": os.stat("/proc/thread-self/ns/net").st_ino,  # noqa: PTH116 - as the kernel does
            "dev": types.offset("sk_buff", "dev"),
            "index": types.offset("net_device", "ifindex"),
            "net": types.offset("net_device", "nd_net.net"),
            "inode": types.offset("net", "ns.inum"),
        }
    traced = types.traced("netif_receive_skb", tracepoint=True)
    program = Program("observer", "TRACEPOINT", traced=traced)
    objects = load(Source(_COUNT % words, (program,), ("packets",)))
    link = kernel.attach_raw_tracepoint(objects.programs["observer"], None)
    size = 8 * kernel.possible_cpus()

    def count() -> int:
        each = struct.unpack(f"{size // 8}Q", kernel.read_element(objects.maps["packets"], 0, size))
        return sum(each) + kernel.missed_runs(objects.programs["observer"])

    try:
        yield count
    finally:
        os.close(link)
        objects.close()
