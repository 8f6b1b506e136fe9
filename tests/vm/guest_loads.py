# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: load what the machine around it assembles, as it comes."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import assembly


def main() -> None:
    """Leave the verdicts on each of the names given, in whose files the assemblies appear."""
    directory = Path(os.environ["VM_DIRECTORY"])
    given = json.loads((directory / "given.json").read_bytes())
    verdicts = {}
    for name in given["names"]:
        file = Path(given["directory"]) / name
        while not file.exists():  # compiling takes its time; who waits for this has a deadline
            if file.with_name("stop").exists():
                sys.exit(f"{name} was not assembled.")
            time.sleep(0.05)
        objects, said = assembly.load(json.loads(file.read_bytes()))
        objects.close()
        file.unlink()
        verdicts[name] = {program: asdict(verdict) for program, verdict in said.items()}
    (directory / "results.json").write_text(json.dumps(verdicts), encoding="ascii")


if __name__ == "__main__":
    main()
