# SPDX-License-Identifier: Apache-2.0
"""The dashboards are such as Grafana takes, and every panel gets data from the real database.

One vtap-stream measures real traffic for three databases at once (`lab.demo`); each query of each
dashboard is asked of them with macros and variables expanded as Grafana does.
"""

from __future__ import annotations

import itertools
import json
import re
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from grafanatypes import PANELS, schemas

from lab.dashboards import ask
from lab.demo import DATABASES, STEPS, V4, V6, Lab, Shown, report
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent / "grafana"
FILES = sorted(ROOT.glob("dashboards/*/*.json"))
ASKED = [f for f in FILES if f.parent.name in DATABASES]
SECONDS = 5
THRESHOLD = 100  # --sequence-threshold

DRAFT = jsonschema.Draft7Validator

TEXTS = {"expr", "query"}
"""The member of a query that holds its text."""

TARGET_MEMBERS = {"limit", "matchAny", "tags", "type"}
"""Of an annotation's target, what is not the data source's own."""


def read(path: Path) -> dict[str, Any]:
    """A dashboard."""
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return board


def name(path: Path) -> str:
    """What a test is called by."""
    return f"{path.parent.name}-{path.stem}"


every_board = pytest.mark.parametrize("path", FILES, ids=name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Databases with some seconds of traffic in them."""
    with Lab() as running:
        running.drive(SECONDS)
        yield running


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels, without rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_there_are_all() -> None:
    """Each data source has the same dashboards."""
    boards = ["agent", "drops", "flow", "latency", "rtt", "traffic"]
    sources = ["influxql", "prometheus", "sql", "victoriametrics"]
    assert [(source, board) for source in sources for board in boards] == [
        (path.parent.name, path.stem) for path in FILES
    ]


@every_board
def test_schema(path: Path) -> None:
    """The JSON is valid by the types that Grafana publishes, options of panels included."""
    board = read(path)
    for annotation in board.get("annotations", {}).get("list", ()):
        own = annotation["target"].keys() - TARGET_MEMBERS
        for member in own:
            del annotation["target"][member]
        for member in {"titleFormat", "tagKeys"} & annotation.keys():  # Prometheus's
            del annotation[member]

    jsonschema.validate(board, {"$ref": "#/definitions/Dashboard", "definitions": schemas()}, DRAFT)
    for panel in panels(board):
        assert panel["type"] in PANELS
        reference = {"$ref": f"#/definitions/{panel['type']}Options", "definitions": schemas()}
        jsonschema.validate(panel["options"], reference, DRAFT)


@every_board
def test_a_person_can_read_it(path: Path) -> None:
    """Every panel has a unit, says what it shows and why it may be empty, and has a legend."""
    board = read(path)
    assert board["uid"] == f"vtap-{path.stem}-{path.parent.name}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"]
        assert "description" in defaults["noValue"]
        assert re.search(r"Empty:|A gap:", panel["description"])
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["displayMode"] == "table"
            for target in panel["targets"]:
                legend = target.get("alias") or target.get("legendFormat")
                by_labels = "__field" in defaults.get("displayName", "")
                assert legend or by_labels or '" FROM ' in target["rawSql"]


@every_board
def test_what_it_refers_to_is_there(path: Path) -> None:
    """The data source is provisioned, and the dashboards that links lead to are there."""
    board = read(path)
    (source,) = provisioned(ROOT / "provisioning/datasources" / f"{path.parent.name}.yaml")
    text = path.read_text(encoding="utf-8")
    assert {source["uid"]} == set(re.findall(r'"uid": "(vtap-[a-z]+)"', text))
    assert {source["type"]} == {
        panel["datasource"]["type"] for panel in (*panels(board), *board["templating"]["list"])
    }
    known = {read(other)["uid"] for other in FILES}
    assert set(re.findall(r"/d/([a-z-]+)\?", text)) <= known
    (link,) = board["links"]
    assert set(link["tags"]) == set(board["tags"])
    assert link["includeVars"]
    assert link["keepTime"]


def test_traffic_leads_to_the_flow() -> None:
    """From the top talkers a click leads to the flow, with its addresses chosen."""
    for path in FILES:
        if path.stem == "traffic":
            text = path.read_text(encoding="utf-8")
            assert f"/d/vtap-flow-{path.parent.name}?${{__url_time_range}}&var-src_ip=" in text


def provisioned(path: Path) -> list[dict[str, Any]]:
    """The data sources of a file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["apiVersion"] == 1
    sources: list[dict[str, Any]] = content["datasources"]
    return sources


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("provisioning/datasources/*")), ids=lambda p: p.stem
)
def test_data_sources(path: Path) -> None:
    """A data source has what Grafana needs, is on this machine, and holds no secret."""
    (source,) = provisioned(path)
    known = {"name", "uid", "type", "access", "url", "user", "editable", "jsonData"}
    assert source.keys() <= known | {"secureJsonData"}
    assert known - {"user"} <= source.keys()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", source["url"])
    for secret in source.get("secureJsonData", {}).values():
        assert re.fullmatch(r"\$\{[A-Z0-9_]+\}", secret)


def test_dashboard_provider() -> None:
    """The provider reads files."""
    path = ROOT / "provisioning/dashboards/vtap.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content.keys() == {"apiVersion", "providers"}
    (provider,) = content["providers"]
    assert provider["type"] == "file"
    assert provider["options"].keys() == {"path", "foldersFromFilesStructure"}


def test_steps() -> None:
    """A data source says how short a step may be: panels do not, so that it holds for all."""
    for path in ROOT.glob("provisioning/datasources/*.yaml"):
        (source,) = provisioned(path)
        assert re.fullmatch(r"\d+s", source["jsonData"]["timeInterval"])
    assert not [path for path in FILES for panel in panels(read(path)) if "interval" in panel]


@pytest.mark.parametrize("path", ASKED, ids=name)
def test_panels_have_data(path: Path, lab: Lab) -> None:
    """Every query of the dashboard, annotations included, returns values."""
    found = list(ask.questions(read(path)))
    assert len(found) >= 4
    for question in found:
        answer = lab.answer(path.parent.name, question)
        assert answer.values, f"{question.panel}: {answer.expanded}"
        assert not re.search(r"\$[\w{]", answer.expanded)


def answers(lab: Lab, source: str, board: str, panel: str) -> list[ask.Answer]:
    """What the queries of one panel return."""
    path = ROOT / "dashboards" / source / f"{board}.json"
    chosen = [question for question in ask.questions(read(path)) if question.panel == panel]
    assert chosen
    return [lab.answer(source, question) for question in chosen]


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_rates_add_up(source: str, lab: Lab) -> None:
    """The area under the throughput, in total and by protocol, is what the senders sent."""
    sent = sum(flow.bytes for flow in lab.sent)
    by_protocol: Counter[str] = Counter()
    for flow in lab.sent:
        by_protocol[flow.protocol] += flow.bytes

    throughput, goodput = answers(lab, source, "traffic", "Throughput and goodput")
    (apart,) = answers(lab, source, "traffic", "Throughput by protocol")

    assert sum(throughput.values) * lab.window.step / 8 == sent
    assert 0 < sum(goodput.values) < sum(throughput.values)
    assert by_protocol == {
        dict(labels)["protocol"]: sum(values) * lab.window.step / 8
        for labels, values in apart.series.items()
    }


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_top_talkers(source: str, lab: Lab) -> None:
    """The table has every flow with the bytes that its sender sent."""
    (table,) = answers(lab, source, "traffic", "Top talkers")
    found = {
        tuple(dict(labels)[tag] for tag in ("src_ip", "src_port", "dst_ip", "dst_port")): values
        for labels, values in table.series.items()
    }
    assert found == {
        (flow.src_ip, str(flow.src_port), flow.dst_ip, str(flow.dst_port)): [flow.bytes]
        for flow in lab.sent
    }


def errors(packets: int) -> int:
    """How many of so many numbered packets are an error, by their distance to the one before."""
    steps = (STEPS * (packets // len(STEPS) + 1))[1:packets]
    assert {step > THRESHOLD for step in steps} == {True, False}
    return sum(step != 1 for step in steps)


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_sequence_errors(source: str, lab: Lab) -> None:
    """The table has each numbered flow with the errors that were sent in it."""
    (table,) = answers(lab, source, "traffic", "Flows with most sequence errors")
    found = {
        dict(labels)["src_port"]: values
        for labels, values in table.series.items()
        if dict(labels)["protocol"] == "udp"
    }
    assert found == {
        str(flow.src_port): [0 if flow is lab.refused else errors(flow.packets)]
        for flow in lab.sent
        if flow.protocol == "udp"
    }


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_drops(source: str, lab: Lab) -> None:
    """The table has every packet to a closed port, under a reason of its own."""
    (table,) = answers(lab, source, "drops", "Reasons")
    assert [lab.refused.packets] in table.series.values()


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_receive_latency(source: str, lab: Lab) -> None:
    """What was sent by UDP has been measured where the stack begins.

    All of it, but for what the kernel shows to no program (docs/latency.md).
    """
    (packets,) = answers(lab, source, "latency", "Packets")
    (found,) = (
        values
        for labels, values in packets.series.items()
        if dict(labels) == {"stage": "stack", "protocol": "udp"}
    )
    sent = sum(flow.packets for flow in lab.sent if flow.protocol == "udp")
    assert 0.97 * sent <= sum(found) * lab.window.step <= sent


@pytest.mark.parametrize("source", ["influxql", "victoriametrics"])
def test_round_trip_times(source: str, lab: Lab) -> None:
    """Both connections that were made have times, towards this machine and back."""
    (found,) = answers(lab, source, "rtt", "Mean")
    ends = {dict(labels)["dst_ip"] for labels in found.series if ("side", "local") in labels}
    assert ends == {V4[1], V6[1]}
    assert all(value > 0 for values in found.series.values() for value in values)


def test_heat_map(lab: Lab) -> None:
    """Rows are the buckets of the histogram, from the least to all; each stage has its own map."""
    (found,) = answers(lab, "prometheus", "latency", "Heat map: $stage")
    bounds = {float(dict(labels)["le"]): sum(values) for labels, values in found.series.items()}
    assert {tuple(dict(labels)) for labels in found.series} == {("le",)}
    upto = [bounds[bound] for bound in sorted(bounds)]
    # Prometheus guesses what lies between scrapes, for each bucket by itself
    assert all(more >= 0.98 * less for less, more in itertools.pairwise(upto))
    assert upto[-1] > 0
    for path in FILES:
        board = read(path)
        names = {variable["name"] for variable in board["templating"]["list"]}
        repeated = [panel["repeat"] for panel in panels(board) if "repeat" in panel]
        assert set(repeated) <= names
        assert bool(repeated) == (
            path.parent.name == "prometheus" and path.stem in ("latency", "rtt")
        )


@pytest.mark.parametrize("source", ["influxql", "prometheus"])
def test_alerts_have_data(source: str, lab: Lab) -> None:
    """Every query of Grafana's alert rules returns values."""
    content = yaml.safe_load((ROOT / f"alerts/grafana-{source}.yaml").read_text(encoding="utf-8"))
    (group,) = content["groups"]
    assert len(group["rules"]) >= 5
    for rule in group["rules"]:
        model = {k: v.replace("$$", "$") for k, v in rule["data"][0]["model"].items() if k in TEXTS}
        answer = lab.answer(source, ask.Question("alerts", rule["title"], model))
        assert answer.values, f"{rule['title']}: {answer.expanded}"


@pytest.mark.parametrize("path", ASKED, ids=name)
def test_variables(path: Path, lab: Lab) -> None:
    """Every variable finds values to choose from."""
    for variable in read(path)["templating"]["list"]:
        query = variable["query"]
        if path.parent.name == "influxql":
            found = [row[1] for series in lab.influxd.query(query) for row in series["values"]]
        else:
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
            assert match
            server = lab.prometheus if path.parent.name == "prometheus" else lab.victoria
            metric, label = match.groups()
            arguments = urllib.parse.urlencode({"match[]": metric, "start": lab.window.start})
            data = json.loads(server.http("GET", f"/api/v1/label/{label}/values?{arguments}"))
            found = data["data"]
        assert found, query


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo fails when a query returns nothing, and when there is none; it says which."""
    question = ask.Question("board", "panel", {"query": "SELECT"})
    full = Shown(question, ask.Answer("SELECT 1", {(("a", "b"),): [1.0, 2.5]}))
    empty = Shown(question, ask.Answer("SELECT 0", {(("a", "b"),): []}))

    assert [report([full]), report([full, empty]), report([])] == [0, 1, 1]

    said = capsys.readouterr().out
    assert "1 series, latest 2.5\n      SELECT 1" in said
    assert "NOTHING\n      SELECT 0" in said
    assert "1 of 2 queries return data." in said


def metrics() -> dict[str, set[str]]:
    """The labels of every metric, from the reference page."""
    page = (ROOT.parent / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(vtap_\w+)` \| \w+ \| ([^|]*)\|", page, re.MULTILINE)
    found = {metric: set(re.findall(r"`(\w+)`", labels)) for metric, labels in rows}
    for name in ("vtap_interarrival_seconds", "vtap_receive_latency_seconds", "vtap_rtt_seconds"):
        found[f"{name}_bucket"] = found[name] | {"le"}
        found[f"{name}_sum"] = found[f"{name}_count"] = found[name]
    for labels in found.values():
        labels.update({"instance"}, {"flow", *KEY_FIELDS} if "key" in labels else ())
    return found


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "prometheus"], ids=name)
def test_metrics_are_known(path: Path) -> None:
    """Expressions for Prometheus name metrics and labels that there are, those of drops, too."""
    known = metrics()
    for question in ask.questions(read(path)):
        named = re.findall(r"vtap_\w+", question.query)
        grouped = re.findall(r"by \(([^)]*)\)", question.query)
        braces = re.findall(r"\{([^}]*)\}", question.query)
        assert named
        labels = {label for group in grouped for label in group.split(", ")}
        labels |= {label for each in braces for label in re.findall(r"(\w+)[!=]?[=~]\"", each)}
        for metric in named:
            assert labels <= known[metric], question.query


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "sql"], ids=name)
def test_sql_expands(path: Path) -> None:
    """No macro of a statement for InfluxDB 3 is one that its data source does not know."""
    board = read(path)
    window = ask.Range(1_700_000_000, 1_700_000_600, 5)
    values = {variable["name"]: ["a", "b"] for variable in board["templating"]["list"]}
    found = list(ask.questions(board))
    assert len(found) >= 4
    for question in found:
        expanded = ask.sql(question.query, window, values)
        assert "$" not in expanded
        assert "time >= '2023-11-14T22:13:20Z' AND time <= '2023-11-14T22:23:20Z'" in expanded
