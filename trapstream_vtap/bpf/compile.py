# SPDX-License-Identifier: Apache-2.0
"""Compile kernel programs with BCC, in a child process that hands the descriptors over.

BCC brings the whole of LLVM into the process; in a child it is given back with the child. The child
is this module run as a program: it reads what to build from its standard input, and sends one
message with the descriptors over the socket that it was given.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trapstream_vtap.bpf import kernel
from trapstream_vtap.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
_MOST_DESCRIPTORS = 64
_MESSAGE_SIZE = 1 << 16
_PARTS = (
    "sequence.h",
    "jitter.h",
    "gaps.h",
    "allowance.h",
)  # a part ahead of those that it includes

_NO_BCC = (
    "BCC is missing from this Python: install the distribution's package python3-bpfcc and use an "
    "environment that sees it (made from /usr/bin/python3 with --system-site-packages); the "
    "package named bcc of the Python index is something else."
)
NOT_ALLOWED = "The kernel refuses to load BPF programs: run as root (CAP_BPF and CAP_NET_ADMIN)."
_NO_BPF = "This kernel does not support what is needed of BPF (5.12 or newer is): "


@dataclass(frozen=True)
class Program:
    """A program to load.

    Args:
        name: What it is called.
        kind: As BCC calls it (`SCHED_CLS`, …).
        function: The C function, if it has another name.
        buffers: XDP: it takes packets of several buffers.
    """

    name: str
    kind: str
    function: str = ""
    buffers: bool = False


@dataclass(frozen=True)
class Source:
    """What to build: the C text, the functions to load, the maps wanted."""

    text: str
    programs: tuple[Program, ...]
    maps: tuple[str, ...]


def program_text(name: str) -> str:
    """The C text NAME of this directory, with the parts put in that use maps.

    BCC rewrites what uses maps in the main text only.
    """
    text = (HERE / name).read_text(encoding="ascii")
    for part in _PARTS:
        if f'#include "{part}"\n' in text:
            included = (HERE / part).read_text(encoding="ascii")
            text = text.replace(f'#include "{part}"\n', included)
    return text


@dataclass(frozen=True)
class Objects:
    """Open descriptors of loaded programs and of maps, by name. They go when they are closed."""

    programs: dict[str, int]
    maps: dict[str, int]

    def close(self) -> None:
        """Close all descriptors."""
        for descriptor in (*self.programs.values(), *self.maps.values()):
            os.close(descriptor)


def load(source: Source) -> Objects:
    """Compile SOURCE and load it into the kernel.

    Raises:
        RunError: BCC is missing, we may not, or the kernel will not.
    """
    if os.geteuid() != 0:
        raise RunError(NOT_ALLOWED)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with signals_blocked():  # Ctrl-C is for us: it ends the run when this is done
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        with child:
            theirs.close()
            _, errors = child.communicate(orjson.dumps(asdict(source)))
        message, descriptors, _, _ = socket.recv_fds(ours, _MESSAGE_SIZE, _MOST_DESCRIPTORS)
    said = errors.decode(errors="replace").strip()
    answer = orjson.loads(message) if message else {"refused": f"exit code {child.returncode}"}
    if "refused" in answer:
        raise RunError(explained(answer["refused"], said))
    if "error" in answer:
        raise RunError(answer["error"])
    names = iter(descriptors)
    return Objects(
        {program.name: next(names) for program in source.programs},
        {name: next(names) for name in source.maps},
    )


def explained(refused: str, said: str) -> str:
    """Why it was refused, in one sentence: BCC raises what, and has said why before."""
    if os.strerror(errno.EPERM) in said:
        return NOT_ALLOWED
    return f"{_NO_BPF}{said.splitlines()[-1] if said else refused}"


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """A child that is started meanwhile never sees what is meant for us."""
    ours = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ours)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def compiled(source: Source) -> Any:
    """BCC's module of SOURCE: its maps are made, its programs not loaded yet.

    Raises:
        RunError: BCC is missing.
        Exception: BCC will not.
    """
    os.environ["BCC_KERNEL_SOURCE"] = str(HERE / "headers")
    try:
        from bcc import BPF  # noqa: PLC0415 - the one place that needs it, with LLVM behind it
    except ImportError as error:
        raise RunError(_NO_BCC) from error
    with contextlib.suppress(ValueError, OSError):  # kernels before 5.11 count maps against it
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    # BCC's own macros come twice, from its text and from our headers
    return BPF(text=source.text, cflags=[f"-I{HERE}", "-Wno-macro-redefined"])


def build(source: Source) -> list[int]:
    """In the child: the descriptors of programs, then maps.

    Raises:
        RunError: BCC is missing.
        Exception: BCC, or the kernel, will not.
    """
    module = compiled(source)
    loaded = [_load(module, program) for program in source.programs]
    maps = [module[name].map_fd for name in source.maps]
    # what the module closes at the end must not be what is sent
    return [os.dup(descriptor) for descriptor in (*loaded, *maps)]


def _load(module: Any, program: Program) -> int:
    """The descriptor of one loaded function; BCC itself loads none with flags."""
    name = (program.function or program.name).encode()
    if program.buffers:
        with contextlib.suppress(OSError):  # BCC says why
            return kernel.load_xdp(program.name, module.dump_func(name))
    return int(module.load_func(name, getattr(module, program.kind)).fd)


def _main() -> None:
    """The child."""
    asked = orjson.loads(sys.stdin.buffer.read())
    source = Source(
        asked["text"], tuple(Program(**p) for p in asked["programs"]), tuple(asked["maps"])
    )
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        try:
            descriptors = build(source)
        except RunError as error:
            parent.send(orjson.dumps({"error": str(error)}))
        except Exception as error:  # noqa: BLE001 - BCC raises bare Exception for all it meets
            parent.send(orjson.dumps({"refused": str(error)}))
        else:
            socket.send_fds(parent, [b"{}"], descriptors)


if __name__ == "__main__":
    _main()
