# SPDX-License-Identifier: Apache-2.0
"""What a dashboard's panels show, asked of the real database as Grafana asks.

Works from the dashboard's JSON alone: macros and variables are expanded as Grafana expands them
with "All" chosen.

See: Grafana's documentation of template variables, and of the InfluxDB and Prometheus data sources.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.servers import Influxd, Server

SCRAPE = 1  # s between scrapes, for $__rate_interval


@dataclass(frozen=True, slots=True)
class Range:
    """The time that a dashboard shows: whole seconds since the epoch, and the step of charts."""

    start: int
    end: int
    step: int

    def text(self, second: int) -> str:
        """A time as SQL takes it."""
        return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Question:
    """A query of a dashboard.

    Attributes:
        board: The dashboard's heading.
        panel: The panel's heading; or what else asks.
        target: The query as it stands in the JSON.
    """

    board: str
    panel: str
    target: Mapping[str, Any]

    @property
    def query(self) -> str:
        """Its text, with macros."""
        return str(
            next(self.target[key] for key in ("expr", "rawSql", "query") if key in self.target)
        )

    @property
    def instant(self) -> bool:
        """Whether there is one answer for the whole range."""
        return bool(self.target.get("instant")) or "table" in (
            self.target.get("resultFormat"),
            self.target.get("format"),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the database said: series by their labels, each with its values, oldest first."""

    expanded: str
    series: dict[tuple[tuple[str, str], ...], list[float]]

    @property
    def values(self) -> list[float]:
        """All values."""
        return [value for values in self.series.values() for value in values]


def questions(board: Mapping[str, Any]) -> Iterator[Question]:
    """Every query of a dashboard: of its panels, then of its annotations."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Question(board["title"], panel["title"], target)
    for annotation in board.get("annotations", {}).get("list", ()):
        yield Question(board["title"], f"annotation: {annotation['name']}", annotation["target"])


def influxql(question: Question, window: Range, influxd: Influxd) -> Answer:
    """Ask InfluxDB 1.x."""
    expanded = _replaced(
        question.query,
        {
            r"\$\{\w+:regex\}": ".*",
            r"\$timeFilter": f"time >= {window.start}000ms and time <= {window.end}000ms",
            r"\$__interval_ms": f"{window.step}000",
            r"\$__interval": f"{window.step}s",
        },
    )
    answer: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for series in influxd.query(expanded):
        for row in series["values"]:
            cells = dict(zip(series["columns"], row, strict=True))
            del cells["time"]
            texts = {k: v for k, v in cells.items() if isinstance(v, str)} | series.get("tags", {})
            numbers = [float(v) for v in cells.values() if isinstance(v, int | float)]
            answer.setdefault(tuple(sorted(texts.items())), []).extend(numbers)
    return Answer(expanded, answer)


def prometheus(question: Question, window: Range, server: Server) -> Answer:
    """Ask Prometheus or VictoriaMetrics."""
    expanded = _replaced(
        question.query,
        {
            r"\$__rate_interval": f"{max(window.step + SCRAPE, 4 * SCRAPE)}s",
            r"\$__range": f"{window.end - window.start}s",
            r"\$__interval_ms": f"{window.step}000",
            r"\$__interval": f"{window.step}s",
            r"\$\w+": ".*",
        },
    )
    if question.instant:
        path, times = "query", {"time": window.end}
    else:
        path = "query_range"
        times = {"start": window.start, "end": window.end, "step": window.step}
    arguments = urllib.parse.urlencode({"query": expanded} | times)
    data = json.loads(server.http("GET", f"/api/v1/{path}?{arguments}"))["data"]["result"]
    return Answer(
        expanded,
        {
            tuple(sorted(series["metric"].items())): [
                float(value)
                for _, value in series.get("values", [series.get("value")])
                if value != "NaN"
            ]
            for series in data
        },
    )


def sql(text: str, window: Range, values: Mapping[str, Sequence[str]]) -> str:
    """A statement for InfluxDB 3, macros expanded; VALUES are all that there are, by variable."""
    listed = {
        rf"\$\{{{name}:sqlstring\}}": ", ".join(f"'{each}'" for each in all_of)
        for name, all_of in values.items()
    }
    step = f"interval '{window.step} second'"
    origin = "timestamp '1970-01-01T00:00:00Z'"
    return _replaced(
        text,
        listed
        | {
            r"\$__timeFilter\((\w+)\)": rf"\1 >= '{window.text(window.start)}' AND "
            rf"\1 <= '{window.text(window.end)}'",
            r"\$__dateBin\((\w+)\)": rf"date_bin({step}, \1, {origin})",
            r"\$__interval\b": step,
        },
    )


def _replaced(text: str, macros: Mapping[str, str]) -> str:
    for pattern, value in macros.items():
        text = re.sub(pattern, value, text)
    return text
