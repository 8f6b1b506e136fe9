# SPDX-License-Identifier: Apache-2.0
"""Kernel programs for benchmarks and tests, in a process that goes on.

What is not compiled yet is compiled in a child process, which gives LLVM's memory back.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trapstream_vtap.bpf import code, store
from trapstream_vtap.bpf import compile as compiler
from trapstream_vtap.bpf.source import Source
from trapstream_vtap.errors import RunError


def load(source: Source) -> code.Objects:
    """Loads SOURCE, compiled now or at an earlier time.

    Raises:
        RunError: It cannot be compiled, or the kernel refuses it.
    """
    made = store.kept(source)
    if not made:
        compile_ahead([source])
        made = store.kept(source)
        if not made:
            raise RunError("What was compiled could not be kept; see CACHE_DIRECTORY.")
    return code.load(source, made)


def compile_ahead(
    sources: Sequence[Source], release: str = "", directory: Path | None = None
) -> None:
    """Compiles SOURCES, so that it need not be done when they are loaded.

    Args:
        sources: What to compile.
        release: Of the kernel that is to load it; by default the running one.
        directory: Where that kernel's programs look for it, too; they are kept where ours are in
            any case, for the next run.

    Raises:
        RunError: One cannot be compiled.
    """
    made = [(source, store.kept(source) or store.kept(source, release)) for source in sources]
    done = subprocess.run(
        [sys.executable, "-m", __name__, release, str(directory or "")],
        input=pickle.dumps(made),
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if done.returncode:
        raise RunError(done.stderr.decode(errors="replace").strip())


def main(release: str, directory: str) -> None:
    """In the child: compile what is not compiled already, and keep all."""
    all_made = []
    for source, kept in pickle.load(sys.stdin.buffer):  # noqa: S301 - of its parent
        try:
            made = kept or compiler.compiled(source)
        except RunError as error:
            sys.exit(str(error))
        all_made.append((source, made))
        if not kept:
            store.keep(source, made, release)
    if directory:
        os.environ["CACHE_DIRECTORY"] = directory
        for source, made in all_made:
            store.keep(source, made, release)


if __name__ == "__main__":
    main(*sys.argv[1:])
