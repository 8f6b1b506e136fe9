# SPDX-License-Identifier: Apache-2.0
"""The verifier accepts the program with whatever is asked for about sequence numbers and jitter."""

from __future__ import annotations

import pytest
from configurations import CHOICES, choice
from program import FlowProgram


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_loads(number: int) -> None:
    """Every combination loads, with an Ethernet header and without."""
    program = FlowProgram(choice(number))
    assert len(program.objects.programs) == 3
    program.close()
