# SPDX-License-Identifier: Apache-2.0
"""Decides what to load, loads it for the keeper, and ends.

Where it has to be compiled, BCC brings the whole of LLVM into the process; here it is given back.
What is loaded follows from the command line, the configuration file and the interfaces, which this
process looks at by itself.
"""

from __future__ import annotations

import pickle
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import memory, store
from trapstream_vtap.bpf.code import load
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.interfaces import choose
from trapstream_vtap.keeper import handover
from trapstream_vtap.probes import flow

if TYPE_CHECKING:
    from trapstream_vtap.bpf.holder import Place
    from trapstream_vtap.bpf.source import Source
    from trapstream_vtap.config import Settings


def _chosen(again: list[str] | None, settings: Settings) -> Settings:
    """The configuration read anew under the same command line, or else SETTINGS.

    Either way with those of the interfaces that are there now.
    """
    if again is None:
        there, gone = choose(settings.selected, settings.names)
        return replace(settings, interfaces=there, gone=gone)
    from trapstream_vtap import cli  # noqa: PLC0415 - large, and not needed at the start

    return cli.read_again(again, settings.names)


def _wanted(probe: str, settings: Settings) -> tuple[Source, list[Place] | str]:
    """What to load for PROBE, and where it belongs: on interfaces, or at a tracepoint.

    Raises:
        RunError: There is no room for it.
    """
    if probe == "flows":
        memory.check(flow.memory(settings), f"--flow-table-size {settings.flow_table_size}")
        return flow.source(settings), flow.places(settings)
    from trapstream_vtap.probes import drop  # noqa: PLC0415 - it is large, and seldom wanted

    size = drop.memory(settings, probe)
    memory.check(size, f"--drop-table-size {settings.drop_table_size}")
    return drop.source(settings, probe), drop.TRACEPOINTS[probe]


def main() -> None:
    """Answer one request of the keeper: descriptors, or what is wrong."""
    with socket.socket(fileno=int(sys.argv[1])) as keeper:
        again, settings, probe = pickle.loads(handover.receive(keeper)[0])  # noqa: S301 - its parent
        try:
            chosen = _chosen(again, pickle.loads(settings))  # noqa: S301 - likewise
            source, places = _wanted(probe, chosen)
            objects = load(source, store.code(source))
        except (UsageError, RunError) as error:
            handover.send(keeper, pickle.dumps(error))
        else:
            answer = (places, list(objects.programs), list(objects.maps), pickle.dumps(chosen))
            descriptors = (*objects.programs.values(), *objects.maps.values())
            handover.send(keeper, pickle.dumps(answer), descriptors)


if __name__ == "__main__":
    main()
