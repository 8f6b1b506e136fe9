# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, each with one sentence for the person at the terminal."""


class UsageError(Exception):
    """An argument or option cannot be taken as it is; exit code 2."""


class RunError(Exception):
    """The machine or the network does not let us; exit code 1."""
