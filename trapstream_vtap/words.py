# SPDX-License-Identifier: Apache-2.0
"""Numbers with their nouns, for a person to read."""


def amount(number: int, noun: str) -> str:
    """NUMBER of what NOUN names one of: `1 record`, `2 records`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
