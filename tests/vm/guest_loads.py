# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: load what the machine around it has compiled, as it comes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from trapstream_vtap.bpf import kernel, store
from trapstream_vtap.bpf.code import load
from trapstream_vtap.bpf.source import Program, Source
from trapstream_vtap.errors import RunError


def main() -> None:
    """Leave the verdicts on each of the names given, in whose files the sources appear."""
    directory = Path(os.environ["VM_DIRECTORY"])
    given = json.loads((directory / "given.json").read_bytes())
    verdicts = {}
    for name in given["names"]:
        file = Path(given["directory"]) / name
        while not file.exists():  # compiling takes its time; who waits for this has a deadline
            if file.with_name("stop").exists():
                sys.exit(f"{name} was not compiled.")
            time.sleep(0.05)
        verdicts[name] = verdict(source(json.loads(file.read_bytes())))
    (directory / "results.json").write_text(json.dumps(verdicts), encoding="ascii")


def source(given: dict[str, Any]) -> Source:
    """What was made JSON of."""
    programs = tuple(Program(**program) for program in given["programs"])
    return Source(given["text"], programs, tuple(given["maps"]))


def verdict(wanted: Source) -> dict[str, int] | str:
    """How many instructions the verifier walked for each program; or what was said of all."""
    code = store.kept(wanted)
    assert code
    try:
        objects = load(wanted, code)
    except RunError as error:
        return str(error)
    walked = {name: kernel.verified_instructions(fd) for name, fd in objects.programs.items()}
    objects.close()
    return walked


if __name__ == "__main__":
    main()
