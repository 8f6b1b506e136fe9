# SPDX-License-Identifier: Apache-2.0
"""Round-trip times as a person asks for them: keys, records of their own or of flows, metrics."""

from __future__ import annotations

import ipaddress
import json
import signal
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import scraping
import tap
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from traffic import V4, V6, Wire
from waiting import wait_for

from trapstream_vtap.errors import UsageError
from trapstream_vtap.probes.rtt.program import masks
from trapstream_vtap.probes.rtt.settings import parse_key
from trapstream_vtap.settings.command import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PORT = 7100
EXCHANGES = 12
THINKS = 0.004  # seconds before an answer


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two namespaces."""
    with Wire() as wire:
        yield wire


def talk(wire: Wire, family: int, port: int = PORT, exchanges: int = EXCHANGES) -> None:
    """Questions, and answers after a while, over a connection of their own."""
    asking, answering = wire.tcp(family, port)
    answering.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(exchanges):
        asking.send(b"q" * 100)
        answering.recv(200)
        time.sleep(THINKS)
        answering.send(b"a" * 50)
        asking.recv(200)
    asking.close()
    answering.close()
    wire.settle()


def samples(records: list[dict[str, Any]], *tags: str) -> Counter[tuple[str, ...]]:
    """How many there are by TAGS."""
    found: Counter[tuple[str, ...]] = Counter()
    for record in records:
        if record["name"] == "vtap_rtt":
            found[tuple(record.get(tag, "") for tag in tags)] += record["rtt_count"]
    return found


KEYS = {
    "dst_ip": ("dst_ip",),
    "": (),
    "vlan,dst_port,src_ip": ("src_ip", "dst_port", "vlan"),
    "protocol,dst_ip": ("dst_ip",),
    "dst_net/24": ("dst_net/24/48",),
    "src_net/8/64,dst_ip": ("dst_ip", "src_net/8/64"),
}
REFUSED = {
    "colour": "There is no key field 'colour'; there are src_ip, .*, dst_net/24.",
    "tunnel_id": "There is no key field 'tunnel_id'; .*",
    "dst_ip/24": "There is no key field 'dst_ip/24'; .*",
    "dst_net": "'dst_net': give the length of a network behind it, as dst_net/24, .*",
    "dst_net/0": "'dst_net/0': a network of IPv4 has a length from 1 to 32.",
    "dst_net/33": "'dst_net/33': a network of IPv4 has a length from 1 to 32.",
    "dst_net/24/129": "'dst_net/24/129': a network of IPv6 has a length from 1 to 128.",
    "dst_net/x": "'dst_net/x': give the length .*",
    "dst_ip,dst_net/24": "dst_ip tells more apart than dst_net: name one of them.",
}


@pytest.mark.unit
@pytest.mark.parametrize("text", KEYS)
def test_keys(text: str) -> None:
    """In one order, networks with both lengths."""
    assert parse_key(text) == KEYS[text]


@pytest.mark.unit
@pytest.mark.parametrize("text", REFUSED)
def test_keys_that_make_no_sense(text: str, tmp_path: Path) -> None:
    """One sentence each, from the command line and from a file."""
    with pytest.raises(UsageError, match=REFUSED[text]):
        load_settings(["-i", "lo", "--probe", "rtt", "--rtt-key", text, "-"])
    path = tmp_path / "vtap.json"
    path.write_text(json.dumps({"probe": "rtt", "rtt_key": text.split(",")}))
    with pytest.raises(UsageError, match=f"{path}: rtt_key: {REFUSED[text]}"):
        load_settings(["-i", "lo", "-c", str(path), "-"])


@pytest.mark.unit
@hypothesis_settings(max_examples=200, deadline=None)
@given(
    four=st.integers(1, 32),
    six=st.integers(1, 128),
    v4=st.ip_addresses(v=4),
    v6=st.ip_addresses(v=6),
)
def test_masks_are_those_of_networks(four: int, six: int, v4: Any, v6: Any) -> None:
    """An address and the mask, as they lie in memory, are the network's address."""
    found = masks((f"dst_net/{four}/{six}",))
    kept = int.from_bytes(v4.packed, "little") & found["DST_IPV4"]
    assert kept.to_bytes(4, "little") == ipaddress.ip_network((v4, four), strict=False)[0].packed
    words = (int.from_bytes(v6.packed[at : at + 8], "little") for at in (0, 8))
    kept_words = [word & found[f"DST_IPV6_{n}"] for n, word in enumerate(words)]
    packed = b"".join(word.to_bytes(8, "little") for word in kept_words)
    assert packed == ipaddress.ip_network((v6, six), strict=False)[0].packed
    assert not any(value for name, value in found.items() if name.startswith("SRC"))


@pytest.mark.parametrize(
    ("key", "tags"),
    [
        ("dst_ip", {"dst_ip": (V4[1], V6[1])}),
        (
            "src_net/24/32,dst_port",
            {"src_net": ("192.0.2.0/24", "2001:db8::/32"), "dst_port": (f"{PORT}",) * 2},
        ),
        ("", {}),
    ],
)
def test_records_are_told_apart_by_the_key(
    wire: Wire, key: str, tags: dict[str, tuple[str, str]]
) -> None:
    """Exactly its fields are tags; every answer is in one record; thinking is on the local side."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "rtt", "--rtt-key", key) as tapped:
        for family in (socket.AF_INET, socket.AF_INET6):
            talk(wire, family)
        records = tapped.stop()
    found = [r for r in records if r["name"] == "vtap_rtt" and r["side"] == "local"]
    always = {"name", "device", "interface", "protocol", "side", "timestamp"}
    names = {name for r in found for name in r if not name.startswith("rtt_")}
    assert names == always | tags.keys()
    for tag, values in tags.items():
        assert {r[tag] for r in found} == {*values}
    # SYN, the question's bytes, FIN; the last two of which may be acknowledged together with others
    assert sum(r["rtt_count"] for r in found) >= 2 * (EXCHANGES + 1)
    assert all(
        r["rtt_min_ms"] <= r["rtt_p50_ms"] <= r["rtt_p99_ms"] <= r["rtt_max_ms"] for r in found
    )
    assert max(r["rtt_max_ms"] for r in found) >= 1000 * THINKS
    assert sum("rtt_handshake_ms" in r for r in found) >= 1
    check_account(records)


def check_account(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last account of each protocol, in which the parts add up and nothing is left."""
    rows = [r for r in records if r["name"] == "vtap_agent" and "probes_set" in r]
    latest = {r["protocol"]: r for r in rows}
    fates = ("samples", "invalidated", "stretched", "evicted", "unanswered", "one_way", "waiting")
    for row in rows:
        assert row["probes_set"] == sum(row[fate] for fate in fates), row
    for row in latest.values():
        assert row["samples"] == row["samples_handed"] + row["samples_lost"], row
        assert row["samples_held"] == 0
    return latest


def test_in_the_records_of_flows(wire: Wire) -> None:
    """As many samples, in the record of the direction that was answered; none by themselves."""
    options = ("-i", "wire0", "--probe", "flows,rtt", "--direction", "both", "--sequence")
    with tap.Tap(wire.receiver, *options) as tapped:
        talk(wire, socket.AF_INET)
        records = tapped.stop()
    assert not samples(records)
    latest = check_account(records)["tcp"]
    flows = tap.flows(records)
    by_direction = Counter[str]()
    for record in flows:
        by_direction[record["direction"]] += record.get("rtt_count", 0)
    assert by_direction.total() == latest["samples"] >= 2 * EXCHANGES
    assert min(by_direction["ingress"], by_direction["egress"]) >= EXCHANGES
    thinking = [r for r in flows if r["direction"] == "ingress" and r.get("rtt_count")]
    assert max(r["rtt_max_ms"] for r in thinking) >= 1000 * THINKS
    assert sum("rtt_handshake_ms" in r for r in flows) == 2
    assert sum(r["packets"] for r in flows) == sum(r["packets_handed"] for r in last_of(records))


def last_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last account of each interface."""
    rows = {r["interface"]: r for r in records if r["name"] == "vtap_agent" and "interface" in r}
    return [*rows.values()]


@pytest.mark.parametrize(
    "options", [("--direction", "ingress"), ("--direction", "both", "--rtt-key", "dst_ip")]
)
def test_beside_flows(wire: Wire, options: tuple[str, ...]) -> None:
    """Where flows are measured one way only, or a key is given, records are of their own."""
    with tap.Tap(wire.receiver, "-i", "wire0", "--probe", "flows,rtt", *options) as tapped:
        talk(wire, socket.AF_INET)
        records = tapped.stop()
    assert samples(records).total() == check_account(records)["tcp"]["samples"] >= 2 * EXCHANGES
    assert not any("rtt_count" in record for record in tap.flows(records))


@pytest.mark.parametrize(
    "options", [("--probe", "rtt"), ("--probe", "flows,rtt", "--direction", "both")]
)
def test_histogram_and_a_reload(wire: Wire, tmp_path: Path, options: tuple[str, ...]) -> None:
    """What is scraped is what was measured, also over a change of programs."""
    path = tmp_path / "vtap.json"
    path.write_text(json.dumps({"rtt_table_size": 1000}))
    port = 9188
    more = ("-c", str(path), "-i", "wire0", "--metrics", f"127.0.0.1:{port}", "-t", "0.2")
    with tap.Tap(wire.receiver, *options, *more) as tapped:
        talk(wire, socket.AF_INET)
        path.write_text(json.dumps({"rtt_table_size": 2000}))
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("was read again" in said for said in tapped.said))
        talk(wire, socket.AF_INET, PORT + 1)

        def scraped() -> dict[str, float]:
            found = scraping.scrape(wire.receiver, port)
            return {
                name: scraping.total(found, f"vtap_rtt_{name}", protocol="tcp")
                for name in ("seconds_count", "seconds_sum", "handed_samples_total")
            }

        def all_there() -> bool:
            shown = scraped()
            return shown["seconds_count"] == shown["handed_samples_total"] >= 4 * EXCHANGES

        wait_for(all_there)
        shown = scraped()
        records = tapped.stop()
    latest = check_account(records)["tcp"]
    assert shown["seconds_count"] == latest["samples"]
    sums = sum(
        r["rtt_count"] * r["rtt_mean_ms"] / 1000
        for r in records
        if r.get("rtt_count") and r["protocol"] == "tcp"
    )
    assert shown["seconds_sum"] == pytest.approx(sums, rel=1e-6)


def test_a_reload_does_not_move_records(wire: Wire, tmp_path: Path) -> None:
    """Out of those of flows, as the file's reader may not expect it: it is refused as a whole."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    options = ("-c", str(path), "-i", "wire0", "--probe", "flows,rtt", "--direction", "both")
    with tap.Tap(wire.receiver, *options) as tapped:
        path.write_text(json.dumps({"rtt_key": "dst_ip"}))
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("records that probes share" in said for said in tapped.said))
        talk(wire, socket.AF_INET)
        records = tapped.stop()
    assert not samples(records)
    assert any("rtt_count" in record for record in tap.flows(records))


def test_more_keys_than_there_is_room_for(wire: Wire) -> None:
    """What finds no room is counted, and connections beyond the table evict others' probes."""
    with tap.Tap(
        *(wire.receiver, "-i", "wire0", "--probe", "rtt", "--rtt-table-size", "64"),
        *("--rtt-key", "src_port,dst_port", "-t", "60"),
    ) as tapped:
        for number in range(100):
            talk_once(wire, PORT + number)
        wire.settle()
        records = tapped.stop()
    latest = check_account(records)["tcp"]
    assert latest["samples_lost"] > 0
    assert latest["samples_handed"] == samples(records).total() > 0
    assert latest["samples"] >= 200


def talk_once(wire: Wire, port: int) -> None:
    """A connection with one question and its answer."""
    asking, answering = wire.tcp(socket.AF_INET, port)
    asking.send(b"q")
    answering.recv(1)
    answering.send(b"a")
    asking.recv(1)
    asking.close()
    answering.close()
