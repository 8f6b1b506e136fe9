# SPDX-License-Identifier: Apache-2.0
"""Alert rules, described once: for Prometheus, and for Grafana's own alerting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).parents[2] / "grafana" / "alerts"
WINDOW = 300  # s that rates and increases are over
MADE = "# Made by `make docs` from `lab/dashboards/alerts.py`; do not edit.\n"


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that fires while a value is beyond a limit.

    Attributes:
        name: Of the alert.
        summary: One line for a person; `{label}` stands for a label.
        doc: What to do.
        promql: The value.
        above: Fires above the limit, else below it.
        limit: In the unit of `promql`.
        lasting: For how long before it fires.
        severity: `critical` or `warning`.
        influxql: The value from InfluxDB, over the last `WINDOW`; empty: it says nothing of that.
        scale: From the unit of `promql` to that of `influxql`.
        silence: Whether no value at all is an alert.
    """

    name: str
    summary: str
    doc: str
    promql: str
    limit: float
    lasting: str
    severity: str
    influxql: str
    above: bool = True
    scale: int = 1
    silence: bool = False


def _from(select: str, measurement: str, *tags: str) -> str:
    by = ", ".join(f'"{tag}"' for tag in tags)
    return f'SELECT {select} FROM "{measurement}" WHERE $timeFilter GROUP BY {by}'


ALERTS = (
    Alert(
        name="VtapDown",
        summary="{instance} does not answer",
        doc="vtap-stream does not run, or its --metrics cannot be reached.",
        promql='up{job="vtap"}',
        above=False,
        limit=1,
        lasting="1m",
        severity="critical",
        influxql="",
    ),
    Alert(
        name="VtapCollectorDown",
        summary="{sink} cannot be reached",
        doc="Records wait in memory, or on disk with --spool. See docs/delivery.md.",
        promql="min by (instance, sink) (vtap_sink_up)",
        above=False,
        limit=1,
        lasting="1m",
        severity="critical",
        influxql=_from('last("up")', "vtap_agent", "device", "sink"),
        silence=True,
    ),
    Alert(
        name="VtapRecordsLost",
        summary="records for {sink} were lost",
        doc="Each reason has another cure: see docs/accounting.md.",
        promql="sum by (instance, sink, reason) "
        f"(increase(vtap_sink_lost_records_total[{WINDOW}s]))",
        limit=0,
        lasting="0s",
        severity="critical",
        influxql=_from('spread("records_lost")', "vtap_agent", "device", "sink"),
    ),
    Alert(
        name="VtapPacketsLost",
        summary="packets of {interface} are in no record",
        doc="The flow table is too small: --flow-table-size, or fewer fields in --key.",
        promql="sum by (instance, interface) ("
        f"increase(vtap_agent_evicted_packets_total[{WINDOW}s]) + ignoring (reason) "
        f'increase(vtap_agent_uncounted_packets_total{{reason="no_flow"}}[{WINDOW}s]))',
        limit=0,
        lasting="0s",
        severity="critical",
        influxql=_from(
            'spread("evicted_packets") + spread("no_flow_packets")',
            "vtap_agent",
            "device",
            "interface",
        ),
    ),
    Alert(
        name="VtapSequenceErrors",
        summary="sequence errors of {protocol} on {interface}",
        doc="More than one packet a second is missing, late or twice. See docs/sequence.md.",
        promql="sum by (instance, interface, protocol) "
        f"(rate(vtap_protocol_sequence_errors_total[{WINDOW}s]))",
        limit=1,
        lasting="1m",
        severity="warning",
        influxql=_from(
            f'sum("seq_errors") / {WINDOW}', "vtap_flow", "device", "interface", "protocol"
        ),
    ),
    Alert(
        name="VtapLoss",
        summary="loss of {protocol} on {interface}",
        doc="More than 1 % of the numbers (TCP: bytes) expected are missing; choose a limit.",
        promql="max by (instance, interface, protocol) (vtap_protocol_loss_ratio)",
        limit=0.01,
        lasting="1m",
        severity="warning",
        influxql=_from('mean("loss_ratio")', "vtap_flow", "device", "interface", "protocol"),
    ),
    Alert(
        name="VtapJitter",
        summary="jitter of {protocol} on {interface}",
        doc="More than 30 ms, which is where speech begins to suffer; choose your own limit.",
        promql="max by (instance, interface, protocol) (vtap_protocol_jitter_seconds)",
        limit=0.03,
        lasting="1m",
        severity="warning",
        influxql=_from('mean("jitter_ms")', "vtap_flow", "device", "interface", "protocol"),
        scale=1000,
    ),
    Alert(
        name="VtapLatency",
        summary="{protocol} waits at {stage} of {interface}",
        doc="One packet in a hundred took more than 10 ms to get there; choose a limit of yours. "
        "See docs/latency.md for what lies before which stage.",
        promql="histogram_quantile(0.99, sum by (instance, interface, stage, protocol, le) "
        f"(rate(vtap_receive_latency_seconds_bucket[{WINDOW}s])))",
        limit=0.01,
        lasting="1m",
        severity="warning",
        influxql=_from(
            'mean("p99_ms")', "vtap_latency", "device", "interface", "stage", "protocol"
        ),
        scale=1000,
    ),
    Alert(
        name="VtapRoundTrip",
        summary="answers of {protocol} take long ({side} of {interface})",
        doc="One answer in a hundred took more than 300 ms; choose a limit of yours. See "
        "docs/rtt.md for what lies on which side.",
        promql="histogram_quantile(0.99, sum by (instance, interface, side, protocol, le) "
        f"(rate(vtap_rtt_seconds_bucket[{WINDOW}s])))",
        limit=0.3,
        lasting="1m",
        severity="warning",
        influxql=_from('mean("rtt_p99_ms")', "vtap_rtt", "device", "interface", "side", "protocol"),
        scale=1000,
    ),
)


def pages() -> dict[Path, str]:
    """The files of rules: where each belongs, and its text."""
    return {
        DIRECTORY / "prometheus.yaml": _yaml(_prometheus()),
        DIRECTORY / "grafana-prometheus.yaml": _yaml(_grafana("prometheus")),
        DIRECTORY / "grafana-influxql.yaml": _yaml(_grafana("influxql")),
    }


def _yaml(content: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, width=120)
    return f"# SPDX-License-Identifier: Apache-2.0\n{MADE}{text}"


def _prometheus() -> dict[str, Any]:
    rules = [
        {
            "alert": alert.name,
            "expr": f"{alert.promql} {'>' if alert.above else '<'} {alert.limit:g}",
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": _annotations(alert, "$"),
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "vtap", "rules": rules}]}


def _annotations(alert: Alert, dollar: str) -> dict[str, str]:
    summary = alert.summary.replace("{", f"{{{{ {dollar}labels.").replace("}", " }}")
    return {"summary": summary, "description": alert.doc}


def _grafana(source: str) -> dict[str, Any]:
    """For Grafana's directory provisioning/alerting, where a dollar sign is written twice."""
    rules = [
        {
            "uid": f"{alert.name.lower()}-{source}",
            "title": alert.name,
            "condition": "C",
            "data": [
                _query(alert, source),
                _expression("B", {"type": "reduce", "expression": "A", "reducer": "last"}),
                _expression("C", _threshold(alert, source)),
            ],
            "noDataState": "Alerting" if alert.silence else "OK",
            "execErrState": "Error",
            "for": alert.lasting,
            "labels": {"severity": alert.severity},
            "annotations": _annotations(alert, "$$"),
        }
        for alert in ALERTS
        if source == "prometheus" or alert.influxql
    ]
    group = {"orgId": 1, "name": "vtap", "folder": "vtap", "interval": "30s", "rules": rules}
    return {"apiVersion": 1, "groups": [group]}


def _query(alert: Alert, source: str) -> dict[str, Any]:
    model: dict[str, Any] = {"refId": "A", "expr": alert.promql, "instant": True, "range": False}
    if source == "influxql":
        model = {
            "refId": "A",
            "query": alert.influxql.replace("$", "$$"),
            "rawQuery": True,
            "resultFormat": "time_series",
        }
    return {
        "refId": "A",
        "relativeTimeRange": {"from": WINDOW, "to": 0},
        "datasourceUid": f"vtap-{source}",
        "model": model,
    }


def _expression(name: str, model: dict[str, Any]) -> dict[str, Any]:
    return {"refId": name, "datasourceUid": "__expr__", "model": {"refId": name, **model}}


def _threshold(alert: Alert, source: str) -> dict[str, Any]:
    limit = alert.limit * (alert.scale if source == "influxql" else 1)
    evaluator = {"type": "gt" if alert.above else "lt", "params": [limit]}
    return {"type": "threshold", "expression": "B", "conditions": [{"evaluator": evaluator}]}
