# SPDX-License-Identifier: Apache-2.0
"""The virtual machine's kernel has a device whose driver traps packets and reports them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

DEVICE = 61
TRAPS = {  # as the driver declares them: drivers/net/netdevsim/dev.c, nsim_traps_arr
    "blackhole_route": ("drop", "l3_drops"),
    "ttl_value_is_too_small": ("exception", "l3_exceptions"),
    "fid_miss": ("exception", "l2_drops"),
    "igmp_query": ("control", "mc_snooping"),
}
SCRIPT = f"""
echo '{DEVICE} 1' >/sys/bus/netdevsim/new_device || exit
devlink -j dev show netdevsim/netdevsim{DEVICE}
devlink -j trap show
echo {DEVICE} >/sys/bus/netdevsim/del_device
"""


def test_traps(vm: VirtualMachine) -> None:
    """Devlink shows the device and its traps, each of its type and group."""
    done = vm.run("sh", "-c", SCRIPT, timeout=60)
    assert done.status == 0, done.output
    name = f"netdevsim/netdevsim{DEVICE}"
    dev, trap = map(json.loads, done.output.splitlines())
    assert name in dev["dev"]
    found = {t["name"]: (t["type"], t["group"]) for t in trap["trap"][name]}
    assert {trap: found[trap] for trap in TRAPS} == TRAPS


def test_release(vm: VirtualMachine) -> None:
    """It is the kernel of the series that was asked for."""
    done = vm.run("uname", "-r", timeout=60)
    assert done.output.strip() == vm.release
    assert vm.release.startswith("6.1.")
