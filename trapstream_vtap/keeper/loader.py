# SPDX-License-Identifier: Apache-2.0
"""Decides what to load, compiles and loads it for the keeper, and ends.

BCC brings the whole of LLVM into the process; here it is given back. What is loaded follows from
the command line, the configuration file and the interfaces, which this process looks at by itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.interfaces import present
from trapstream_vtap.keeper import handover
from trapstream_vtap.probes import drop, flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.bpf.holder import Place
    from trapstream_vtap.config import Settings


def _chosen(again: list[str] | None, settings: Settings) -> Settings:
    """The configuration read anew under the same command line, or else SETTINGS.

    Either way with those of the interfaces that are there now.
    """
    if again is None:
        there, gone = present(settings.names)
        return replace(settings, interfaces=there, gone=gone)
    from trapstream_vtap import cli  # noqa: PLC0415 - large, and not needed at the start

    return cli.read_again(again, settings.names)


def _wanted(probe: str, settings: Settings) -> tuple[compiler.Source, list[Place] | str]:
    """What to load for PROBE, and where it belongs: on interfaces, or at a tracepoint."""
    if probe == "flows":
        return flow.source(settings), flow.places(settings)
    return drop.source(settings, probe), drop.TRACEPOINTS[probe]


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """What libraries print to standard error meanwhile."""
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace").strip()

        yield said


def main() -> None:
    """Answer one request of the keeper: descriptors, or what is wrong."""
    with socket.socket(fileno=int(sys.argv[1])) as keeper, _heard() as said:
        again, settings, probe = pickle.loads(handover.receive(keeper)[0])  # noqa: S301 - its parent
        try:
            chosen = _chosen(again, pickle.loads(settings))  # noqa: S301 - likewise
            source, places = _wanted(probe, chosen)
            descriptors = compiler.build(source)
        except (UsageError, RunError) as error:
            handover.send(keeper, pickle.dumps(error))
        except Exception as error:  # noqa: BLE001 - BCC raises bare Exception for all it meets
            sentence = compiler.explained(str(error), said())
            handover.send(keeper, pickle.dumps(RunError(sentence)))
        else:
            names = [program.name for program in source.programs]
            answer = (places, names, source.maps, pickle.dumps(chosen))
            handover.send(keeper, pickle.dumps(answer), descriptors)


if __name__ == "__main__":
    main()
