# SPDX-License-Identifier: Apache-2.0
"""SQL: InfluxDB 3.x, with the macros of Grafana's data source.

Grafana leaves `$__interval` to its server here, which makes an SQL interval of it, and knows no
`$__interval_ms`: seconds come from `extract`.

See: https://docs.influxdata.com/influxdb3/core/reference/sql/
"""

from __future__ import annotations

from lab.dashboards.description import Board, How, Series, chosen

FUNCTIONS = {
    How.MEAN: "avg({field})",
    How.LARGEST: "max({field})",
    How.LATEST: "last_value({field} ORDER BY time)",
    How.GROWTH: "max({field})",
}
SECONDS = "extract(epoch from $__interval)"


def query(series: Series, variables: tuple[str, ...]) -> str:
    """The statement of a series, filtered by the dashboard's variables."""
    tags = [f'"{tag}"' for tag in series.by]
    where = _where(series.chosen(variables))
    source = f'FROM "{series.measurement}" WHERE {where} AND "{series.field}" IS NOT NULL'
    name = f'"{series.label or series.field}"'
    if series.how is How.TOTAL:
        return (
            f'SELECT {", ".join(tags)}, sum("{series.field}") AS {name} {source} '
            f"GROUP BY {', '.join(tags)} ORDER BY {name} DESC LIMIT {series.top}"
        )
    columns = ["$__dateBin(time) AS time", *tags]
    places = ", ".join(str(place + 1) for place in range(len(columns)))
    head, value = ", ".join(columns), _value(series)
    grouped = f"{source} GROUP BY {places}"
    if series.how is How.GROWTH:
        partition = f"PARTITION BY {', '.join(tags)} " if tags else ""
        before = f"lag(value) OVER ({partition}ORDER BY time)"
        return (
            f"SELECT {', '.join(['time', *tags])}, greatest(value - {before}, 0) / {SECONDS} "
            f"AS {name} FROM (SELECT {head}, {value} AS value {grouped}) ORDER BY time"
        )
    return f"SELECT {head}, {value} AS {name} {grouped} ORDER BY 1"


def _value(series: Series) -> str:
    field = f'"{series.field}"'
    if series.how is How.RATE:
        return f"sum({field}) * {series.scale}.0 / {SECONDS}"
    return FUNCTIONS[series.how].format(field=field)


def _where(tags: dict[str, str]) -> str:
    filters = [f'"{tag}" IN (${{{name}:sqlstring}})' for tag, name in tags.items()]
    return " AND ".join((*filters, "$__timeFilter(time)"))


def values(board: Board, variable: str) -> str:
    """The values that a variable may have."""
    (tag,) = chosen(board.measurement, (variable,))
    return f'SELECT DISTINCT "{tag}" FROM "{board.measurement}" WHERE $__timeFilter(time)'


def events(variables: tuple[str, ...]) -> str:
    """The sequence errors, for annotations."""
    where = _where(chosen("vtap_sequence_error", variables))
    text = "concat(src_ip, ' to ', dst_ip, ': expected ', expected, ', received ', received)"
    return (
        f'SELECT time, "kind" AS title, {text} AS text, "kind" AS tags '
        f'FROM "vtap_sequence_error" WHERE {where} ORDER BY time LIMIT 1000'
    )
