# SPDX-License-Identifier: Apache-2.0
"""Compile kernel programs with BCC, into code that any kernel of this release can load.

BCC brings the whole of LLVM into the process that calls it, to stay there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from typing import TYPE_CHECKING, Any

from trapstream_vtap.bpf import kernel
from trapstream_vtap.bpf.code import (
    NO_BPF,
    NOT_ALLOWED,
    Code,
    Map,
    named_maps,
    renamed_maps,
    with_kernel_functions,
)
from trapstream_vtap.bpf.source import HERE
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trapstream_vtap.bpf.source import Source

_NO_BCC = (
    "BCC is missing from this Python: install the distribution's package python3-bpfcc and use an "
    "environment that sees it (made from /usr/bin/python3 with --system-site-packages); the "
    "package named bcc of the Python index is something else."
)

_OPTIONS = (
    "-Wno-macro-redefined",  # BCC's own macros come twice, from its text and from our headers
    "-g0",  # it asks for what debuggers want, a quarter of the time; the code is the same
)


def compiled(source: Source) -> Code:
    """SOURCE, compiled.

    BCC makes the maps when it compiles, and puts their descriptors into the instructions. Here they
    are given back, and places among the maps to be made take their descriptors' place.

    Raises:
        RunError: BCC is missing, or will not compile, or we may not make maps.
    """
    os.environ["BCC_KERNEL_SOURCE"] = str(HERE / "headers")
    try:
        from bcc import BPF  # noqa: PLC0415 - the one place that needs it, with LLVM behind it
    except ImportError as error:
        raise RunError(_NO_BCC) from error
    with _heard() as said:
        try:
            with BPF(text=source.text, cflags=[f"-I{HERE}", *_OPTIONS]) as module:
                return _code(module, source)
        except Exception as error:  # BCC raises bare Exception for all it meets
            raise _refused(said() or repr(error)) from error


def _code(module: Any, source: Source) -> Code:
    """What BCC has made of SOURCE."""
    dumped = {p.code: module.dump_func(p.code.encode()) for p in source.programs}
    functions = {name: with_kernel_functions(code) for name, code in dumped.items()}
    wanted = [module[name].map_fd for name in source.maps]
    used = [fd for function in functions.values() for fd in named_maps(function)]
    descriptors = [*dict.fromkeys((*wanted, *used))]
    return Code(
        {name: renamed_maps(code, descriptors.index) for name, code in functions.items()},
        tuple(Map(*kernel.describe_map(descriptor)) for descriptor in descriptors),
    )


def _refused(said: str) -> RunError:
    """In one sentence, of what BCC has printed."""
    if os.strerror(errno.EPERM) in said:
        return RunError(NOT_ALLOWED)
    return RunError(f"{NO_BPF}{said.splitlines()[-1]}")


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], str]]:
    """What libraries print to standard error meanwhile."""
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)

        def said() -> str:
            file.seek(0)
            return file.read().decode(errors="replace").strip()

        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
