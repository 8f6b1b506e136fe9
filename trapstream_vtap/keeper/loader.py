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
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import memory, store
from trapstream_vtap.bpf.code import load
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.keeper import handover
from trapstream_vtap.probes import named

if TYPE_CHECKING:
    from trapstream_vtap.settings.again import Again
    from trapstream_vtap.settings.settings import Settings


def _chosen(how: str, again: Again | None, settings: Settings) -> Settings:
    """By HOW, one of `handover.WAYS`: AGAIN reads the file, SETTINGS are those of before."""
    if how == "same":
        return settings
    if how == "look" or again is None:
        return settings.with_interfaces()
    return again.settings(settings.core.names)


def main() -> None:
    """Answer one request of the keeper: descriptors, or what is wrong."""
    with socket.socket(fileno=int(sys.argv[1])) as keeper:
        how, again, settings, probe = pickle.loads(handover.receive(keeper)[0])  # noqa: S301 - its parent
        try:
            chosen = _chosen(how, again, pickle.loads(settings))  # noqa: S301 - likewise
            wanted = named(probe).to_load(chosen.of(named(probe)))
            memory.check(wanted.memory, wanted.sized_by)
            objects = load(wanted.source, store.code(wanted.source))
        except (UsageError, RunError) as error:
            handover.send(keeper, pickle.dumps(error))
        else:
            answer = (
                wanted.places,
                wanted.notes,
                {each.name: each.shared for each in wanted.source.programs},
                list(objects.maps),
                pickle.dumps(chosen),
            )
            descriptors = (*objects.programs.values(), *objects.maps.values())
            handover.send(keeper, pickle.dumps(answer), descriptors)
