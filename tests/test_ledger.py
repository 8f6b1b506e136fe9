# SPDX-License-Identifier: Apache-2.0
"""The ledger's one promise: handed over = sent + pending + lost, whatever happens in what order."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trapstream_vtap.ledger import Amount, Ledger
from trapstream_vtap.records import AGENT

deterministic = settings(derandomize=True, deadline=None, max_examples=200)
numbers = st.integers(0, 2**63)
tallies = st.dictionaries(st.integers(1, 4), st.tuples(numbers, numbers, numbers), min_size=1)
fates = st.sampled_from(("pending", "sent", "memory", "too_large", "undelivered"))


@deterministic
@given(payloads=st.lists(st.tuples(tallies, fates), max_size=20))
def test_every_record_has_one_fate(
    payloads: list[tuple[dict[int, tuple[int, int, int]], str]],
) -> None:
    """Of each interface, and of all, every record is sent, pending or lost for a reason."""
    ledger = Ledger()
    records: Counter[tuple[int, str]] = Counter()
    packets: Counter[tuple[int, str]] = Counter()
    octets: Counter[str] = Counter()
    for tally, fate in payloads:
        ledger.handed(tally)
        if fate == "sent":
            ledger.sent(tally)
        elif fate != "pending":
            ledger.lost(fate, tally)
        for interface, amount in tally.items():
            records[interface, fate] += amount[0]
            packets[interface, fate] += amount[1]
            octets[fate] += amount[2]

    lost = ("memory", "too_large", "undelivered")
    for interface in range(1, 5):
        expected = {
            "summaries_sent": records[interface, "sent"],
            "summaries_pending": records[interface, "pending"],
            "summaries_lost": sum(records[interface, reason] for reason in lost),
            "packets_sent": packets[interface, "sent"],
            "packets_pending": packets[interface, "pending"],
            "packets_lost": sum(packets[interface, reason] for reason in lost),
            "payloads_failed": 0,
        }
        assert expected == ledger.values(interface)
    handed, sent, reasons = ledger.totals()
    assert octets["sent"] == sent.bytes
    assert {r: octets[r] for r in reasons} == {r: amount.bytes for r, amount in reasons.items()}
    assert handed.bytes == octets.total()


def test_failures_are_counted_in_payloads() -> None:
    """A payload that fails twice counts twice, for each interface that has records in it."""
    ledger = Ledger()

    ledger.failed({1: (5, 5, 5), 2: (1, 1, 1)})
    ledger.failed({1: (5, 5, 5)})

    assert [ledger.values(i)["payloads_failed"] for i in (1, 2, 3)] == [2, 1, 0]


def test_values_are_columns_of_the_account() -> None:
    """What the ledger says of an interface has the names that the exported account has."""
    assert Ledger().values(1).keys() <= AGENT.layout.offsets.keys()


def test_what_it_hands_out_is_a_copy() -> None:
    """Totals taken earlier do not change with later bookings."""
    ledger = Ledger()
    ledger.handed({1: (1, 1, 1)})
    handed, _, _ = ledger.totals()

    ledger.handed({1: (1, 1, 1)})

    assert Amount(1, 1, 1) == handed


def test_threads() -> None:
    """Bookings of several threads all count, and nobody ever sees the books out of balance."""
    ledger = Ledger()
    one = {1: (1, 2, 3)}
    rounds = 2000
    worst = []

    def book() -> None:
        for i in range(rounds):
            ledger.handed(one)
            if i % 3:
                ledger.sent(one)
            else:
                ledger.lost("memory", one)
            values = ledger.values(1)
            worst.append(values["summaries_pending"])
            assert values["packets_pending"] == 2 * values["summaries_pending"]

    threads = [threading.Thread(target=book) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 * rounds == len(worst)
    assert min(worst) >= 0
    assert max(worst) <= len(threads)
    assert ledger.values(1)["summaries_pending"] == 0
    assert Amount(4 * rounds, 8 * rounds, 12 * rounds) == ledger.totals()[0]
