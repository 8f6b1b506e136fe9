# SPDX-License-Identifier: Apache-2.0
"""One virtual machine for all tests of a run: the first that wants it boots it."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from lab.guest_kernel import guest_kernel
from lab.vm import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Iterator


def _machine(series: str) -> Iterator[VirtualMachine]:
    if platform.machine() != "x86_64":
        pytest.skip(
            "The virtual machine runs this machine's own programs, and its kernel is amd64."
        )
    with VirtualMachine(guest_kernel(series)) as machine:
        yield machine


@pytest.fixture(scope="session")
def vm() -> Iterator[VirtualMachine]:
    """A machine with Debian's kernel 6.1."""
    yield from _machine("6.1")


@pytest.fixture(scope="module")
def newer() -> Iterator[VirtualMachine]:
    """A machine with kernel 6.12, which is gone again when the tests of a file are over."""
    yield from _machine("6.12")
