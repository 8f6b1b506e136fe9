# SPDX-License-Identifier: Apache-2.0
"""The verifier accepts the program with whatever is asked for about sequence numbers and jitter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from program import FlowProgram, settings

from trapstream_vtap.clock import NS
from trapstream_vtap.probes.flows.settings import LONGEST_STOP_GAP, MOST_OFFSET

if TYPE_CHECKING:
    from trapstream_vtap.probes.flows.settings import FlowSettings

KEYS = ((), ("protocol",), ("src_ip", "dst_port", "vlan"))
ALL = {"expected_gap": 20_000_000, "smoothed_jitter": True}
RULES = ("10.0.0.0/8 [192.0.2.1,2001:db8::/32] - 1-9 [udp,tcp]", "- - 5000 - -")
CHOICES = (
    {"sequence": True},
    {"sequence": True, "tcp_sequence": "packet", "smoothed_jitter": True},
    {"offset": 0, "max_events": 0, **ALL},
    {"offset": 4096, "tcp_sequence": "packet"},
    {"offset": MOST_OFFSET, "sequence_threshold": (1 << 31) - 1, **ALL},
    {"offset": 8, "pattern": 0, "tcp_sequence": "packet", "max_events": 1_000_000},
    {"offset": 0, "pattern": 0xFFFFFFFF, "sequence_threshold": 1, **ALL},
    {"offset": MOST_OFFSET, "pattern": 0x00FF00FF, "stop_gap": LONGEST_STOP_GAP * NS},
    {"offset": 2, "sequence_bits": 16, "tcp_sequence": "packet", "rules": RULES, **ALL},
    {"offset": 8, "sequence_bits": 64, "sequence_order": "little", "pattern": 7, "rules": RULES},
    {"stop_gap": 1_000_000, "expected_gap": 0, "smoothed_jitter": True},
    {"jitter_interval": NS, "offset": 0, "pattern": 0xFFFFFFFF, "rules": RULES, **ALL},
    {"jitter_interval": 7200 * NS, "offset": 4096, "rules": RULES, **ALL},
    {"jitter_interval": 7200 * NS, "sequence": True, "tcp_sequence": "packet"},
)


def choice(number: int) -> FlowSettings:
    """One of them, with an Ethernet header and without, in a direction: they are alike."""
    direction = ("ingress", "egress")[number // 2 % 2]
    return settings(key=KEYS[number % len(KEYS)], direction=direction, **CHOICES[number])


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_loads(number: int) -> None:
    """Every combination loads, with an Ethernet header and without."""
    program = FlowProgram(choice(number))
    assert len(program.objects.programs) == 3
    program.close()
