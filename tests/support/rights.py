# SPDX-License-Identifier: Apache-2.0
"""What a process may do, and what the keeper of a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traffic import Wire


CAPABILITIES = {  # include/uapi/linux/capability.h
    "dac_read_search": 2,
    "net_admin": 12,
    "net_raw": 13,
    "perfmon": 38,
    "bpf": 39,
}


KEEPS = ("bpf", "perfmon", "net_admin", "dac_read_search")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
OLD_KERNEL = """
import sys
from trapstream_vtap.keeper import client
client._START = '''
import errno
def refuse(*_):
    raise OSError(errno.EINVAL, "no tcx")
''' + client._START.replace("main()", '''
from trapstream_vtap.bpf import kernel
kernel.link_tcx = refuse
main()
''')
from trapstream_vtap.cli import main
main()
"""
"""The command on a kernel before 6.6, which answers EINVAL to a tcx link."""


def status(path: Path) -> dict[str, list[str]]:
    """A process's or thread's status, the words of each line by name."""
    lines = (path / "status").read_text(encoding="utf-8").splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def children(pid: int) -> list[int]:
    """The processes that process PID has started, and that are there."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]


def exists(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie."""
    try:
        return status(Path(f"/proc/{pid}"))["State"][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def mask(names: tuple[str, ...]) -> str:
    """A set of capabilities as /proc says it."""
    return f"{sum(1 << CAPABILITIES[name] for name in names):016x}"


def is_promiscuous(wire: Wire, name: str = "wire0") -> bool:
    """Whether that end of the receiver's takes frames for others."""
    shown = wire.receiver.run("ip", "-d", "-j", "link", "show", "dev", name).stdout
    return bool(json.loads(shown)[0]["promiscuity"])
