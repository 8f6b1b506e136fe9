# SPDX-License-Identifier: Apache-2.0
"""Under kernel 6.1 the whole command works: compiled there, attached by clsact, records out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tap

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

SIZES = [11 * n % 1400 for n in range(200)]  # of datagrams, in bytes
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP


def test_from_packet_to_record(vm: VirtualMachine) -> None:
    """Every datagram is in the records, and afterwards the interface is as it was."""
    given = {"options": ["--direction", "ingress"], "sizes": SIZES}
    found = vm.python("tests/vm/guest_stream.py", timeout=500, given=given).results
    assert found["status"] == 0, found["said"]
    flows = tap.flows(found["records"])
    assert {(r["src_ip"], r["dst_ip"], r["dst_port"], r["protocol"]) for r in flows} == {
        ("192.0.2.1", "192.0.2.2", "7001", "udp")
    }
    assert sum(r["packets"] for r in flows) == len(SIZES)
    assert sum(r["bytes"] for r in flows) == sum(SIZES) + HEADERS * len(SIZES)
    assert sum(r["payload_bytes"] for r in flows) == sum(SIZES)
    assert tap.agent(found["records"], "wire0")["seen_packets"] == len(SIZES)
    assert "clsact" not in found["left"]
