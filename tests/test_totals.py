# SPDX-License-Identifier: Apache-2.0
"""What a scrape shows, against a model in plain Python over the same summaries."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from typing import Any

import pytest

from trapstream_vtap._totals import Totals
from trapstream_vtap.probes.flows.layouts import FLOW_KEY, FLOW_RECORD

NS = 10**9
MINUTE = 60
COUNTED = ("packets", "bytes", "payload_bytes")
AT = FLOW_RECORD.offsets


def totals(top: int, limit: int = 1000, **others: Any) -> Totals:
    """An empty one; interface 5 is number 0."""
    made = Totals(top, limit)
    use(made, **others)
    return made


def use(made: Totals, *, same: bool = False, index: int = 5, **others: Any) -> None:
    """Tell it of the summaries."""
    usual = {
        "record_size": FLOW_RECORD.size,
        "key_size": FLOW_KEY.size,
        "interface_at": AT["interface"],
        "direction_at": AT["direction"],
        "protocol_at": AT["protocol"],
        "by_protocol": True,
        "time_at": AT["time"],
        "counts_at": [AT[name] for name in COUNTED],
        "first_rare": len(COUNTED),
        "gaps_at": [AT[n] for n in ("iat_count", "iat_sum", "iat_squares", "iat_squares_coarse")],
        "coarse_shift": 3,
        "loss_at": None,
        "longest": NS,
    }
    made.use({index: 0}, same=same, **{**usual, **others})


def summary(
    port: int, second: float, octets: int, *, protocol: int = 17, index: int = 5, **others: int
) -> bytes:
    """Of the flow from PORT, in the interval that ends then; a packet for each ten bytes."""
    values = {
        "src_port": port,
        "interface": index,
        "protocol": protocol,
        "time": round(second * NS),
        "packets": octets // 10,
        "bytes": octets,
        "payload_bytes": octets // 2,
    }
    return FLOW_RECORD.pack(values | others)


def ports(shown: dict[bytes, Any]) -> dict[int, int]:
    """Bytes by port."""
    return {
        next(FLOW_KEY.unpack(key))["src_port"]: counts[1] for key, (counts, *_) in shown.items()
    }


def increase(before: dict[Any, int], after: dict[Any, int]) -> int:
    """What Prometheus makes of two scrapes: series that are new count from their next sample on.

    See: https://prometheus.io/docs/prometheus/latest/querying/functions/#increase
    """
    return sum(after[k] - before[k] for k in before.keys() & after.keys())


@pytest.mark.parametrize("number", range(8))
def test_any_traffic(number: int) -> None:
    """Whatever comes and goes: sums are exact, nothing falls, and increases add up exactly."""
    chance = random.Random(number)  # noqa: S311 - traffic, not secrets
    made = totals(top=5, limit=40)
    sent: Counter[int] = Counter()  # bytes by protocol
    before: dict[Any, int] | None = None
    moved = before_sum = 0
    for second in range(1, 400):
        base = second // 40 * 8  # flows end, and others begin
        for _ in range(chance.choice((0, 3, 30, 90))):
            port, octets = base + chance.randrange(60), 10 * chance.randrange(1, 10_000)
            protocol = 6 if port % 2 else 17
            made.add(summary(port, second, octets, protocol=protocol))
            sent[protocol] += octets
        made.end_interval(second * NS)
        if chance.random() < 0.5:
            continue
        protocols, flows, rest, departed = made.scrape()
        assert {p: counts[1] for (_, _, p), (counts, *_) in protocols.items()} == sent
        shown = ports(flows)
        assert len(flows) <= 5
        assert sum(shown.values()) + rest[1] + departed[1] == sum(sent.values())
        after: dict[Any, int] = {**shown, "rest": rest[1]}
        if before is not None:
            for series in after.keys() - before.keys():
                assert after[series] == 0
            assert all(after[k] >= before[k] for k in before.keys() & after.keys())
            moved += sum(sent.values()) - before_sum
            assert increase(before, after) == sum(sent.values()) - before_sum
        before, before_sum = after, sum(sent.values())
    assert moved > 0


KINDS = ("iat_min", "iat_max")  # any two columns that nothing else is added up from


@pytest.mark.parametrize("number", range(4))
def test_rare_counts(number: int) -> None:
    """A series of what is rare begins when it happens, with zero, and all sums are exact."""
    chance = random.Random(number)  # noqa: S311 - traffic, not secrets
    made = totals(top=5, limit=40, counts_at=[AT[name] for name in (*COUNTED, *KINDS)])
    happened: set[tuple[int, int]] = set()
    before: dict[tuple[int, int], int] = {}
    before_whole = [0, 0]
    sent = [0, 0]
    for second in range(1, 400):
        for _ in range(chance.choice((0, 3, 30))):
            port = second // 40 * 8 + chance.randrange(12)
            errors = {kind: chance.choice((0,) * 30 + (1, 5)) for kind in KINDS}
            sent = [count + errors[kind] for count, kind in zip(sent, KINDS, strict=True)]
            happened |= {(port, i) for i, kind in enumerate(KINDS) if errors[kind]}
            made.add(summary(port, second, 100, **errors))
        made.end_interval(second * NS)
        if chance.random() < 0.3:
            continue
        protocols, flows, rest, departed = made.scrape()
        after = {
            (next(FLOW_KEY.unpack(key))["src_port"], i): count
            for key, (counts, *_) in flows.items()
            for i, count in enumerate(counts[3:])
            if count is not None
        }
        assert after.keys() <= happened
        if before_whole != [0, 0]:
            assert all(after[new] == 0 for new in after.keys() - before.keys())
        assert all(after[k] >= before[k] for k in before.keys() & after.keys())
        whole = [sum(counts[3 + i] for counts, *_ in protocols.values()) for i in range(2)]
        parts = [sum(v for (_, k), v in after.items() if k == i) for i in range(2)]
        assert whole == [parts[i] + rest[3 + i] + departed[3 + i] for i in range(2)]
        assert all(a <= b <= c for a, b, c in zip(before_whole, whole, sent, strict=True))
        before, before_whole = after, whole
    made.scrape()
    protocols, flows, _, _ = made.scrape()
    assert [sum(counts[3 + i] for counts, *_ in protocols.values()) for i in range(2)] == sent
    assert any(None in counts for counts, *_ in flows.values())


def test_top_by_bytes_of_late() -> None:
    """The top flows are those by bytes, of which those of a minute ago count half."""
    made = totals(top=2)
    made.add(summary(1, 1, 4000) + summary(2, 1, 1900) + summary(3, 1, 1000))
    made.end_interval(1 * NS)
    assert ports(made.scrape()[1]) == {1: 4000, 2: 1900}
    made.add(summary(3, 1 + MINUTE, 500) + summary(2, 1 + MINUTE, 10))  # 1000 and 960 now
    made.end_interval((1 + MINUTE) * NS)
    _, flows, rest, departed = made.scrape()
    assert ports(flows) == {1: 4000, 3: 0}
    assert (rest[1], departed[1]) == (1000 + 500 + 10, 1900)


def test_first_scrape_shows_all() -> None:
    """Since no scrape has seen anything yet, a flow may show what it has had before."""
    made = totals(top=1)
    for second in (1, 2, 3):
        made.add(summary(1, second, 100) + summary(2, second, 50))
        made.end_interval(second * NS)
    _, flows, rest, departed = made.scrape()
    assert (ports(flows), rest, departed) == ({1: 300}, (15, 150, 75), (0, 0, 0))


def test_gone() -> None:
    """A flow without packets for a minute is gone, but not before all it had has been shown."""
    made = totals(top=10)
    made.add(summary(1, 1, 100))
    made.end_interval(1 * NS)
    assert ports(made.scrape()[1]) == {1: 100}
    made.add(summary(1, 2, 100))
    made.end_interval((2 + MINUTE) * NS)
    assert ports(made.scrape()[1]) == {1: 200}
    made.end_interval((2 + MINUTE) * NS + 1)
    _, flows, rest, departed = made.scrape()
    assert (flows, rest[1], departed[1]) == ({}, 0, 200)
    made.add(summary(1, 70, 100))
    assert ports(made.scrape()[1]) == {1: 0}


def test_clock_set_back() -> None:
    """Flows that came before the clock was set back are gone a minute after it."""
    made = totals(top=10)
    made.add(summary(1, 86_400, 100))
    made.end_interval(86_400 * NS)
    made.end_interval(10 * NS)
    assert ports(made.scrape()[1]) == {1: 100}
    made.add(summary(2, 71, 10))
    made.end_interval(71 * NS)
    assert ports(made.scrape()[1]) == {2: 0}


def test_interface_is_back() -> None:
    """Under another index it is the same interface, and its flows go on."""
    made = totals(top=10)
    made.add(summary(1, 1, 100))
    made.scrape()
    use(made, same=True, index=9)
    made.add(summary(1, 2, 100, index=9))
    protocols, flows, rest, _ = made.scrape()
    assert (ports(flows), rest[1], list(protocols)) == ({1: 200}, 0, [(0, 0, 17)])


def test_other_key() -> None:
    """When flows are told apart by something else, no count is lost or mixed up."""
    made = totals(top=10)
    made.add(summary(1, 1, 100))
    made.scrape()
    use(made, by_protocol=False)
    made.add(summary(1, 2, 50, protocol=0))
    protocols, flows, rest, departed = made.scrape()
    assert {p: counts[1] for (_, _, p), (counts, *_) in protocols.items()} == {17: 100, 256: 50}
    assert (ports(flows), rest[1], departed[1]) == ({1: 0}, 50, 100)


def test_gauges() -> None:
    """Mean and deviation of a flow are those of its times, the protocol's pooled, to the digit."""
    times = {1: [1_000_000, 3_000_000, 2_500_001], 2: [7, 9_999, 40_000_000, 2]}
    made = totals(top=10)
    for port, gaps in times.items():
        coarse = [gap >> 3 for gap in gaps if gap >= 10**7]
        gathered = {
            "iat_count": len(gaps),
            "iat_sum": sum(gaps),
            "iat_squares": sum(gap * gap for gap in gaps if gap < 10**7),
            "iat_squares_coarse": sum(gap * gap for gap in coarse),
        }
        made.add(summary(port, 1, 100, **gathered))
    made.add(summary(3, 1, 100))  # one without
    made.end_interval(1 * NS)
    protocols, flows, _, _ = made.scrape()
    found = {next(FLOW_KEY.unpack(key))["src_port"]: gaps for key, (_, gaps, _) in flows.items()}
    assert found[3] is None
    squares = 0.0
    for port, gaps in times.items():
        seconds = [gap / NS for gap in gaps]
        assert found[port] == pytest.approx(
            (statistics.fmean(seconds), statistics.pstdev(seconds)), rel=1e-9
        )
        squares += statistics.pvariance(seconds) * len(gaps)
    every = [gap / NS for gaps in times.values() for gap in gaps]
    ((_, count, pooled, _),) = protocols.values()
    assert count == 3
    assert pooled == pytest.approx(
        (statistics.fmean(every), math.sqrt(squares / len(every))), rel=1e-9
    )
    made.end_interval(2 * NS)  # in which nothing comes
    protocols, flows, _, _ = made.scrape()
    assert [values[1:] for values in protocols.values()] == [(0, None, None)]
    assert [gaps for _, gaps, _ in flows.values()] == [None] * 3


def test_loss() -> None:
    """Missing over expected of a flow's latest interval, and of all flows of a protocol."""
    made = totals(top=10, loss_at=[AT[name] for name in KINDS])
    for port, missed, expected in ((1, 3, 40), (2, -1, 10), (3, 0, 0), (4, 0, 50)):
        numbers = dict(zip(KINDS, (missed % (1 << 64), expected), strict=True))
        made.add(summary(port, 1, 100, **numbers))
    made.end_interval(1 * NS)
    protocols, flows, _, _ = made.scrape()
    found = {next(FLOW_KEY.unpack(k))["src_port"]: loss for k, (*_, loss) in flows.items()}
    assert found == {1: 0.075, 2: 0.0, 3: None, 4: 0.0}
    assert [loss for *_, loss in protocols.values()] == [0.02]
    made.end_interval(2 * NS)  # in which nothing comes
    protocols, flows, _, _ = made.scrape()
    assert {values[-1] for values in (*flows.values(), *protocols.values())} == {None}
