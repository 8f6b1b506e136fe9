# SPDX-License-Identifier: Apache-2.0
"""A metric family: name, type, unit, labels and meaning; the reference page is made from them.

Names and units are as OpenMetrics and Prometheus want them: base units, `_total` behind counters.

See: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from dataclasses import dataclass

_UNITS = ("bytes", "seconds", "packets", "records")


@dataclass(frozen=True)
class Family:
    """A metric family.

    Args:
        name: Without the suffix `_total` of a counter.
        kind: `counter`, `gauge`, `histogram` or `info`.
        labels: Beside the labels that Prometheus adds by itself (`instance`, `job`).
        doc: What `# HELP` says.
        when: Where the family is not always there, the option that it is there with.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    doc: str
    when: str = ""

    @property
    def unit(self) -> str:
        """The name's last word, where that is a unit."""
        word = self.name.rpartition("_")[2]
        return word if word in _UNITS else ""

    @property
    def sample(self) -> str:
        """What its samples are called; those of a histogram have suffixes of their own."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")
