# SPDX-License-Identifier: Apache-2.0
"""Dropped packets as Prometheus sees them, against the kernel's own count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import scraping
from dropevents import REASONS, TRAPS
from storm import INTERFACE, LENGTH, Storm
from waiting import wait_for

from lab.command import VtapStream
from lab.servers import promtool
from trapstream_vtap.probes.drops.layouts import DROP_EVENT
from trapstream_vtap.probes.drops.metrics import DropCollector
from trapstream_vtap.probes.drops.naming import Naming

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = "vtap_dropped_packets_total"


@pytest.fixture
def storm() -> Iterator[Storm]:
    """Where packets are sent to closed ports."""
    with Storm() as made:
        yield made


@pytest.mark.parametrize("probes", ["drops", "flows,drops"])
def test_storm(storm: Storm, probes: str) -> None:
    """Each dropped packet is counted once, told alone or with others, beside flows or not."""
    options = ("--probe", probes, "-i", INTERFACE, "--max-events", "50", "-t", "0.2")
    with VtapStream(storm.namespace, *options, "--metrics", "127.0.0.1:0") as command:
        command.wait_until_measuring()
        port = scraping.port_of(command)
        dropped = 24_000
        storm.send(dropped, range(9, 17))
        wait_for(lambda: storm.dropped() == dropped)

        def all_told() -> bool:
            now = scraping.scrape(storm.namespace, port)
            told = scraping.total(now, PACKETS, reason="NO_SOCKET")
            missed = scraping.total(now, "vtap_probe_packets_total", probe="drops", fate="missed")
            handed = scraping.total(now, "vtap_probe_handed_packets_total")
            return dropped - missed <= told <= dropped and handed == told

        wait_for(all_told)
        found = scraping.scrape(storm.namespace, port)
        labels = {"probe": "drops", "reason": "NO_SOCKET", "type": "drop", "interface": INTERFACE}
        told = scraping.total(found, PACKETS, **labels)
        assert told == scraping.total(found, PACKETS)
        assert scraping.total(found, "vtap_dropped_bytes_total", **labels) == told * LENGTH
        seen = scraping.total(found, "vtap_probe_seen_packets_total", probe="drops")
        assert scraping.total(found, "vtap_probe_packets_total", probe="drops") == seen
        assert scraping.total(found, "vtap_probe_handed_packets_total") == told
        assert bool(scraping.total(found, "vtap_protocol_packets_total")) == ("flows" in probes)
        classic = scraping.get(storm.namespace, port)
        assert promtool("check", "metrics", text=classic.body) == ""
        command.stop()


def test_series() -> None:
    """By cause and interface, by its name or else its number; then all others together."""
    collectors = {"drops": DropCollector(), "traps": DropCollector()}
    naming = Naming(REASONS, lambda addresses: dict.fromkeys(addresses, ""))

    def add(probe: str, packets: int, **columns: object) -> None:
        values = {"packets": packets, "bytes": 100 * packets, **columns}
        packed = bytearray(DROP_EVENT.pack(values))  # type: ignore[arg-type]
        collectors[probe].add(naming.named(packed, probe))

    def found(probe: str) -> list[tuple[dict[str, str], tuple[float, ...]]]:
        packets, octets = collectors[probe].samples()
        both = zip(packets.values, octets.values, strict=True)
        return [(dict(labels), (a, b)) for (labels, a), (_, b) in both]

    add("drops", 3, reason=3, name=b"eth0", interface=2)
    add("drops", 4, reason=3, name=b"eth0", interface=7)
    add("drops", 5, reason=90, interface=9)
    add("traps", 6, trap=TRAPS[0].encode(), name=b"sw\\p1", type=1)
    series = {tuple(w.values())[:4]: v for p in collectors for w, v in found(p)}
    assert series == {
        ("drops", "eth0", "NO_SOCKET", "drop"): (7, 700),
        ("drops", "9", "NEW_ONE", "drop"): (5, 500),
        ("traps", "sw%5Cp1", "ttl_value_is_too_small", "exception"): (6, 600),
    }
    for number in range(2000):
        add("drops", 1, reason=2, name=f"veth{number}".encode())
    drops = found("drops")
    assert len(drops) <= 1001
    assert sum(packets for _, (packets, _) in drops) == 12 + 2000
    assert [v for labels, v in drops if labels["interface"] == "other"] == [(1002, 100_200)]
