# SPDX-License-Identifier: Apache-2.0
"""One virtual machine for all tests of a run: the first that wants it boots it."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from lab.vm import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def vm() -> Iterator[VirtualMachine]:
    """A machine with Debian's kernel 6.1."""
    if platform.machine() != "x86_64":
        pytest.skip(
            "The virtual machine runs this machine's own programs, and its kernel is amd64."
        )
    with VirtualMachine() as machine:
        yield machine
