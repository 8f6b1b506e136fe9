# SPDX-License-Identifier: Apache-2.0
"""A black hole: whatever comes to an interface vanishes, and nobody is told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.loading import load
from trapstream_vtap.bpf import attach
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import interfaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace

_DROP = """
#include <uapi/linux/bpf.h>
int drop(struct __sk_buff *skb)
{
	return 2; /* TC_ACT_SHOT */
}
"""


@contextmanager
def black_hole(namespace: Namespace, interface: str) -> Iterator[None]:
    """The interface takes nothing while the context lasts."""
    program = Program("drop", "SCHED_CLS")
    drop = load(Source(_DROP, (program,), ()))
    with namespace.entered():
        hole = attach.attach(
            drop.programs["drop"], interfaces()[interface], attach.Direction.INGRESS
        )
    try:
        yield
    finally:
        hole.detach()
        drop.close()
