# SPDX-License-Identifier: Apache-2.0
"""A virtual machine with another kernel, on top of this machine's own files.

qemu emulates the processor, so that no virtualization is needed. The guest sees all files of this
machine, and may change them for itself alone: what it changes stays in its memory. It has no
network. Results come back through one directory that both see.

`python -m lab.vm COMMAND...` runs a command there.

See: https://www.qemu.org/docs/master/system/invocation.html,
Documentation/filesystems/9p.rst, Documentation/filesystems/overlayfs.rst
"""

import json
import os
import selectors
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lab.guest_kernel import GuestKernel, guest_kernel, initial_files
from lab.loading import compile_ahead
from lab.namespace import Namespace
from trapstream_vtap.bpf.source import Source

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = "/run/shared"
"""Where the guest sees the directory that both share."""

MEMORY_MIB = 2048
PROCESSORS = 2
PROGRAMS = "programs"
"""Where in that directory it looks for compiled kernel programs."""

_BOOT_DEADLINE = 120.0  # seconds
_GRACE = 30.0  # seconds in which the guest itself ends what takes too long

_INIT = """#!/bin/busybox sh
# The first process: makes the machine's own files its root, then runs what it is told to, in order.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /lower /upper /root
$bb mount -t proc none /proc
$bb mount -t sysfs none /sys
$bb mount -t devtmpfs none /dev
for module in {modules}; do $bb insmod /modules/$module; done
nine=trans=virtio,version=9p2000.L,msize=512000
$bb mount -t 9p -o ro,$nine,cache=loose root /lower
$bb mount -t tmpfs none /upper
$bb mkdir /upper/changes /upper/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work none /root
for place in proc sys dev; do $bb mount --move /$place /root/$place; done
$bb mount -t debugfs none /root/sys/kernel/debug
$bb mount -t tracefs none /root/sys/kernel/tracing
$bb mount -t bpf none /root/sys/fs/bpf
$bb mkdir -p /root/dev/shm /root/dev/pts
$bb mount -t tmpfs none /root/dev/shm
$bb mount -t devpts none /root/dev/pts
$bb mount -t tmpfs none /root/run
$bb mkdir /root{shared}
$bb mount -t 9p -o rw,$nine shared /root{shared} || $bb poweroff -f
$bb ip link set lo up
$bb hostname vm
$bb stty -F /root/dev/ttyS1 raw -echo
exec 3<>/root/dev/ttyS1
echo ready >&3
while read -r number <&3; do
  directory={shared}/$number
  $bb chroot /root /bin/sh $directory/script >/root$directory/output 2>&1 </root/dev/null
  echo $number $? >&3
done
$bb poweroff -f
"""

_SCRIPT = """
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export TERM=dumb LC_ALL=C.UTF-8 PYTHONPATH={path} VM_DIRECTORY={directory}
export CACHE_DIRECTORY={programs}
cd {checkout} || exit
exec timeout -s KILL {timeout} {command}
"""


@dataclass(frozen=True)
class Done:
    """What a command left behind.

    Args:
        status: Its exit status; 137 when it took too long, and was killed.
        output: What it printed, errors included.
        results: What it left as `results.json` in its directory, decoded; None if it left nothing.
    """

    status: int
    output: str
    results: Any


class VirtualMachine:
    """Runs commands under another kernel, one after the other; a context manager.

    Args:
        kernel: What to boot; by default the newest of the series.

    Attributes:
        release: Of its kernel.
        shared: The directory that the guest sees as `SHARED`.
    """

    def __init__(self, kernel: GuestKernel | None = None) -> None:
        self._kernel = kernel or guest_kernel()
        self.release = self._kernel.release
        self._runs = 0

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="vtap-vm-")
        own = Path(self._directory.name)
        self.shared = own / "shared"
        self.shared.mkdir()
        self._console = own / "console"
        modules = " ".join(module.name for module in self._kernel.modules)
        init = _INIT.format(modules=modules, shared=SHARED)
        (own / "initrd").write_bytes(initial_files(self._kernel, init))
        with (own / "errors").open("wb") as errors:
            self._process = Namespace.current().popen(
                *self._command(own / "initrd"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            self._expect("ready", _BOOT_DEADLINE)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def compile_ahead(self, sources: Sequence[Source]) -> None:
        """Compiles SOURCES here, where it takes a tenth of the time, for programs there to load.

        Raises:
            RunError: One cannot be compiled.
        """
        compile_ahead(sources, self.release, self.shared / PROGRAMS)

    def run(self, *command: str, timeout: float, given: Any = None) -> Done:
        """Runs a command there, as root, in this checkout.

        A Python program finds `lab`, `trapstream_vtap` and the modules beside the tests. The
        variable VM_DIRECTORY says where its directory is.

        Args:
            command: Program and arguments.
            timeout: Seconds after which it is killed.
            given: Left for it as `given.json` in its directory.

        Raises:
            RuntimeError: The machine is gone, with the end of what its kernel said.
        """
        self._runs += 1
        name = str(self._runs)
        directory = self.shared / name
        directory.mkdir()
        (directory / "given.json").write_text(json.dumps(given), encoding="utf-8")
        script = _SCRIPT.format(
            path=":".join(map(str, (CHECKOUT, CHECKOUT / "tests", CHECKOUT / "tests" / "support"))),
            directory=f"{SHARED}/{name}",
            programs=f"{SHARED}/{PROGRAMS}",
            checkout=shlex.quote(str(CHECKOUT)),
            timeout=timeout,
            command=shlex.join(command),
        )
        (directory / "script").write_text(script, encoding="utf-8")
        assert self._process.stdin  # noqa: S101 - a pipe
        try:
            self._process.stdin.write(f"{name}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone("is not there any more") from None
        status = self._expect(name, timeout + _GRACE)
        results = directory / "results.json"
        return Done(
            status=int(status),
            output=(directory / "output").read_text(encoding="utf-8", errors="replace"),
            results=json.loads(results.read_bytes()) if results.exists() else None,
        )

    def python(self, *command: str, timeout: float, given: Any = None) -> Done:
        """As `run`, for a program of this environment's Python, which must succeed.

        Raises:
            RuntimeError: It did not, with what it said.
        """
        done = self.run(sys.executable, *command, timeout=timeout, given=given)
        if done.status:
            raise RuntimeError(f"{shlex.join(command)}: status {done.status}\n{done.output}")
        return done

    def _command(self, initrd: Path) -> tuple[str, ...]:
        root = "local,path=/,security_model=none,readonly=on,mount_tag=root,multidevs=remap"
        shared = f"local,path={self.shared},security_model=none,mount_tag=shared"
        # what the kernel defends against by them no emulated processor has
        # no_timer_check: whether its timer ticks is found out too early, where the host is busy
        settings = "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check"
        return (
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-smp", str(PROCESSORS), "-m", f"{MEMORY_MIB}M"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(self._kernel.image), "-initrd", str(initrd), "-append", settings),
            *("-serial", f"file:{self._console}", "-serial", "stdio"),
            *("-virtfs", root, "-virtfs", shared),
        )

    def _expect(self, word: str, timeout: float) -> str:
        """The rest of the line that the guest begins with WORD."""
        assert self._process.stdout  # noqa: S101 - a pipe
        said = b""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self._process.kill()
                    raise self._gone(f"said nothing for {timeout:.0f} s")
                part = os.read(self._process.stdout.fileno(), 4096)
                if not part:
                    raise self._gone("ended")
                said += part
        first, _, rest = said.decode().strip().partition(" ")
        if first != word:
            raise self._gone(f"said {said!r} instead of {word}")
        return rest

    def _gone(self, what: str) -> RuntimeError:
        logs = (self._console, self._console.with_name("errors"))
        said = "".join(log.read_text(errors="replace") for log in logs if log.exists())
        return RuntimeError(f"The virtual machine {what}:\n{said[-3000:]}")

    def _stop(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()


def main(command: Sequence[str]) -> int:
    """Runs COMMAND there, and prints what it printed; its exit status."""
    began = time.monotonic()
    kernel = guest_kernel()
    prepared = time.monotonic()
    with VirtualMachine(kernel) as machine:
        booted = time.monotonic()
        done = machine.run(*command, timeout=3600)
    sys.stdout.write(done.output)
    sys.stderr.write(
        f"Linux {machine.release}: prepared {prepared - began:.1f} s, booted "
        f"{booted - prepared:.1f} s, ran {time.monotonic() - booted:.1f} s\n"
    )
    return done.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
