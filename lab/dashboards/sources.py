# SPDX-License-Identifier: Apache-2.0
"""The data sources, and how their queries stand in a dashboard's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.dashboards import influxql, metricsql, promql, sql
from lab.dashboards.description import How

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.dashboards.description import Board, Series

Members = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A data source.

    Attributes:
        name: Ending of its dashboards' names.
        title: What a person calls it.
        plugin: Grafana's plugin.
        query: The query of a series, by the dashboard's variables; none: it has no such data.
        target: What a panel's query consists of, from the series and the query.
        values: The query of a variable.
        event: What a query of annotations consists of, from the dashboard's variables.
        all_value: What "All" becomes in a query; none: a list of all values.
        named: Whether a query says how its series are called.
    """

    name: str
    title: str
    plugin: str
    query: Callable[[Series, tuple[str, ...]], str | None]
    target: Callable[[Series, str], Members]
    values: Callable[[Board, str], str | dict[str, object]]
    event: Callable[[tuple[str, ...]], Members]
    all_value: str | None = ".*"
    named: bool = True

    @property
    def uid(self) -> str:
        """The data source's, as provisioned."""
        return f"vtap-{self.name}"


def _influxql_target(series: Series, query: str) -> Members:
    table = series.how is How.TOTAL
    members = {
        "query": query,
        "rawQuery": True,
        "resultFormat": "table" if table else "time_series",
    }
    return members if table else members | {"alias": influxql.legend(series)}


def _sql_target(series: Series, query: str) -> Members:
    table = series.how is How.TOTAL
    return {"rawSql": query, "rawQuery": True, "format": "table" if table else "time_series"}


def _prometheus_target(legend: Callable[[Series], str]) -> Callable[[Series, str], Members]:
    def target(series: Series, query: str) -> Members:
        members: Members = {"expr": query, "editorMode": "code"}
        if series.how is How.TOTAL:
            return members | {"instant": True, "range": False, "format": "table"}
        buckets = series.how is How.BUCKETS
        shown = {"range": True, "instant": False, "format": "heatmap" if buckets else "time_series"}
        name = "{{le}}" if buckets else legend(series) or "__auto"
        return members | shown | {"legendFormat": name}

    return target


def _prometheus_event(events: Callable[[tuple[str, ...]], str]) -> Callable[..., Members]:
    def event(variables: tuple[str, ...]) -> Members:
        return {
            "target": {"expr": events(variables), "interval": "", "refId": "Anno"},
            "titleFormat": "Sequence errors: {{kind}}",
            "tagKeys": "kind",
        }

    return event


SOURCES = (
    Source(
        name="influxql",
        title="InfluxDB (InfluxQL)",
        plugin="influxdb",
        query=influxql.query,
        target=_influxql_target,
        values=influxql.values,
        event=lambda variables: {
            "target": {
                "query": influxql.events(variables),
                "rawQuery": True,
                "textEditor": True,
                "fromAnnotations": True,
                "textColumn": "received",
                "tagsColumn": "kind,src_ip,dst_ip",
                "titleColumn": "kind",
                "refId": "Anno",
            }
        },
    ),
    Source(
        name="sql",
        title="InfluxDB 3 (SQL)",
        plugin="influxdb",
        query=sql.query,
        target=_sql_target,
        values=lambda board, variable: {"query": sql.values(board, variable), "refId": "Values"},
        event=lambda variables: {
            "target": {
                "rawSql": sql.events(variables),
                "rawQuery": True,
                "format": "table",
                "refId": "Anno",
            }
        },
        all_value=None,
        named=False,
    ),
    Source(
        name="victoriametrics",
        title="VictoriaMetrics (line protocol)",
        plugin="prometheus",
        query=metricsql.query,
        target=_prometheus_target(metricsql.legend),
        values=metricsql.values,
        event=_prometheus_event(metricsql.events),
    ),
    Source(
        name="prometheus",
        title="Prometheus",
        plugin="prometheus",
        query=promql.query,
        target=_prometheus_target(promql.legend_of),
        values=promql.values,
        event=_prometheus_event(promql.events),
    ),
)
