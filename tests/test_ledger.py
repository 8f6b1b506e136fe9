# SPDX-License-Identifier: Apache-2.0
"""The ledger's one promise, whatever happens in what order: nothing comes or goes unsaid."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trapstream_vtap.ledger import LOSSES, SINK_ROWS, Account, Amount, Booked, Handed

deterministic = settings(derandomize=True, deadline=None, max_examples=200)
numbers = st.integers(0, 2**63)
sources = st.sampled_from(("handed", "recovered"))
fates = st.sampled_from(("queued", "delivered", "spooled", *LOSSES))


@deterministic
@given(payloads=st.lists(st.tuples(numbers, numbers, sources, fates, st.booleans()), max_size=20))
def test_every_record_has_one_fate(payloads: list[tuple[int, int, str, str, bool]]) -> None:
    """Every record is delivered, queued, spooled or lost for a reason; so is every packet in it."""
    account = Account()
    records: Counter[str] = Counter()
    packets: Counter[str] = Counter()
    for number, inside, source, fate, by_disk in payloads:
        booked = Booked(number, inside)
        getattr(account, source)(booked)
        if by_disk or fate == "spooled":
            account.spooled(booked)
        if by_disk and fate != "spooled":
            account.unspooled(booked)
        if fate == "delivered":
            account.delivered(booked, 7 * number)
        elif fate in LOSSES:
            account.lost(fate, booked)
        for name in (source, fate):
            records[name] += number
            packets[name] += inside

    assert account.values() == {
        "records_handed": records["handed"],
        "records_recovered": records["recovered"],
        "records_delivered": records["delivered"],
        "records_queued": records["queued"],
        "records_spooled": records["spooled"],
        "records_lost": sum(records[reason] for reason in LOSSES),
        "records_retried": 0,
        "packets_handed": packets["handed"],
        "packets_recovered": packets["recovered"],
        "packets_delivered": packets["delivered"],
        "packets_queued": packets["queued"],
        "packets_spooled": packets["spooled"],
        "packets_lost": sum(packets[reason] for reason in LOSSES),
        "bytes_delivered": 7 * records["delivered"],
        "bytes_retried": 0,
        **{f"lost_{reason}": records[reason] for reason in LOSSES},
    }
    assert account.losses() == {
        reason: Booked(records[reason], packets[reason]) for reason in LOSSES if records[reason]
    }


@deterministic
@given(
    tallies=st.lists(
        st.dictionaries(st.integers(1, 4), st.tuples(numbers, numbers, numbers)), max_size=9
    )
)
def test_handed_by_interface(tallies: list[dict[int, tuple[int, int, int]]]) -> None:
    """What came out of the kernel adds up for each interface by itself."""
    handed = Handed()
    for tally in tallies:
        handed.book(tally)
    for interface in range(1, 6):
        mine = [tally[interface] for tally in tallies if interface in tally]
        sums = [sum(column) for column in zip(*mine, strict=True)] or [0, 0, 0]
        assert handed.of(interface) == Amount(*sums)


def test_values_are_columns_of_the_account() -> None:
    """What the ledger says of a sink has the names that the exported account has."""
    assert Account().values().keys() <= SINK_ROWS.schema.layout.offsets.keys()


def test_threads() -> None:
    """Bookings of several threads all count, and nobody ever sees the books out of balance."""
    account = Account()
    one = Booked(1, 2)
    rounds = 2000
    worst = []

    def book() -> None:
        for i in range(rounds):
            account.handed(one)
            if i % 3:
                account.delivered(one, 5)
            else:
                account.lost("memory", one)
            values = account.values()
            worst.append(values["records_queued"])
            assert values["packets_queued"] == 2 * values["records_queued"]

    threads = [threading.Thread(target=book) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 * rounds == len(worst)
    assert min(worst) >= 0
    assert max(worst) <= len(threads)
    assert account.values()["records_queued"] == 0
    assert account.values()["packets_handed"] == 8 * rounds
