# SPDX-License-Identifier: Apache-2.0
"""The words for traps and drop reasons: complete, and true to the kernel's names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from btf import enumeration

from trapstream_vtap.bpf.btf import read
from trapstream_vtap.formats import safe_text
from trapstream_vtap.probes.drops import causes
from trapstream_vtap.probes.drops.reasons import drop_reasons

BTF = Path("/sys/kernel/btf/vmlinux")
DATA = Path(causes.__file__).parent / "data"
NO_REASONS = {"SKB_DROP_REASON_MAX", "SKB_DROP_REASON_SUBSYS_MASK"}
GROUPS = {  # include/net/devlink.h
    *("l2_drops", "l3_drops", "l3_exceptions", "buffer_drops", "tunnel_drops", "acl_drops"),
    *("stp", "lacp", "lldp", "mc_snooping", "dhcp", "neigh_discovery", "bfd", "ospf", "bgp"),
    *("vrrp", "pim", "uc_loopback", "local_delivery", "external_delivery", "ipv6", "ptp_event"),
    *("ptp_general", "acl_sample", "acl_trap", "parser_error_drops", "eapol"),
}


@pytest.mark.skipif(not BTF.exists(), reason="this kernel has no type information")
def test_every_reason_of_this_kernel() -> None:
    """The file has every drop reason that the running kernel's own type information names."""
    names = enumeration(BTF.read_bytes(), "skb_drop_reason").keys() - NO_REASONS

    assert len(names) > 50
    for name in names:
        found = causes.drop_reason(name)
        assert name in (f"SKB_DROP_REASON_{found.name}", f"SKB_{found.name}")
        assert found is causes.drop_reasons()[found.name]


@pytest.mark.parametrize("file", ["traps.toml", "drop_reasons.toml"])
def test_entries(file: str) -> None:
    """Every entry says all that there is to say, in words that every format takes as they are."""
    known = causes.traps() if file == "traps.toml" else causes.drop_reasons()
    heads = re.findall(r"(?m)^\[(\w+)\]$", (DATA / file).read_text())

    assert heads == [cause.name for cause in known.values()]
    assert len({cause.reason for cause in known.values()}) == len(known)
    for cause in known.values():
        assert cause.severity in causes.SEVERITIES
        assert cause.type in causes.TYPES
        assert re.fullmatch(r"[a-z0-9_]+", cause.group)
        for words in (cause.reason, cause.advice):
            assert words == words.strip() != ""
            assert safe_text(words) == words
        assert not cause.reason.endswith(".")
        assert cause.advice.endswith(".")
        assert not (cause.ordinary and cause.severity != "Notice")


def test_reasons_tell_apart() -> None:
    """No two causes share a reason, also not a trap and a drop: series would be mixed."""
    all_causes = [*causes.traps().values(), *causes.drop_reasons().values()]

    assert len({cause.reason for cause in all_causes}) == len(all_causes)


@pytest.mark.skipif(not BTF.exists(), reason="this kernel has no type information")
def test_the_probe_reads_the_same_names() -> None:
    """The names by which the probe calls this kernel's reasons are those of the file."""
    core = {name for name, number in drop_reasons(read()).items() if number < 1 << 16}

    assert len(core) > 50
    assert core <= causes.drop_reasons().keys()


def test_traps_have_the_kernels_groups() -> None:
    """Groups are those that devlink has; control traps lose nothing, so they only give notice."""
    assert {cause.group for cause in causes.traps().values()} == GROUPS
    control = [cause for cause in causes.traps().values() if cause.type == "control"]
    assert {cause.severity for cause in control} <= {"Notice", "Warning"}
    assert not any(cause.ordinary for cause in causes.traps().values())


@pytest.mark.parametrize(
    ("name", "group", "kind"),
    [  # as `devlink trap show` says them of netdevsim and mlxsw
        ("fid_miss", "l2_drops", "exception"),
        ("blackhole_route", "l3_drops", "drop"),
        ("ttl_value_is_too_small", "l3_exceptions", "exception"),
        ("tail_drop", "buffer_drops", "drop"),
        ("igmp_query", "mc_snooping", "control"),
        ("ingress_flow_action_drop", "acl_drops", "drop"),
    ],
)
def test_traps(name: str, group: str, kind: str) -> None:
    """Some traps that everybody knows are what the kernel says of them."""
    found = causes.trap(name)

    assert (found.name, found.group, found.type) == (name, group, kind)


def test_ordinary_life() -> None:
    """What is no loss is left out by default, and what is one is not."""
    ordinary = {cause.name for cause in causes.drop_reasons().values() if cause.ordinary}

    assert ordinary >= {"CONSUMED", "NOT_DROPPED_YET", "SOCKET_CLOSE", "QUEUE_PURGE"}
    assert not ordinary & {"NO_SOCKET", "NOT_SPECIFIED", "NETFILTER_DROP", "SOCKET_RCVBUFF"}


@pytest.mark.parametrize("look_up", [causes.trap, causes.drop_reason])
def test_unknown(look_up: type[causes.Cause]) -> None:
    """What no file knows is told by the kernel's name, and is not left out."""
    found = look_up("quite_new")  # type: ignore[call-arg]

    assert found.name == found.reason == "quite_new"
    assert found.severity == "Warning"
    assert found.type == "drop"
    assert found.advice
    assert not found.ordinary
