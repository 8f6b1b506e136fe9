# SPDX-License-Identifier: Apache-2.0
"""The alert rules: Prometheus's own checker runs them; Grafana's have what it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.servers import promtool

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "grafana" / "alerts"
TESTS = ROOT / "tests" / "alerts.yaml"
GRAFANA = sorted(ALERTS.glob("grafana-*.yaml"))


def read(path: Path) -> list[dict[str, Any]]:
    """The rules of a file, whichever of the two formats it has."""
    (group,) = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize(
    "arguments", [("check", "rules", ALERTS / "prometheus.yaml"), ("test", "rules", TESTS)]
)
def test_prometheus(arguments: tuple[object, ...]) -> None:
    """The rules are valid; on series of `alerts.yaml` they fire when they should, only then."""
    assert promtool(*map(str, arguments), text=b"") == ""


def test_each_is_tested() -> None:
    """Every rule is seen firing, and seen silent."""
    tests = yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    names = {rule["alert"] for rule in read(ALERTS / "prometheus.yaml")}
    assert names == {check["alertname"] for check in checks if check["exp_alerts"]}
    assert names == {check["alertname"] for check in checks if not check["exp_alerts"]}


@pytest.mark.parametrize("path", GRAFANA, ids=lambda path: path.stem)
def test_grafana(path: Path) -> None:
    """A rule asks a provisioned data source, reduces what it gets, and compares it with a limit."""
    source = path.stem.removeprefix("grafana-")
    provisioned = ROOT / "grafana/provisioning/datasources" / f"{source}.yaml"
    (data_source,) = yaml.safe_load(provisioned.read_text(encoding="utf-8"))["datasources"]
    rules = read(path)
    assert len({rule["uid"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        asked, reduced, compared = rule["data"]
        assert asked["datasourceUid"] == data_source["uid"]
        assert asked["relativeTimeRange"]["from"] > asked["relativeTimeRange"]["to"] == 0
        assert [reduced["datasourceUid"], compared["datasourceUid"]] == ["__expr__"] * 2
        assert reduced["model"]["expression"] == asked["refId"]
        assert compared["model"]["expression"] == reduced["refId"]
        assert rule["condition"] == compared["refId"]
        assert len(rule["uid"]) <= 40
    # Grafana puts its environment's variables into the file: a dollar sign is written twice.
    assert not re.search(r"(?<!\$)\$(?!\$)", path.read_text(encoding="utf-8"))


def test_they_are_the_same() -> None:
    """Prometheus's rules and Grafana's have the same names and ask the same."""
    expressions = {rule["alert"]: rule["expr"] for rule in read(ALERTS / "prometheus.yaml")}
    for rule in read(ALERTS / "grafana-prometheus.yaml"):
        ((evaluator,),) = ([c["evaluator"] for c in rule["data"][2]["model"]["conditions"]],)
        (limit,) = evaluator["params"]
        sign = {"gt": ">", "lt": "<"}[evaluator["type"]]
        assert expressions[rule["title"]] == f"{rule['data'][0]['model']['expr']} {sign} {limit:g}"
    names = {rule["title"] for rule in read(ALERTS / "grafana-influxql.yaml")}
    assert names == expressions.keys() - {"VtapDown"}  # what is not there writes nothing
