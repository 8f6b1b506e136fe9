# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, each with one sentence for the person at the terminal, and how often."""


class UsageError(Exception):
    """An argument or option cannot be taken as it is; exit code 2."""


class RunError(Exception):
    """The machine or the network does not let us; exit code 1."""


def worth_saying(count: int) -> bool:
    """Whether what happens for the COUNTth time is: a power of two, so ever more rarely."""
    return count & (count - 1) == 0
