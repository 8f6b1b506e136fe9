# SPDX-License-Identifier: Apache-2.0
"""The words for traps and drop reasons are true to another kernel's own lists."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from trapstream_vtap.probes.drops import causes

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

DEVICE = 62
TRAPS = f"""
echo '{DEVICE} 1' >/sys/bus/netdevsim/new_device || exit
devlink -j trap show
echo {DEVICE} >/sys/bus/netdevsim/del_device
"""
REASONS = """
import json, pathlib, sys
sys.path.append("tests/support")
from btf import enumeration
types = pathlib.Path("/sys/kernel/btf/vmlinux").read_bytes()
print(json.dumps([*enumeration(types, "skb_drop_reason")]))
"""
NO_REASONS = {"SKB_DROP_REASON_MAX"}


def test_traps(vm: VirtualMachine) -> None:
    """Every trap that devlink shows is known, of its type and group."""
    done = vm.run("sh", "-c", TRAPS, timeout=60)
    assert done.status == 0, done.output

    (shown,) = json.loads(done.output.splitlines()[-1])["trap"].values()

    assert len(shown) > 10
    for trap in shown:
        known = causes.traps()[trap["name"]]
        assert (known.type, known.group) == (trap["type"], trap["group"])


def test_drop_reasons(vm: VirtualMachine) -> None:
    """Every drop reason of that kernel is known."""
    done = vm.run("python3", "-c", REASONS, timeout=60)
    assert done.status == 0, done.output

    names = set(json.loads(done.output.splitlines()[-1])) - NO_REASONS

    assert len(names) > 50
    for name in names:
        assert causes.drop_reason(name).name in causes.drop_reasons()
