# SPDX-License-Identifier: Apache-2.0
"""A program at traffic control that drops packets."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from lab.loading import load
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace

TC_PROGRAM = """
#include <uapi/linux/bpf.h>
int drop_some(struct __sk_buff *skb)
{
	u8 tos = 0;

	bpf_skb_load_bytes(skb, 15, &tos, 1);
	return skb->vlan_present || tos == 0xB8 ? 2 : -1; /* TC_ACT_SHOT, or what is next */
}
"""
SOURCE = Source(TC_PROGRAM, (Program("drop_some", "SCHED_CLS"),), ())


@contextlib.contextmanager
def dropping_by_tc(namespace: Namespace, name: str) -> Iterator[None]:
    """At traffic control of an interface, a program that drops some of what comes in."""
    loaded = load(SOURCE)
    program = loaded.programs["drop_some"]
    with namespace.entered():
        detach = attach.attach(program, interfaces()[name], attach.Direction.INGRESS)
    try:
        yield
    finally:
        with namespace.entered():
            detach.detach()
        loaded.close()
