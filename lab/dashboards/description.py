# SPDX-License-Identifier: Apache-2.0
"""The terms that dashboards are described in, in no query language."""

from __future__ import annotations

import enum
from dataclasses import dataclass

FLOW = "vtap_flow"
AGENT = "vtap_agent"
DROPS = "DroppedPackets"
LATENCY = "vtap_latency"
RTT = "vtap_rtt"

TAGS: dict[str, dict[str, str | None]] = {
    FLOW: {},
    AGENT: {"interface": None, "protocol": None},
    DROPS: {"device": "deviceIP", "interface": "ingressPort", "protocol": None},
}
"""What a variable's tag is called in a measurement, if not like itself; none: there is none."""


class How(enum.Enum):
    """How the records of a step of the chart become one value."""

    RATE = "rate"  # amounts of intervals: their sum, per second
    TOTAL = "total"  # amounts of intervals: their sum over the whole range of the dashboard
    MEAN = "mean"  # mean of the records' values
    LARGEST = "largest"  # largest of the records' values
    GROWTH = "growth"  # a counter since the start: what it grew by, per second
    LATEST = "latest"  # the last value
    PERCENTILE = "percentile"  # of a histogram of all values: what 99 in 100 are not above
    BUCKETS = "buckets"  # of such a histogram: how many values fell into each of its buckets


class Kind(enum.Enum):
    """How a panel shows its series."""

    LINES = "lines"
    STACKED = "stacked"
    NUMBER = "number"
    TABLE = "table"
    STATE = "state"  # up or down
    HEAT = "heat"  # the buckets of a histogram over time, the fuller the brighter


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time, or for `TOTAL` one value for the whole range.

    Attributes:
        label: Its name in the legend.
        field: Of the measurement.
        how: What is made of the field.
        by: Tags; a series for each combination of their values.
        scale: Factor of every value.
        measurement: Where the field is.
        top: Keep only that many, the largest; only of totals. 0: all.
        only: Names of the data sources that have it; none: all of them.
    """

    label: str
    field: str
    how: How = How.RATE
    by: tuple[str, ...] = ()
    scale: int = 1
    measurement: str = FLOW
    top: int = 0
    only: tuple[str, ...] = ()

    def chosen(self, variables: tuple[str, ...]) -> dict[str, str]:
        """The tags that VARIABLES choose values of: variable by tag."""
        return chosen(self.measurement, variables)


def chosen(measurement: str, variables: tuple[str, ...]) -> dict[str, str]:
    """The tags of a measurement that VARIABLES choose values of: variable by tag."""
    names = TAGS.get(measurement, {})
    return {tag: name for name in variables if (tag := names.get(name, name))}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        title: Its heading.
        doc: What it shows, and why it may be empty.
        unit: Grafana's name of the unit.
        series: What is in it; each is a query.
        kind: How it is drawn.
        width: Of 24 columns.
        alarm: From this value on it is drawn red.
        each: A variable; there is a chart of its own for each value that is chosen of it.
    """

    title: str
    doc: str
    unit: str
    series: tuple[Series, ...]
    kind: Kind = Kind.LINES
    width: int = 12
    alarm: float | None = None
    each: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard.

    Attributes:
        name: Of its file, ahead of the data source's.
        title: Its heading.
        doc: What it is for.
        variables: Tags that the person chooses values of.
        rows: The panels.
        measurement: Where the values of its variables are found.
        annotated: Whether sequence errors are marked in all its charts.
    """

    name: str
    title: str
    doc: str
    variables: tuple[str, ...]
    rows: tuple[Row, ...]
    measurement: str = FLOW
    annotated: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
