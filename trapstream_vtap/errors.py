# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, each with one sentence for the person at the terminal: how, and how often."""


class UsageError(Exception):
    """An argument or option cannot be taken as it is; exit code 2."""


class RunError(Exception):
    """The machine or the network does not let us; exit code 1."""


def printable(text: str) -> str:
    r"""TEXT with everything that is not printed shown as an escape, such as `\x1b`, on one line.

    Sentences hold words of others: answers of collectors, names of files and interfaces. What is
    not printed (controls, directions of writing, separators other than the space, bytes that are no
    UTF-8) could move a terminal's cursor or forge a line of a log.

    See: ECMA-48; Unicode Standard Annex 9, section 2
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def worth_saying(count: int) -> bool:
    """Whether what happens for the COUNTth time is: a power of two, so ever more rarely."""
    return count & (count - 1) == 0
