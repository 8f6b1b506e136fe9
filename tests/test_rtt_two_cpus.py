# SPDX-License-Identifier: Apache-2.0
"""One connection on two processors at the same time: an acknowledgement counts once."""

from __future__ import annotations

import os
from typing import Any

import pytest
import tap
from hammer import ends, hammer
from rttrecords import account, roundtrips, total

from lab.namespace import Namespace, veth

NAME = "wire0"
OPTIONS = ("-i", NAME, "--probe", "rtt", "-t", "0.5")


def hammered(*, in_step: bool) -> tuple[list[int], list[dict[str, Any]]]:
    """How many pieces each has sent, and what was measured where they came in."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("There is one processor only.")
    with Namespace() as beyond, Namespace() as tapped:
        veth(beyond, NAME, tapped, NAME)
        with tap.Tap(tapped, *OPTIONS) as measuring:
            sent = hammer(beyond, NAME, in_step=in_step)
            return sent, measuring.stop()


def adds_up(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The account, in which no probe is missing, and records have what it has."""
    said = account(records)
    assert said["evicted"] == 0
    found = roundtrips(records)
    assert said["samples"] == said["samples_handed"] == total(found, "rtt_count")
    assert said["invalidated"] + said["stretched"] == total(found, "rtt_invalidated")
    return said


def test_what_two_processors_acknowledge_at_once_counts_once() -> None:
    """Each piece of data has one sample, although two acknowledge it at the same moment.

    But for the first: nobody knows whether that had been sent before.
    """
    sent, records = hammered(in_step=True)
    said = adds_up(records)
    assert sent[0] > 1000
    assert sent[0] == sent[1]
    assert said["probes_set"] == said["samples"] == sent[0] - 1
    source, target = ends()
    for record in roundtrips(records):
        assert (record["side"], record["dst_ip"]) == ("remote", target.address)
    assert source.address not in {r["dst_ip"] for r in roundtrips(records)}


def test_two_processors_that_send_as_they_like_lose_no_probe() -> None:
    """Data sent twice, acknowledged before and behind: whatever it is, it adds up."""
    sent, records = hammered(in_step=False)
    said = adds_up(records)
    assert 100 < said["samples"] <= max(sent)  # pieces, of which each may be answered once
