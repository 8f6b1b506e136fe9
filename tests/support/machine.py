# SPDX-License-Identifier: Apache-2.0
"""A machine that systemd has started, in a container: what units do there, they do for real.

Its root is an overlay on this machine's, its network is a namespace. Nothing of it stays.

See: systemd-nspawn(1)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.namespace import Namespace

_HIERARCHIES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
_BOOT = """
files=$1 install=$2 group=$3; shift 3
for hierarchy; do echo $$ >"$hierarchy/$group/cgroup.procs" || exit; done
mount -t tmpfs run /run && mkdir /run/upper /run/work /run/root &&
mount -t overlay machine -o lowerdir=/,upperdir=/run/upper,workdir=/run/work /run/root &&
cp -r "$files/." /run/root && cd / &&
exec systemd-nspawn --quiet --boot --directory=/run/root --machine="$group" \
    --register=no --keep-unit --link-journal=no --resolv-conf=off --console=pipe \
    --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON --system-call-filter=bpf \
    --bind-ro="$install:/opt/vtap-stream" systemd.unit=basic.target
"""


class Machine:
    """One that has started; a context manager that lets it go.

    Args:
        namespace: Its network.
        install: What it has at /opt/vtap-stream.
        files: What else it has beside this machine's files: text, by path.
    """

    def __init__(self, namespace: Namespace, install: Path, files: Mapping[str, str]) -> None:
        self._namespace = namespace
        self._install = install
        self._files = files

    def __enter__(self) -> Self:
        name = f"vtap-{uuid.uuid4().hex}"  # machines' names have no underscores
        self._directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        for place, text in {"/etc/fstab": "", **self._files}.items():
            path = self._directory / "files" / place.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self._groups = [
            Path(hierarchy, name)
            for hierarchy in _HIERARCHIES
            if Path(hierarchy, "cgroup.procs").exists()
        ]
        for group in self._groups:
            group.mkdir()
        log = (self._directory / "log").open("w")
        with log:
            self._process = self._namespace.popen(
                *("unshare", "--mount", "sh", "-c", _BOOT, "sh"),
                *(str(self._directory / "files"), str(self._install), name),
                *(str(group.parent) for group in self._groups),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(self._started)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            os.kill(self._first(), signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for group in self._groups:
            wait_for(lambda group=group: _removed(group))
        shutil.rmtree(self._directory)

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end; as `Namespace.run`."""
        there = ("nsenter", f"--target={self._first()}", "--mount", "--uts", "--ipc", "--pid")
        return self._namespace.run(*there, *command, **options)

    def write(self, path: str, text: str) -> None:
        """Make a file there, with the directory that it is in."""
        self.run("install", "-D", "-m", "644", "/dev/stdin", path, input=text)

    def process(self, unit: str) -> Path:
        """The directory in /proc of a service's main process."""
        shown = self.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout
        inside = shown.strip()
        for path in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                lines = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
                if lines["NSpid"].split()[1:] == [inside] and self._holds(path.parent):
                    return path.parent
        raise AssertionError(unit)

    def _holds(self, process: Path) -> bool:
        ours = Path(f"/proc/{self._first()}/ns/pid").readlink()
        return (process / "ns" / "pid").readlink() == ours

    def _first(self) -> int:
        """The process that is number 1 there."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[-1])

    def _started(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError((self._directory / "log").read_text())
        try:
            done = self.run("systemctl", "is-system-running", check=False)
        except (FileNotFoundError, IndexError):
            return False
        return done.stdout.strip() in ("running", "degraded")


def _removed(group: Path) -> bool:
    """Whether GROUP, in which nothing runs any more, could be removed."""
    try:
        for directory, _, _ in os.walk(group, topdown=False):
            Path(directory).rmdir()
    except OSError:
        return False
    return True
