# SPDX-License-Identifier: Apache-2.0
"""PromQL over what `--metrics` serves: Prometheus, and whatever else scrapes it.

Metrics have no label `device`: a device is an `instance`, as Prometheus names what it scrapes.

See: docs/metrics.md, https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

from lab.dashboards.boards import ERRORS, EXITS
from lab.dashboards.description import AGENT, DROPS, FLOW, LATENCY, RTT, Board, How, Series
from lab.dashboards.metricsql import legend, matchers
from trapstream_vtap.ledger import LOSSES

LABELS = {
    "device": "instance",
    "deviceIP": "instance",
    "dropReason": "reason",
    "dropType": "type",
    "ingressPort": "interface",
}
"""Labels that are not called as the tags."""

_PER_FLOW = {"src_ip", "src_port", "dst_ip", "dst_port"}

_AMOUNTS = {
    "packets": ("packets_total", {}),
    "bytes": ("bytes_total", {}),
    "payload_bytes": ("payload_bytes_total", {}),
    "seq_errors": ("sequence_errors_total", {}),
    **{f"seq_{kind}": ("sequence_errors_total", {"kind": kind}) for kind in ERRORS},
    "loss_ratio": ("loss_ratio", {}),
    "iat_mean_ms": ("interarrival_mean_seconds", {}),
    "jitter_ms": ("jitter_seconds", {}),
}
"""Of a flow's field: the metric behind `vtap_flow_` and `vtap_protocol_`, and labels to match."""

_OWN = {
    "count": ("vtap_dropped_packets_total", {}),
    "seen_packets": ("vtap_agent_seen_packets_total", {}),
    "evicted_packets": ("vtap_agent_evicted_packets_total", {}),
    "ring_full": ("vtap_agent_ring_full_total", {}),
    "records_handed": ("vtap_sink_handed_records_total", {}),
    "records_delivered": ("vtap_sink_delivered_records_total", {}),
    "records_retried": ("vtap_sink_retried_records_total", {}),
    "records_queued": ("vtap_sink_queued_records", {}),
    "records_spooled": ("vtap_sink_spooled_records", {}),
    "bytes_queued": ("vtap_sink_queued_bytes", {}),
    "bytes_spooled": ("vtap_sink_spooled_bytes", {}),
    "oldest_age_ms": ("vtap_sink_oldest_age_seconds", {}),
    "up": ("vtap_sink_up", {}),
    **{
        f"{name}_packets": ("vtap_agent_uncounted_packets_total", {"reason": name})
        for name in EXITS
        if name != "evicted"
    },
    **{f"lost_{name}": ("vtap_sink_lost_records_total", {"reason": name}) for name in LOSSES},
}
"""Of a field of `vtap_agent` or `DroppedPackets`: the metric, and labels to match."""

FUNCTIONS = {
    How.RATE: "sum{by} (rate({metric}[$__rate_interval]))",
    How.GROWTH: "sum{by} (rate({metric}[$__rate_interval]))",
    How.MEAN: "avg{by} ({metric})",
    How.LARGEST: "max{by} ({metric})",
    How.LATEST: "max{by} ({metric})",
    How.BUCKETS: "sum{by} (increase({metric}[$__rate_interval]))",
    How.PERCENTILE: "histogram_quantile(0.99, sum{by} (rate({metric}[$__rate_interval])))",
    How.TOTAL: "topk({top}, sum{by} (increase({metric}[$__range])))",
}


_HISTOGRAMS = {
    LATENCY: ("vtap_receive_latency_seconds", ("interface", "stage", "protocol")),
    RTT: ("vtap_rtt_seconds", ("interface", "side", "protocol")),
}
"""Of measurements that are histograms here: name and labels; no others tell records apart."""
_SAMPLES = ("count", "rtt_count", "")
"""Fields that say how many values there were."""

_OF_BUCKETS = (How.PERCENTILE, How.BUCKETS)
_COUNTED = {How.RATE: "_count", How.BUCKETS: "_bucket"}
"""Of a histogram's metrics, those that are asked for as they are: what they end in."""


def query(series: Series, variables: tuple[str, ...]) -> str | None:
    """The expression of a series, filtered by the dashboard's variables; none: no such metric."""
    metric, matched = _metric(series, variables)
    if not metric:
        return None
    if series.measurement in _HISTOGRAMS and series.how not in _COUNTED:
        return _of_histogram(series, metric, variables)
    chosen = {LABELS.get(tag, tag): name for tag, name in series.chosen(variables).items()}
    fixed = [f'{label}="{value}"' for label, value in matched.items()]
    if _PER_FLOW.intersection(series.by):
        fixed.append('flow!="rest"')  # all the flows that are not shown, in one series
    inside = ", ".join(filter(None, (matchers(chosen), *fixed)))
    tags = (*_labels(series), "le") if series.how in _OF_BUCKETS else _labels(series)
    by = ", ".join(LABELS.get(tag, tag) for tag in tags)
    expression = FUNCTIONS[series.how].format(
        by=f" by ({by})" if by else "", metric=f"{metric}{{{inside}}}", top=series.top
    )
    scale = series.scale * (1000 if series.field.endswith("_ms") else 1)
    return expression if scale == 1 else f"{expression} * {scale}"


def _labels(series: Series) -> tuple[str, ...]:
    """What tells the lines of a series apart, as far as there are such labels."""
    _, there = _HISTOGRAMS.get(series.measurement, ("", series.by))
    return tuple(tag for tag in series.by if tag in (*there, "device"))


def _of_histogram(series: Series, metric: str, variables: tuple[str, ...]) -> str | None:
    """A percentile, as the field's name says which (`p99_ms`), or the mean; in ms."""
    chosen = {LABELS.get(tag, tag): name for tag, name in series.chosen(variables).items()}
    inside, by = matchers(chosen), ", ".join(_labels(series))

    def rate(suffix: str, by: str) -> str:
        return f"sum by ({by}) (rate({metric}_{suffix}{{{inside}}}[$__rate_interval]))"

    name = series.field.removeprefix("rtt_")
    if name == "mean_ms":
        return f"{rate('sum', by)} / {rate('count', by)} * 1000"
    if not name.startswith("p"):
        return None
    share = float(f"0.{name.removeprefix('p').removesuffix('_ms')}")
    return f"histogram_quantile({share}, {rate('bucket', f'{by}, le')}) * 1000"


def _metric(series: Series, variables: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    if series.measurement in _HISTOGRAMS:
        there = series.how not in _COUNTED or series.field in _SAMPLES
        name, _ = _HISTOGRAMS[series.measurement]
        return (name + _COUNTED.get(series.how, "") if there else ""), {}
    if series.measurement in (AGENT, DROPS):
        return _OWN.get(series.field, ("", {}))
    if series.how is How.PERCENTILE:
        return "vtap_interarrival_seconds_bucket", {}
    stem, matched = _AMOUNTS.get(series.field, ("", {}))
    if not stem:
        return "", {}
    single = _PER_FLOW.intersection((*series.by, *variables)) or series.how is How.LARGEST
    return f"vtap_{'flow' if single else 'protocol'}_{stem}", matched


def legend_of(series: Series) -> str:
    """The legend."""
    renamed = tuple(LABELS.get(tag, tag) for tag in _labels(series))
    return legend(Series(series.label, series.field, by=renamed))


def values(board: Board, variable: str) -> str:
    """The values that a variable may have."""
    metric = {
        FLOW: "vtap_flow_packets_total",
        AGENT: "vtap_agent_seen_packets_total",
        DROPS: "vtap_dropped_packets_total",
        LATENCY: "vtap_receive_latency_seconds_count",
        RTT: "vtap_rtt_seconds_count",
    }[board.measurement]
    return f"label_values({metric}, {LABELS.get(variable, variable)})"


def events(variables: tuple[str, ...]) -> str:
    """How many sequence errors of each kind there were, for annotations."""
    chosen = {LABELS.get(name, name): name for name in variables}
    scope = "flow" if _PER_FLOW.intersection(variables) else "protocol"
    metric = f"vtap_{scope}_sequence_errors_total{{{matchers(chosen)}}}"
    return f"sum by (kind) (increase({metric}[$__rate_interval])) > 0"
