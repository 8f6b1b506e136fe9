# SPDX-License-Identifier: Apache-2.0
"""The ledger: what was handed over, sent, lost, and for what reason, per interface.

What is kept: handed over = sent + pending + Σ lost by reason, in records, packets and bytes.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trapstream_vtap._native import Tallies


@dataclass(slots=True)
class Amount:
    """A number of records, with the packets and bytes that they account for."""

    records: int = 0
    packets: int = 0
    bytes: int = 0

    def add(self, other: Amount) -> None:
        """Add OTHER to this."""
        self.records += other.records
        self.packets += other.packets
        self.bytes += other.bytes

    def less(self, other: Amount) -> Amount:
        """What is left of this without OTHER."""
        return Amount(
            self.records - other.records, self.packets - other.packets, self.bytes - other.bytes
        )


class Account:
    """What became of records: an amount per interface (0: all together)."""

    def __init__(self) -> None:
        self.per_interface: dict[int, Amount] = {}

    def book(self, tallies: Mapping[int, tuple[int, int, int]]) -> None:
        """Add what a payload holds."""
        for interface, numbers in tallies.items():
            self.per_interface.setdefault(interface, Amount()).add(Amount(*numbers))

    def of(self, interface: int) -> Amount:
        """The amount of INTERFACE."""
        return self.per_interface.get(interface, Amount())

    @property
    def total(self) -> Amount:
        """The amount of all interfaces."""
        total = Amount()
        for amount in self.per_interface.values():
            total.add(amount)
        return total


class Ledger:
    """Books records of `vtap_flow` from the kernel's hands to the collector's; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handed = Account()
        self._sent = Account()
        self._lost: dict[str, Account] = {}
        self._failed: Counter[int] = Counter()

    def handed(self, tallies: Tallies) -> None:
        """Records came out of the kernel."""
        with self._lock:
            self._handed.book(tallies)

    def sent(self, tallies: Tallies) -> None:
        """The collector's side has taken a payload."""
        with self._lock:
            self._sent.book(tallies)

    def lost(self, reason: str, tallies: Tallies) -> None:
        """Records were given up."""
        with self._lock:
            self._lost.setdefault(reason, Account()).book(tallies)

    def failed(self, tallies: Tallies) -> None:
        """A payload could not be sent at once (it may be later)."""
        with self._lock:
            self._failed.update(tallies.keys())

    def handed_over(self, interface: int) -> Amount:
        """What came out of the kernel of INTERFACE."""
        with self._lock:
            return self._handed.of(interface)

    def values(self, interface: int) -> dict[str, int]:
        """The columns of `vtap_agent` that the ledger knows, for INTERFACE."""
        with self._lock:
            handed, sent = self._handed.of(interface), self._sent.of(interface)
            lost = Amount()
            for account in self._lost.values():
                lost.add(account.of(interface))
            pending = handed.less(sent).less(lost)
            return {
                "summaries_sent": sent.records,
                "summaries_pending": pending.records,
                "summaries_lost": lost.records,
                "packets_sent": sent.packets,
                "packets_pending": pending.packets,
                "packets_lost": lost.packets,
                "payloads_failed": self._failed[interface],
            }

    def totals(self) -> tuple[Amount, Amount, dict[str, Amount]]:
        """Handed over, sent, and lost by reason, of all interfaces together."""
        with self._lock:
            return (
                self._handed.total,
                self._sent.total,
                {reason: account.total for reason, account in self._lost.items()},
            )
