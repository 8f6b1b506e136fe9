# SPDX-License-Identifier: Apache-2.0
"""Real loss: a program that drops every n-th large packet that an interface receives."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.loading import load
from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace
    from trapstream_vtap.bpf.code import Objects

XDP_FLAGS_SKB_MODE = 2  # include/uapi/linux/if_link.h; ahead of what a capture sees
_TC_ACT_UNSPEC, _TC_ACT_SHOT = "-1", "2"  # include/uapi/linux/pkt_cls.h
_DROP = """
#include <uapi/linux/bpf.h>
BPF_ARRAY(passed, u64, 1);
int drop(struct %(context)s *frame)
{
	u32 zero = 0;
	u64 *number = passed.lookup(&zero);

	if (!number || %(length)s < 1000)
		return %(on)s;
	return __sync_fetch_and_add(number, 1) %% %(every)d == 0 ? %(dropped)s : %(on)s;
}
"""


def _load(kind: str, **words: object) -> Objects:
    program = Program("drop", kind)
    return load(Source(_DROP % words, (program,), ()))


@contextmanager
def ahead(namespace: Namespace, ifname: str, every: int) -> Iterator[None]:
    """Drop where neither a capture nor vtap-stream sees the packet (XDP), till the wire goes."""
    objects = _load(
        "XDP",
        context="xdp_md",
        length="frame->data_end - frame->data",
        every=every,
        on="XDP_PASS",
        dropped="XDP_DROP",
    )
    with namespace.entered():
        index = interfaces()[ifname].index
        attach_xdp = ctypes.CDLL("libbpf.so.1").bpf_xdp_attach
        assert attach_xdp(index, objects.programs["drop"], XDP_FLAGS_SKB_MODE, None) == 0
    yield
    objects.close()


@contextmanager
def behind(namespace: Namespace, ifname: str, every: int) -> Iterator[None]:
    """Drop where capture and vtap-stream, which must run already, have seen the packet (tc)."""
    objects = _load(
        "SCHED_CLS",
        context="__sk_buff",
        length="frame->len",
        every=every,
        on=_TC_ACT_UNSPEC,
        dropped=_TC_ACT_SHOT,
    )
    create = ctypes.CDLL("libbpf.so.1").bpf_link_create
    with namespace.entered():
        index = interfaces()[ifname].index
        link = create(objects.programs["drop"], index, kernel.BPF_TCX_INGRESS, None)
    assert link >= 0, link
    yield
    os.close(link)
    objects.close()
