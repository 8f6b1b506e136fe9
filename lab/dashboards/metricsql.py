# SPDX-License-Identifier: Apache-2.0
"""MetricsQL over line protocol: VictoriaMetrics, where each field is a metric `measurement_field`.

A sample is what a record said of its interval, so that sums over time are exact.

See: https://docs.victoriametrics.com/victoriametrics/metricsql/
"""

from __future__ import annotations

from lab.dashboards.description import AGENT, DROPS, FLOW, LATENCY, RTT, Board, How, Series, chosen

FIELDS = {
    FLOW: "packets",
    AGENT: "seen_packets",
    DROPS: "count",
    LATENCY: "count",
    RTT: "rtt_count",
}
"""One that every series of the measurement has."""

FUNCTIONS = {
    How.MEAN: "avg{by} (avg_over_time({metric}[$__interval]))",
    How.LARGEST: "max{by} (max_over_time({metric}[$__interval]))",
    How.LATEST: "max{by} (last_over_time({metric}[$__interval]))",
    How.GROWTH: "sum{by} (rate({metric}[$__rate_interval]))",
    How.TOTAL: "topk({top}, sum{by} (sum_over_time({metric}[$__range])))",
    How.RATE: "sum{by} (sum_over_time({metric}[$__interval])) * {scale} / $__interval_ms",
}


def query(series: Series, variables: tuple[str, ...]) -> str:
    """The expression of a series, filtered by the dashboard's variables."""
    return FUNCTIONS[series.how].format(
        by=f" by ({', '.join(series.by)})" if series.by else "",
        metric=f"{series.measurement}_{series.field}{{{matchers(series.chosen(variables))}}}",
        top=series.top,
        scale=series.scale * 1000,
    )


def matchers(labels: dict[str, str]) -> str:
    """Matchers for the values that the person chose: variable by label."""
    return ", ".join(f'{label}=~"${name}"' for label, name in labels.items())


def legend(series: Series) -> str:
    """The legend."""
    tags = " ".join(f"{{{{{tag}}}}}" for tag in series.by)
    return " ".join(filter(None, (tags, series.label)))


def values(board: Board, variable: str) -> str:
    """The values that a variable may have."""
    (label,) = chosen(board.measurement, (variable,))
    return f"label_values({board.measurement}_{FIELDS[board.measurement]}, {label})"


def events(variables: tuple[str, ...]) -> str:
    """How many sequence errors of each kind there were, for annotations."""
    labels = matchers(chosen("vtap_sequence_error", variables))
    metric = f"vtap_sequence_error_distance{{{labels}}}"
    return f"sum by (kind) (count_over_time({metric}[$__interval]))"
