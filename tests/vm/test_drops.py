# SPDX-License-Identifier: Apache-2.0
"""Traps and drops under kernel 6.1, as told by vtap-stream and as counted by the kernel."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from dropcases import CASES, build, by_mac, check, mac_of
from storm import PORT

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

REASONS = {  # what 6.1 says; those of other cases need what is not set up there
    "closed port": "NO_SOCKET",
    "closed port, IPv6": "NO_SOCKET",
    "closed port, IPv6 options": "NO_SOCKET",
    "closed port, TCP": "NO_SOCKET",
    "UDP checksum": "UDP_CSUM",
    "TCP checksum": "TCP_CSUM",
    "IP checksum": "IP_CSUM",
    "traffic control": "TC_INGRESS",
    "one VLAN": "TC_INGRESS",
    "two VLANs": "TC_INGRESS",
    "UDP-Lite": "TC_INGRESS",
    "later fragment, IPv6": "TC_INGRESS",
    "IP in IP in IP": "TC_INGRESS",
    "GRE with all fields": "TC_INGRESS",
    "protocol": "IP_NOPROTO",
    "IP in IP": "IP_NOPROTO",
    "IPv6 in IP": "IP_NOPROTO",
    "GRE": "IP_NOPROTO",
    "GRE with Ethernet": "IP_NOPROTO",
    "ethertype": "UNHANDLED_PROTO",
}
PARTS = ("events", "aggregated", "suppressed", "left_out", "elsewhere", "no_packet", "missed")


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[str, Any]:
    """What the guest has done and seen."""
    frames = build("02:00:00:00:ff:ff")
    given = [(frames[name][6:].hex(), CASES[name].count) for name in REASONS]
    done = vm.python("tests/vm/guest_drops.py", given=given, timeout=500)
    return dict(done.results)


def told(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of packets."""
    return [record for record in records if record["name"] == "DroppedPackets"]


def check_account(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The last account, which adds up."""
    account = [r for r in records if r["name"] == "vtap_agent" and "probe" in r][-1]
    assert account["seen_packets"] == sum(account[f"{part}_packets"] for part in PARTS)
    assert account["missed_packets"] == 0
    assert account["packets_handed"] == sum(account[f"{part}_packets"] for part in PARTS[:3])
    return dict(account)


def test_traps_are_counted(results: dict[str, Any]) -> None:
    """One by one, aggregated and suppressed together: of each trap what devlink has counted."""
    traps = results["traps"]
    packets, octets, kinds = Counter[str](), Counter[str](), Counter[str]()
    for record in told(traps["records"]):
        packets[record["trapName"]] += record["count"]
        octets[record["trapName"]] += record["bytes"]
        kinds[record["recordKind"]] += 1
    counted = {name: said for name, said in traps["counted"].items() if said["packets"]}
    assert {"blackhole_route", "ingress_vlan_filter", "fid_miss", "igmp_query"} <= counted.keys()
    assert packets == {name: said["packets"] for name, said in counted.items()}
    assert octets == {name: said["bytes"] for name, said in counted.items()}
    assert kinds.keys() == {"event", "aggregate", "suppressed"}
    check_account(traps["records"])


def test_traps_are_named(results: dict[str, Any]) -> None:
    """Names, groups and types are devlink's; the packet is as the driver makes it."""
    traps = results["traps"]
    ports = set()
    for record in told(traps["records"]):
        said = traps["counted"][record["trapName"]]
        assert (record["trapGroup"], record["dropType"]) == (said["group"], said["type"])
        if record["recordKind"] == "suppressed":
            continue
        assert record["ingressPort"] == traps["interface"]
        assert record["bytes"] == 142 * record["count"]  # nsim_dev_trap_skb_build()
        packet = record["packet"]
        ip = {**packet["IP"], "protocolName": ""}
        assert ip == {
            "srcIp": "192.0.2.1",
            "dstIp": "198.51.100.1",
            "protocol": 17,
            "protocolName": "",
            "length": 128,
            "tos": 0,
            "ttl": 100,
        }
        ports.add((packet["TRANSPORT"]["srcPort"], packet["TRANSPORT"]["dstPort"]))
    assert len(ports) > 10  # the driver draws them


@pytest.mark.parametrize("name", REASONS)
def test_drops(results: dict[str, Any], name: str) -> None:
    """Every packet is told with its reason and all that it says."""
    drops = results["drops"]
    events = by_mac(drops["records"])[mac_of(list(CASES).index(name))]
    check(events, REASONS[name], build(drops["address"])[name], CASES[name].count)


def test_drops_are_counted(results: dict[str, Any]) -> None:
    """A storm is told to the last packet."""
    drops = results["drops"]
    storm = [
        record
        for record in told(drops["records"])
        if record["packet"].get("TRANSPORT", {}).get("srcPort") == PORT
    ]
    assert sum(record["count"] for record in storm) == drops["dropped"] == 12_000
    assert {record["trapName"] for record in storm} == {"NO_SOCKET"}
    check_account(drops["records"])
