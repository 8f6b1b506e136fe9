# SPDX-License-Identifier: Apache-2.0
"""Load the flow program beside others, and run programs by BPF_PROG_TEST_RUN (bpf(2))."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lab import loading, testrun
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.interfaces import choose
from trapstream_vtap.probes.flows import program as flow
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.settings.address import parse

if TYPE_CHECKING:
    from trapstream_vtap.bpf.code import Objects

EMPTY = (
    "int empty(struct context *ctx)\n{\n\treturn HOOK_XDP ? XDP_PASS : HOOK_SOCKET ? 0 : -1;\n}\n"
)


def settings(**changes: object) -> FlowSettings:
    """FlowSettings for the loopback interface, which is where test runs seem to arrive."""
    plain = FlowSettings(sinks=(parse("tcp://127.0.0.1:9"),), interfaces=choose(("lo",))[0])
    return replace(plain, **changes)  # type: ignore[arg-type]


def load(chosen: FlowSettings, more: str = "", programs: tuple[str, ...] = ()) -> Objects:
    """The flow program for CHOSEN, with a program `empty` beside it; attached to nothing.

    MORE is C text with further PROGRAMS.
    """
    wanted = flow.source(chosen)
    beside = [Program(name, wanted.programs[0].kind) for name in ("empty", *programs)]
    return loading.load(
        Source(
            wanted.text + EMPTY + more,
            (*wanted.programs, *beside),
            wanted.maps,
        )
    )


def run(program: int, frame: bytes, repeat: int = 1, *, tstamp: int = 0) -> int:
    """Run PROGRAM on FRAME with that receive timestamp; ns per run, as the kernel measures it.

    Only programs of traffic control take a timestamp.
    """
    context = {"tstamp": tstamp} if tstamp else {}
    return testrun.run(program, frame, repeat, **context).duration
