# SPDX-License-Identifier: Apache-2.0
"""What every field of `vtap_flow` must say of a capture (docs/fields.md), in exact fractions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import sequences
import tap
from captured import NS, Flow, Packet

if TYPE_CHECKING:
    from collections.abc import Iterable

TOLERANCE_NS = 5_000
ROUNDED = Fraction(1, 10**6)  # of rates
ERRORS = ("reverse", "small", "big", "duplicate")
SYN, FIN, RST = 2, 1, 4


class Choices(NamedTuple):
    """What the options of vtap-stream say; times in ns."""

    numbered: bool = False
    offset: int | None = None
    pattern: bytes | None = None
    stream: bool = True
    threshold: int = 100
    stop_gap: int = 2 * NS
    expected_gap: int | None = None
    smoothed: bool = False
    bits: bool = False


class Series(NamedTuple):
    """What tells the records of an interface apart: the flow, and its VLAN where that is a key."""

    flow: Flow
    vlan: str | None


class Expected(NamedTuple):
    """By series and end of the interval: the fields. By series: time and kind of each error."""

    fields: dict[tuple[Series, int], dict[str, int | Fraction]]
    events: dict[Series, list[tuple[int, sequences.Error]]]


@dataclass
class _History:
    """What is known of a series from before."""

    model: sequences.Numbers | sequences.Stream
    last: int | None = None
    gaps: list[int] = field(default_factory=list)  # since the latest stop


def smoothed(gaps: Iterable[int], expected: int | None) -> Fraction:
    """RFC 3550 section 6.4.1, exactly; without an expected gap against the running mean."""
    mean, jitter = Fraction(0), Fraction(0)
    for gap in gaps:
        mean = mean or Fraction(gap)
        distance = abs(gap - (mean if expected is None else expected))
        mean += (gap - mean) / 16
        jitter += (distance - jitter) / 16
    return jitter


def numbers(packet: Packet, chosen: Choices) -> tuple[int, ...] | None:
    """The number; in a TCP stream also how many it takes, and how many of them for flags."""
    if packet.segment:
        number, flags = packet.segment
        if flags & RST:
            return None
        marks = bool(flags & SYN) + bool(flags & FIN)
        return (number, packet.payload + marks, marks) if chosen.stream else (number,)
    if chosen.offset is None or packet.flow.protocol not in ("udp", "icmp", "icmpv6"):
        return None
    at = packet.data[:5000].find(chosen.pattern) if chosen.pattern else 0
    number = packet.data[at + chosen.offset :][:4]
    return (int.from_bytes(number),) if at >= 0 and len(number) == 4 else None


def expect(
    found: list[Packet], chosen: Choices, *, by_vlan: bool = False, interval: int = NS
) -> Expected:
    """What the records and events must be; INTERVAL in ns."""
    histories: dict[Series, _History] = {}
    groups: dict[tuple[Series, int], list[Packet]] = defaultdict(list)
    for packet in found:
        end = (packet.time // interval + 1) * interval
        groups[Series(packet.flow, packet.vlan if by_vlan else None), end].append(packet)
    result = Expected({}, defaultdict(list))
    for (series, end), packets in groups.items():  # in order of time, as the packets were
        stream = chosen.stream and series.flow.protocol == "tcp"
        model = sequences.Stream if stream else sequences.Numbers
        history = histories.setdefault(series, _History(model(chosen.threshold)))
        fields, errors = _interval(packets, history, chosen)
        result.fields[series, end] = fields
        result.events[series] += errors
    return result


def _interval(
    packets: list[Packet], history: _History, chosen: Choices
) -> tuple[dict[str, int | Fraction], list[tuple[int, sequences.Error]]]:
    gaps: list[int] = []
    errors = []
    missing, before = history.model.missing, history.model.expected
    for packet in packets:
        if history.last is not None:
            gap = packet.time - history.last
            if gap > chosen.stop_gap:
                history.gaps.clear()
            else:
                gaps.append(gap)
                history.gaps.append(gap)
        history.last = packet.time
        number = numbers(packet, chosen) if chosen.numbered else None
        if number and (error := history.model.take(*number)):
            errors.append((packet.time, error))
    length = sum(packet.bytes for packet in packets)
    payload = sum(packet.payload for packet in packets)
    fields: dict[str, int | Fraction] = {
        "packets": len(packets),
        "bytes": length,
        "payload_bytes": payload,
    }
    if gaps:
        mean = Fraction(sum(gaps), len(gaps))
        variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        times = {
            "iat_mean_ms": mean,
            "jitter_ms": Fraction(float(variance) ** 0.5),
            "iat_min_ms": Fraction(min(gaps)),
            "iat_max_ms": Fraction(max(gaps)),
        }
        if chosen.expected_gap is not None:
            away = sum(abs(gap - chosen.expected_gap) for gap in gaps)
            times["iat_deviation_ms"] = Fraction(away, len(gaps))
        if chosen.smoothed:
            times["jitter_rfc3550_ms"] = smoothed(history.gaps, chosen.expected_gap)
        fields |= {name: time / 10**6 for name, time in times.items()}
    if history.model.received:
        counts = Counter(_counted_as(error, chosen) for _, error in errors)
        fields |= {f"seq_{name}": counts[name] for name in ERRORS}
        fields |= {
            "seq_last": history.model.last,
            "seq_received": history.model.received,
            "seq_errors": len(errors),
            "seq_missing": max(0, history.model.missing),
            "seq_restarts": 0,
        }
        if expected := history.model.expected - before:
            lost = max(0, history.model.missing) - max(0, missing)
            fields["loss_ratio"] = Fraction(max(0, lost), expected)
    return fields, errors


def _counted_as(error: sequences.Error, chosen: Choices) -> str:
    if error.kind == "hole":
        return "small" if error.distance <= chosen.threshold else "big"
    return {"out_of_order": "reverse", "retransmission": "duplicate"}.get(error.kind, error.kind)


def agree(
    records: list[dict[str, Any]], expected: Expected, chosen: Choices, tags: dict[str, str]
) -> None:
    """Every record has exactly the expected fields: counts equal, times within 5 µs.

    TAGS are those that all records have. The last interval of a flow may have been closed at the
    end of the run, off the grid: it ends then, and its rates are over what there was of it.
    """
    streamed = {}
    for record in tap.flows(records):
        series = Series(Flow.of(record), record.get("vlan"))
        key = series, -(-record["timestamp"] // NS) * NS
        assert key not in streamed
        streamed[key] = record
    assert set(streamed) == set(expected.fields)
    for key, fields in expected.fields.items():
        _same(streamed[key], key[0], fields, chosen, tags)
    for series, errors in expected.events.items():
        mine = [
            record
            for record in records
            if record["name"] == "vtap_sequence_error"
            and Series(Flow.of(record), record.get("vlan")) == series
        ]
        said = [
            sequences.Error(e["kind"], e["expected"], e["received"], e["distance"]) for e in mine
        ]
        assert said == [error for _, error in errors], series
        for event, (when, _) in zip(mine, errors, strict=True):
            assert abs(event["timestamp"] - when) <= TOLERANCE_NS


def _same(
    record: dict[str, Any],
    series: Series,
    fields: dict[str, int | Fraction],
    chosen: Choices,
    tags: dict[str, str],
) -> None:
    unit, factor = ("bits", 8) if chosen.bits else ("bytes", 1)
    length = record["timestamp"] % NS or NS
    rates = {
        f"throughput_{unit}_per_second": Fraction(fields["bytes"] * factor * NS, length),
        f"goodput_{unit}_per_second": Fraction(fields["payload_bytes"] * factor * NS, length),
    }
    own = {name: tag for name, tag in series.flow._asdict().items() if tag is not None}
    own |= {"vlan": series.vlan} if series.vlan else {}
    plain = {"name": "vtap_flow", "timestamp": record["timestamp"], **tags, **own}
    assert record.keys() == plain.keys() | rates.keys() | fields.keys(), series
    assert {name: record[name] for name in plain} == plain
    for name, value in (rates | fields).items():
        if name.endswith("_per_second"):
            assert abs(Fraction(record[name]) - value) <= ROUNDED, (series, name)
        elif name == "loss_ratio":
            assert abs(Fraction(record[name]) - value) <= ROUNDED / 1000, (series, name)
        elif name.endswith("_ms"):
            assert abs(Fraction(record[name]) - value) * 10**6 <= TOLERANCE_NS, (series, name)
        else:
            assert record[name] == value, (series, name)


def near(found: float, exact: Fraction, tolerance: Fraction = Fraction(1, 1000)) -> bool:
    """Whether FOUND, in ms, is EXACT, in ns, within TOLERANCE, in ns."""
    return abs(Fraction(found) * 10**6 - exact) <= tolerance
