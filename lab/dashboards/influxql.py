# SPDX-License-Identifier: Apache-2.0
"""InfluxQL: InfluxDB 1.x, and 2.x by its compatible query API.

See: https://docs.influxdata.com/influxdb/v1/query_language/
"""

from __future__ import annotations

from lab.dashboards.description import Board, How, Series, chosen

FUNCTIONS = {
    How.MEAN: "mean({field})",
    How.LARGEST: "max({field})",
    How.LATEST: "last({field})",
    How.GROWTH: "non_negative_derivative(last({field}), 1s)",
}


def query(series: Series, variables: tuple[str, ...]) -> str:
    """The statement of a series, filtered by the dashboard's variables."""
    source = f'FROM "{series.measurement}" WHERE {_where(series.chosen(variables))}'
    tags = ", ".join(f'"{tag}"' for tag in series.by)
    if series.how is How.TOTAL:
        inner = f'SELECT sum("{series.field}") AS "sum" {source} GROUP BY {tags}'
        return f'SELECT top("sum", {tags}, {series.top}) AS "{series.label}" FROM ({inner})'
    grouped = ", ".join(filter(None, ("time($__interval)", tags)))
    return f"SELECT {_value(series)} {source} GROUP BY {grouped} fill(null)"


def _value(series: Series) -> str:
    field = f'"{series.field}"'
    if series.how is How.RATE:
        return f"sum({field}) * {series.scale * 1000} / $__interval_ms"
    return FUNCTIONS[series.how].format(field=field)


def _where(tags: dict[str, str]) -> str:
    filters = [f'"{tag}" =~ /^${{{name}:regex}}$/' for tag, name in tags.items()]
    return " AND ".join((*filters, "$timeFilter"))


def legend(series: Series) -> str:
    """The legend."""
    tags = " ".join(f"$tag_{tag}" for tag in series.by)
    return " ".join(filter(None, (tags, series.label)))


def values(board: Board, variable: str) -> str:
    """The values that a variable may have."""
    (tag,) = chosen(board.measurement, (variable,))
    return f'SHOW TAG VALUES FROM "{board.measurement}" WITH KEY = "{tag}"'


def events(variables: tuple[str, ...]) -> str:
    """The sequence errors, for annotations."""
    where = _where(chosen("vtap_sequence_error", variables))
    columns = '"kind", "src_ip", "dst_ip", "expected", "received"'
    return f'SELECT {columns} FROM "vtap_sequence_error" WHERE {where} LIMIT 1000'
