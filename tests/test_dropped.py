# SPDX-License-Identifier: Apache-2.0
"""Trapped and dropped packets in both formats, as those read them for whom trapstream was made."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from dropevents import REASONS, Dropped, DropPlan, dropped
from expected import names, says_name
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle, Point

from lab.servers import Influxd
from trapstream_vtap.formats import INFLUX, JSON, JSON_DATAGRAM, JSON_LINES
from trapstream_vtap.sinks import series

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trapstream_vtap.formats import Format

SCHEMA = json.loads((Path(__file__).parent / "dropped_packets.schema.json").read_text())
CHECKER = jsonschema.Draft202012Validator(
    SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
TAGS = {"deviceIP", "dropReason", "dropType", "ingressPort", "message", "severity"}
TAGS |= {"packet_packetType"}
FULL = TAGS | {"description", "packet_ethernet_srcMac", "packet_ethernet_dstMac"}
FULL |= {"packet_ip_srcIp"}
NO_LIMIT = 10**9

deterministic = settings(derandomize=True, deadline=None, max_examples=60)
in_order = st.lists(dropped(), min_size=1, max_size=4).map(
    lambda events: sorted(events, key=lambda event: int(event.columns["time"]))
)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """InfluxDB's parser, running."""
    with Oracle() as running:
        yield running


def make(form: Format, device: str = "192.0.2.1", tags: str = "default") -> DropPlan:
    """The plan of a kernel with the drop reasons and places of `dropevents`."""
    return DropPlan(form, device, REASONS, tags)


def rendered(plan: DropPlan, events: Sequence[Dropped]) -> bytes:
    """The one payload that EVENTS make."""
    batch = b"".join(event.packed() for event in events)
    ((payload, weights, _),), (too_large, _) = plan.render(batch, 10**6, NO_LIMIT)
    assert (len(weights), too_large) == (len(events), 0)
    return payload


def check_names(found: dict[str, Any], device: str, event: Dropped) -> None:
    """Take device and interface out of what was FOUND; they must be right."""
    assert says_name(found.pop("deviceIP"), device)
    said = found.pop("ingressPort")
    if event.interface:
        assert says_name(said, event.interface)
    else:
        assert said == str(event.columns.get("interface") or "unknown")


def flat(shown: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Members of objects within objects as line protocol names them."""
    found = {}
    for name, value in shown.items():
        if isinstance(value, dict):
            found |= flat(value, (*path, name.lower()))
        else:
            found["_".join((*path, name))] = value
    return found


@pytest.mark.parametrize("form", [JSON, JSON_DATAGRAM], ids=["tcp", "udp"])
@deterministic
@given(events=in_order, device=names())
def test_json(form: Format, events: list[Dropped], device: str) -> None:
    """A payload is an array of exactly the objects that the events are, types included."""
    payload = rendered(make(form, device), events)

    found = json.loads(payload, parse_float=Decimal)
    assert payload.endswith(b"]\n" if form is JSON else b"]")
    assert payload.count(b"\n") == (form is JSON)
    for event, each in zip(events, found, strict=True):
        check_names(each, device, event)
        assert event.shown == each
        json.dumps(each, default=str)


@deterministic
@given(events=st.lists(dropped(whole=True), min_size=1, max_size=3))
def test_original_shape(events: list[Dropped]) -> None:
    """Payloads have the shape that the original's have, key for key and type for type."""
    found = json.loads(rendered(make(JSON), events))

    CHECKER.validate(found)
    for each in found:
        assert {"packetType", "ETHERNET", "IP"} <= each["packet"].keys()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event.pop("dropType"),
        lambda event: event.update(timestamp=1700000000.5),
        lambda event: event["packet"]["IP"].update(ttl="63"),
        lambda event: event["packet"]["ETHERNET"].update(etherType="0x800"),
        lambda event: event["packet"].update(IP=None),
    ],
)
def test_shape_is_checked(spoil: Any) -> None:
    """The schema refuses what a consumer could not read."""
    (event,) = json.loads(rendered(make(JSON), [PING]))
    spoil(event)

    with pytest.raises(jsonschema.ValidationError):
        CHECKER.validate([event])


PING = Dropped(
    {
        "trap": b"ttl_value_is_too_small",
        "group": b"l3_exceptions",
        "type": 1,
        "ethernet": 1,
        "ethertype": 0x800,
        "src_mac": bytes(range(6)),
        "dst_mac": b"\xfe" * 6,
        "family": 4,
        "src_ip": bytes((192, 0, 2, 7)),
        "dst_ip": bytes((198, 51, 100, 9)),
        "protocol": 1,
        "icmp": 1,
        "icmp_type": 8,
        "ip_length": 84,
        "tos": 16,
        "ttl": 1,
        "vlan_tags": 1,
        "vlan_outer": 5 << 13 | 100,
        "interface": 4,
        "name": b"swp4",
        "time": 1_700_000_000_012_345_678,
        "packets": 1,
        "bytes": 102,
        "length": 102,
    },
    {},
    "swp4",
)


def test_documented_event() -> None:
    """The event in the documentation is what is rendered."""
    page = (Path(__file__).parent.parent / "docs" / "drops.md").read_text(encoding="utf-8")
    array, line = re.findall(r"(?ms)^```\n(\[\{.*?|DroppedPackets.*?)```$", page)
    columns = {
        **PING.columns,
        "vlan_tags": 0,
        "vlan_outer": 0,
        "dst_mac": bytes((0, 1, 2, 3, 4, 6)),
    }
    event = Dropped({**columns, "bytes": 98, "length": 98}, {}, None)

    assert json.loads(array) == json.loads(rendered(make(JSON), [event]))
    assert line == rendered(make(INFLUX), [event]).decode()


def consume(line: str) -> list[str]:
    """What a program that was written for trapstream's JSON makes of a line of it."""
    sentences = []
    for event in json.loads(line):
        packet = event["packet"]
        ethernet, ip = packet["ETHERNET"], packet["IP"]
        seconds = float(event["timestamp"])
        sentences.append(
            f"{seconds:.3f} {event['deviceIP']} {event['ingressPort']} {event['severity']} "
            f"{event['dropType']}: {event['dropReason']} ({event['description'][:7]}) "
            f"{event['message']} {ethernet['srcMac']}>{ethernet['dstMac']} "
            f"{ethernet['etherTypeName']}={ethernet['etherType']:d} "
            f"vlan {ethernet['vlanId']:d}/{ethernet['pcp']:d} {ip['srcIp']}>{ip['dstIp']} "
            f"{ip['protocolName']}={ip['protocol']:d} len {ip['length']:d} "
            f"tos {ip['tos']:d} ttl {ip['ttl']:d}"
        )
        if "TRANSPORT" in packet:
            ports = packet["TRANSPORT"]
            sentences.append(f"{ports['srcPort']:d}>{ports['dstPort']:d}")
    return sentences


def test_consumer_of_the_original() -> None:
    """A program that knows the original's keys reads from every line what was in the packet."""
    udp = Dropped({**PING.columns, "protocol": 17, "icmp": 0, "ports": 1, "src_port": 53}, {}, None)
    payload = rendered(make(JSON), [PING, udp])

    ping, datagram, ports = consume(payload.decode())

    assert ping == (
        "1700000000.012 192.0.2.1 swp4 Warning exception: TTL has run out (Look fo) fwdDrop "
        "00:01:02:03:04:05>fe:fe:fe:fe:fe:fe 0x800=2048 vlan 100/5 "
        "192.0.2.7>198.51.100.9 1 (icmp)=1 len 84 tos 16 ttl 1"
    )
    assert datagram == ping.replace("1 (icmp)=1", "17 (udp)=17")
    assert ports == "53>0"


@pytest.mark.parametrize("tags", ["default", "full"])
@deterministic
@given(events=in_order, device=names())
def test_line_protocol(oracle: Oracle, tags: str, events: list[Dropped], device: str) -> None:
    """InfluxDB reads from every line what the event says, under the original's names."""
    points = oracle.parse(rendered(make(INFLUX, device, tags), events))

    for event, point in zip(events, points, strict=True):
        expected = flat(event.shown)
        found: dict[str, Any] = point.fields | point.tags
        check_names(found, device, event)
        assert point.measurement == expected.pop("name")
        duration = expected.pop("duration", None)
        assert found.pop("duration", None) == (duration and pytest.approx(float(duration)))
        assert expected == found
        assert point.tags.keys() == (FULL if tags == "full" else TAGS) & {
            *expected,
            *("deviceIP", "ingressPort"),
        }
        assert 0 <= point.time - int(event.columns["time"]) < len(events)


def test_field_types(oracle: Oracle) -> None:
    """What is a number for the original is an integer, what is a text is one."""
    (point,) = oracle.parse(rendered(make(INFLUX), [PING]))

    assert {name for name, value in point.fields.items() if isinstance(value, int)} == {
        *("count", "bytes", "packet_ethernet_etherType", "packet_ethernet_vlanId"),
        *("packet_ethernet_pcp", "packet_ip_protocol", "packet_ip_length", "packet_ip_tos"),
        *("packet_ip_ttl", "packet_icmp_type", "packet_icmp_code"),
    }
    assert {name for name, value in point.fields.items() if isinstance(value, str)} == {
        *("description", "recordKind", "trapName", "trapGroup", "timestamp"),
        *("packet_ethernet_etherTypeName", "packet_ethernet_srcMac", "packet_ethernet_dstMac"),
        *("packet_ip_srcIp", "packet_ip_dstIp", "packet_ip_protocolName"),
    }


def true_time(point: Point) -> int:
    """When the packet was dropped, ns since the epoch."""
    return int(Decimal(str(point.fields["timestamp"])).scaleb(9))


@deterministic
@given(
    batches=st.lists(
        st.lists(dropped(times=st.integers(1000, 1003)), min_size=1, max_size=6),
        min_size=1,
        max_size=3,
    ),
    tags=st.sampled_from(["default", "full"]),
)
def test_times_are_unique(oracle: Oracle, batches: list[list[Dropped]], tags: str) -> None:
    """No two points of a series share a time, none is moved further than it must be, or back."""
    plan = make(INFLUX, tags=tags)
    points = []
    for batch in batches:
        found = oracle.parse(rendered(plan, batch))
        shown = [true_time(point) for point in found]
        assert sorted(shown) == shown
        points += found

    by_series = Counter((*sorted(point.tags.items()), point.time) for point in points)
    assert set(by_series.values()) == {1}
    coarse = [tuple(sorted((n, v) for n, v in p.tags.items() if n in TAGS)) for p in points]
    for at, point in enumerate(points):
        true = true_time(point)
        ahead = {points[i].time for i in range(at) if coarse[i] == coarse[at]}
        assert true <= point.time
        assert {*range(true, point.time)} <= ahead


def test_order_stays(oracle: Oracle) -> None:
    """Events of one series that are moved keep their order, whatever comes between."""
    columns = PING.columns | {"time": 5_000}
    later = PING.columns | {"time": 5_001}
    events = [Dropped(columns | {"bytes": n}, {}, None) for n in range(4)]
    events.insert(2, Dropped(later | {"bytes": 9}, {}, None))

    points = oracle.parse(rendered(make(INFLUX), events))

    assert [(p.time, p.fields["bytes"]) for p in points] == [
        *((5_000, 0), (5_001, 1), (5_002, 2), (5_003, 3), (5_004, 9)),
    ]


@pytest.mark.parametrize("tags", ["default", "full"])
@pytest.mark.parametrize("form", [INFLUX, JSON], ids=["influx", "json"])
@settings(deterministic, max_examples=40)
@given(event=dropped(whole=True))
def test_longest(form: Format, tags: str, event: Dropped) -> None:
    """No record is longer than the plan says; with ordinary names all fit into a datagram."""
    plan = make(form, "2001:db8:1111:2222:3333:4444:5555:6666", tags)
    usual = Dropped(event.columns | {"name": b"interface-fifte"}, {}, None)
    known = {**usual.columns, "trap": b"blackhole_route", "group": b"l3_drops"}

    assert len(rendered(plan, [Dropped(known, {}, None)])) <= plan.longest <= 1400


def test_records_that_are_too_long_are_counted() -> None:
    """What does not fit into a payload is booked with its packets, and the rest goes on."""
    short = Dropped({"reason": 3, "packets": 2, "bytes": 5, "interface": 7}, {}, None)
    long = Dropped(PING.columns | {"packets": 3, "interface": 7}, {}, None)

    payloads, too_large = make(JSON).render(short.packed() + long.packed(), 10, 500)

    assert [tallies for _, _, tallies in payloads] == [{7: (1, 2, 5)}]
    assert too_large == (1, {7: (1, 3, 102)})


def test_many_interfaces() -> None:
    """Names come and go without end; every event has its own, and few are kept."""
    plan = make(JSON)
    for first in range(0, 20_000, 2000):
        events = [
            Dropped({"name": f"veth{n}".encode(), "packets": 1}, {}, None)
            for n in range(first, first + 2000)
        ]
        found = [event["ingressPort"] for event in json.loads(rendered(plan, events))]
        assert found == [f"veth{n}" for n in range(first, first + 2000)]
    assert len(plan.naming._ports.values) <= 8000


def test_reason_without_a_name() -> None:
    """A number that the kernel's type information does not tell is exported as such."""
    (event,) = json.loads(rendered(make(JSON), [Dropped({"reason": 0x20005}, {}, None)]))

    assert event["trapName"] == event["dropReason"] == "unknown_0x20005"


@deterministic
@given(events=in_order, device=names() | st.text(r'ab,= "', min_size=1))
def test_series(events: list[Dropped], device: str) -> None:
    """Kafka's key: the tags, the same from both formats but for the packet's type."""
    lines = rendered(make(INFLUX, device), events)
    objects = rendered(make(JSON_LINES, device), events)

    pairs = zip(series.records(lines), series.records(objects), strict=True)
    for (line_key, line, _), (key, text, ms) in pairs:
        found = json.loads(text)
        kind = INFLUX.text(found["packet"]["packetType"])
        assert line_key.replace(b",packet_packetType=" + kind, b"") == key
        assert line.startswith(line_key + b" count=")
        assert ms == int(Decimal(found["timestamp"]) * 1000)
        assert series.measurement(key) == "DroppedPackets"


def test_influxd() -> None:
    """The real InfluxDB keeps every event, also such as came at the same moment."""
    same = [PING] * 50
    other = [Dropped({**PING.columns, "src_ip": bytes((10, 0, 0, n))}, {}, None) for n in range(50)]
    hostile = [
        Dropped({**PING.columns, "name": name}, {}, None)
        for name in (b"a b", b"a,b", b"a=b", b'"', b"end\\", "é".encode(), b"\xff\n")
    ]
    payload = rendered(make(INFLUX), [*same, *other, *hostile])
    with Influxd() as influxd:
        database = urllib.parse.quote(influxd.database)
        influxd.http("POST", f"/write?db={database}&precision=ns", payload)

        series = influxd.query("SELECT count(bytes) FROM DroppedPackets GROUP BY ingressPort")
        stored = {s["tags"]["ingressPort"]: s["values"][0][1] for s in series}
        fields = influxd.query("SHOW FIELD KEYS FROM DroppedPackets")[0]["values"]

    encoded = {"a b", "a,b", "a=b", '"', "end%5C", "é", "%FF%0A"}
    assert stored == {"swp4": 100} | dict.fromkeys(encoded, 1)
    assert ["timestamp", "string"] in fields
    assert ["packet_ip_length", "integer"] in fields
