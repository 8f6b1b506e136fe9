# SPDX-License-Identifier: Apache-2.0
"""The dashboards' JSON, by Grafana's own builders: `make docs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from grafana_foundation_sdk.builders import common as look
from grafana_foundation_sdk.builders import dashboard, heatmap, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat

from lab.dashboards.boards import BOARDS
from lab.dashboards.description import Kind
from lab.dashboards.sources import SOURCES

if TYPE_CHECKING:
    from lab.dashboards.description import Board, Panel
    from lab.dashboards.sources import Source

DIRECTORY = Path(__file__).parents[2] / "grafana" / "dashboards"
ALL = "$__all"
TAG = "vtap"
HEIGHT = 8  # grid units
REFERENCES = "ABCDEFGH"  # of a panel's queries
LABELS = {
    "device": "device",
    "interface": "interface",
    "direction": "direction",
    "protocol": "protocol",
    "src_ip": "source",
    "dst_ip": "destination",
    "stage": "stage",
    "side": "side",
}

_OF_INTERVALS = {"auto", "auto_count", "auto_min"}
"""What the builder gives every variable, and the schema those of another kind only."""

AnyPanel = timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel


class Query(Dataquery, Builder["Query"]):
    """A query of any data source: its members, as they stand in the JSON."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def build(self) -> Self:
        """Itself."""
        return self

    def to_json(self) -> dict[str, Any]:
        """Its members."""
        return self._members


def pages() -> dict[Path, str]:
    """Every dashboard: where it belongs, and its text."""
    return {
        DIRECTORY / source.name / f"{board.name}.json": _text(_board(board, source))
        for source in SOURCES
        for board in BOARDS
    }


def _text(board: dict[str, Any]) -> str:
    return json.dumps(board, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _board(board: Board, source: Source) -> dict[str, Any]:
    built = (
        dashboard.Dashboard(f"{board.title} ({source.title})")
        .uid(_uid(board.name, source))
        .description(board.doc)
        .tags([TAG, source.name])
        .time("now-15m", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("vtap")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG, source.name])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for name in board.variables:
        built.with_variable(_variable(board, name, source))
    for row in board.rows:
        asked = [(panel, _queries(panel, board, source)) for panel in row.panels]
        shown = [_panel(panel, queries, source) for panel, queries in asked if queries]
        if shown:
            built.with_row(dashboard.Row(row.title))
        for each in shown:
            built.with_panel(each)
    for number, placed in enumerate(built.build().panels or (), start=1):
        placed.id_val = number
    if board.annotated:
        built.annotation(
            dashboard.AnnotationQuery()
            .name("Sequence errors")
            .datasource(_reference(source))
            .enable(True)
            .icon_color("orange")
        )
    return _finished(json.loads(json.dumps(built.build(), cls=JSONEncoder)), board, source)


def _finished(whole: dict[str, Any], board: Board, source: Source) -> dict[str, Any]:
    """What the builders have no words for, and without what they say too much."""
    for shown in whole["panels"]:
        shown.get("options", {}).pop("footer", None)  # newer tables have none, older need none
    for variable in whole["templating"]["list"]:
        for name in _OF_INTERVALS & variable.keys():
            del variable[name]
    for annotation in whole["annotations"]["list"] if board.annotated else ():
        # The builder knows the targets of Grafana's own annotations only.
        members = source.event(board.variables)
        target = {"limit": 1000, "matchAny": False, "tags": [], "type": "dashboard"}
        annotation |= members | {"target": target | members["target"]}  # noqa: PLW2901
    return whole


def _uid(name: str, source: Source) -> str:
    return f"vtap-{name}-{source.name}"


def _reference(source: Source) -> model.DataSourceRef:
    return model.DataSourceRef(type_val=source.plugin, uid=source.uid)


def _variable(board: Board, name: str, source: Source) -> dashboard.QueryVariable:
    built = (
        dashboard.QueryVariable(name)
        .label(LABELS[name])
        .datasource(_reference(source))
        .query(source.values(board, name))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text=["All"], value=[ALL]))
    )
    return built.all_value(source.all_value) if source.all_value else built


def _queries(panel: Panel, board: Board, source: Source) -> list[Query]:
    """The queries of a panel, without those for which the source has nothing."""
    texts = [
        (series, source.query(series, board.variables))
        for series in panel.series
        if not series.only or source.name in series.only
    ]
    return [
        Query(
            {
                "refId": reference,
                "datasource": {"type": source.plugin, "uid": source.uid},
                **source.target(series, text),
            }
        )
        for reference, (series, text) in zip(REFERENCES, texts, strict=False)
        if text
    ]


def _panel(panel: Panel, queries: list[Query], source: Source) -> AnyPanel:
    built: AnyPanel
    if panel.kind is Kind.TABLE:
        built = _table(panel, source)
    elif panel.kind is Kind.STATE:
        built = _state(panel, source)
    elif panel.kind is Kind.HEAT:
        built = _heat(panel)
    else:
        built = _lines(panel, source)
    for query in queries:
        built.with_target(query)
    if panel.each:
        built.repeat(panel.each).repeat_direction("h").max_per_row(2)
    return (
        built.title(panel.title)
        .description(panel.doc)
        .datasource(_reference(source))
        .unit(panel.unit)
        .no_value("no data: see the panel's description")
        .height(HEIGHT)
        .span(panel.width)
    )


def _lines(panel: Panel, source: Source) -> timeseries.Panel:
    stacked = panel.kind is Kind.STACKED
    built = (
        timeseries.Panel()
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 10)
        .legend(
            look.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs(["mean", "max", "lastNotNull"])
        )
        .tooltip(
            look.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if stacked:
        built.stacking(look.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.alarm is not None:
        built.thresholds(_steps(("green", None), ("red", panel.alarm)))
        built.thresholds_style(
            look.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.LINE)
        )
    if not source.named and panel.series[0].by:
        tags = " ".join(f"${{__field.labels.{tag}}}" for tag in panel.series[0].by)
        several = len(panel.series) > 1
        built.display_name(f"{tags} ${{__field.name}}" if several else tags)
    return built


def _state(panel: Panel, source: Source) -> stat.Panel:
    states = {
        "0": model.ValueMappingResult(text="down", color="red", index=0),
        "1": model.ValueMappingResult(text="up", color="green", index=1),
    }
    built = (
        stat.Panel()
        .mappings([model.ValueMap(options=states)])
        .thresholds(_steps(("red", None), ("green", 1)))
        .color_mode(common.BigValueColorMode.BACKGROUND)
        .graph_mode(common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
        .reduce_options(look.ReduceDataOptions().values(False).calcs(["lastNotNull"]))
    )
    if not source.named:
        built.display_name(" ".join(f"${{__field.labels.{tag}}}" for tag in panel.series[0].by))
    return built


def _heat(panel: Panel) -> heatmap.Panel:
    """Buckets as the data source has them: their upper bounds are the rows."""
    return (
        heatmap.Panel()
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heat.HeatmapColorMode.SCHEME)
            .scheme("Turbo")
            .scale(heat.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .fill("dark-orange")
            .steps(64)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))  # empty buckets are left dark
        .y_axis(heatmap.YAxisConfig().unit(panel.unit).axis_placement(common.AxisPlacement.LEFT))
        .cell_gap(1)
        .show_legend()
        .mode(common.TooltipDisplayMode.SINGLE)
    )


def _table(panel: Panel, source: Source) -> table.Panel:
    (series,) = panel.series
    names = {"Value": series.label, **{f"Value #{name}": series.label for name in REFERENCES}}
    built = (
        table.Panel()
        .show_header(True)
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True, "time": True}, "renameByName": names},
            )
        )
    )
    if "src_ip" in series.by:
        chosen = "&".join(f"var-{name}=${{__data.fields.{name}}}" for name in ("src_ip", "dst_ip"))
        link = {
            "title": "This flow",
            "url": f"/d/{_uid('flow', source)}?${{__url_time_range}}&{chosen}",
        }
        for name in ("src_ip", "dst_ip"):
            built.override_by_name(name, [model.DynamicConfigValue("links", [link])])
    return built


def _steps(*steps: tuple[str, float | None]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for color, value in steps])
    )
