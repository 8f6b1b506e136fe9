# SPDX-License-Identifier: Apache-2.0
"""What `make docs` makes from the code: reference pages, dashboards, Telegraf's JSON inputs."""

from pathlib import Path

import click

from lab import jsonschema, telegraf
from lab.dashboards import alerts, build
from trapstream_vtap.cli import main as command
from trapstream_vtap.clock import NS
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.metrics.exporter import INFO, families_of
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.probes.drops.account import ROWS
from trapstream_vtap.probes.drops.records import TRAP_TAGS, drop_schema
from trapstream_vtap.probes.flows.account import rows
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.probes.flows.records import event_schema, flow_schema
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.schema import Field, Role, Schema
from trapstream_vtap.settings import schema

DOCS = Path(__file__).parent.parent / "docs"
MADE = "<!-- Made by `make docs` from {}; do not edit. -->"


def pages() -> dict[Path, str]:
    """Every generated file: where it belongs, and its text."""
    reference = {
        DOCS / "fields.md": fields(),
        DOCS / "metrics.md": metrics(),
        DOCS / "records.schema.json": jsonschema.text(),
        DOCS / "options.md": options(),
        DOCS / "vtap.schema.json": schema.text(),
    }
    return reference | telegraf.pages() | build.pages() | alerts.pages()


def fields() -> str:
    """What is exported, measurement by measurement."""
    return "\n".join(
        (
            MADE.format("`trapstream_vtap/records.py`"),
            "# Measurements, tags and fields",
            "",
            "In line protocol tags are tags and fields are fields; in JSON both are members of",
            "one flat object, tags as strings, beside `name` (the measurement) and `timestamp`",
            "(ns, integer); `DroppedPackets` has a shape of its own. Counts are integers;",
            "everything with a unit of time or a rate is a decimal number, rounded half up: rates",
            "to 6 places, ms to 9 (`iat_min_ms` and `iat_max_ms` are whole nanoseconds).",
            "",
            "[records.schema.json](records.schema.json) says the same of JSON to programs (JSON",
            "Schema). JavaScript and jq 1.6 read numbers as doubles: of an integer above 2⁵³, so",
            "of `timestamp`, they lose the last digits. `--timestamp rfc3339` makes it a",
            "string, `2026-01-02T03:04:05.123456789Z`.",
            "",
            _measurement(
                flow_schema(
                    KEY_FIELDS,
                    sequence=True,
                    deviation=True,
                    smoothed=True,
                    jitter=JitterInterval.LONGER,
                )
            ),
            "Of the tags from `dst_ip` to `vlan` exactly those stand in a record that `--key`",
            "names. With `--bits` the rates are `throughput_bits_per_second` and",
            "`goodput_bits_per_second`. `iat_deviation_ms` is there with `--expected-gap`,",
            "`jitter_rfc3550_ms` with `--smoothed-jitter`, `jitter_interval_s` where",
            "`--jitter-interval` differs from `--interval` (if it is the shorter one, counts,",
            "rates and `seq_` are in the records that end a measuring interval), the fields that",
            "begin with `seq_`, and `loss_ratio`, where sequence numbers are checked",
            "(`--sequence`, `--sequence-offset`); what they mean exactly:",
            "[sequence.md](sequence.md), [jitter.md](jitter.md).",
            "",
            _measurement(event_schema(KEY_FIELDS)),
            _dropped(drop_schema()),
            _measurement(rows(events=True).schema),
            "The counts of events are there where sequence numbers are checked.",
            "",
            _measurement(ROWS.schema),
            _measurement(SINK_ROWS.schema),
            "",
        )
    )


def _measurement(schema: Schema) -> str:
    rows = [f"## `{schema.measurement}`", "", schema.doc, ""]
    rows += ["| name | kind | unit | meaning |", "|---|---|---|---|"]
    for field in schema.fields:
        name = "time / `timestamp`" if field.role is Role.TIME else f"`{field.name}`"
        rows.append(f"| {name} | {field.role.value} | {field.unit} | {field.doc} |")
    return "\n".join((*rows, ""))


EVERYTHING = FlowSettings(
    sinks=(),
    interfaces=(),
    device=None,
    key=KEY_FIELDS,
    sequence=True,
    expected_gap=0,
    smoothed_jitter=True,
    jitter_interval=2 * NS,
)
"""FlowSettings with which everything is measured that can be."""


def all_families() -> dict[Family, None]:
    """Every metric family, in the order in which they are exposed."""
    collected = (f for probe in REGISTRY for f in probe.collector(EVERYTHING).families)
    accounts = (*(probe.rows(EVERYTHING) for probe in REGISTRY), SINK_ROWS)
    return dict.fromkeys((INFO, *collected, *(f for one in accounts for f in families_of(one))))


def metrics() -> str:
    """What Prometheus scrapes, family by family."""
    rows = [
        MADE.format("`trapstream_vtap/probes/`"),
        "# Metrics",
        "",
        "What `--metrics` serves; what it means, and queries: [prometheus.md](prometheus.md).",
        "`key`: a label for each field of `--key` that the flow has, named and written as in",
        "[fields.md](fields.md). The histogram has the usual `_bucket`, `_sum` and `_count`.",
        "",
        "| name | type | labels | meaning | only with |",
        "|---|---|---|---|---|",
    ]
    for family in all_families():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        when = f"`{family.when}`" if family.when else ""
        rows.append(f"| `{family.sample}` | {family.kind} | {labels} | {family.doc} | {when} |")
    return "\n".join((*rows, ""))


def _dropped(schema: Schema) -> str:
    """The one measurement that is nested in JSON; tags depend on an option."""
    rows = [f"## `{schema.measurement}`", "", schema.doc]
    rows += ["With `--probe drops` and `--probe traps`; more in [drops.md](drops.md).", ""]
    rows += ["| in line protocol | in JSON | kind | unit | meaning |", "|---|---|---|---|---|"]
    for field in schema.fields:
        name = "time" if field.role is Role.TIME else f"`{field.name}`"
        place = "" if field.role is Role.TIME else f"`{'.'.join(field.path)}`"
        cells = (name, place, _role(field), field.unit, field.doc)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join((*rows, ""))


def _role(field: Field) -> str:
    """What FIELD is in line protocol, by the choice of `--trap-tags`."""
    if field.role is Role.VALUE and field.name in TRAP_TAGS["full"]:
        return "field; tag with `--trap-tags full`"
    return field.role.value


def options() -> str:
    """Every option of the command."""
    rows = [
        MADE.format("the declarations of the options"),
        "# Options",
        "",
        "`vtap-stream [OPTIONS] COLLECTOR_IP COLLECTOR_PORT` (IPv4, IPv6 or a host name)",
        "",
        "Each option may stand in the [configuration file](rules.md), under its long name with",
        "underscores; [vtap.schema.json](vtap.schema.json) tells editors which there are.",
    ]
    room = ""
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        following = getattr(option, "room", room)
        if following != room:
            room = following
            heading = "For every run" if room == "Options" else room
            rows += ["", f"## {heading}", "", "| option | meaning | default |", "|---|---|---|"]
        names = ", ".join(f"`{name}`" for name in option.opts)
        value = "" if option.is_flag else f" `{option.metavar or _choices(option)}`"
        text, _, default = (option.help or "").partition("  [default: ")
        shown = default.rstrip("]") or ("" if option.is_flag else str(option.default))
        rows.append(f"| {names}{value} | {text} | {shown} |")
    return "\n".join((*rows, ""))


def _choices(option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return "\\|".join(str(choice) for choice in kind.choices)
    return kind.name


def main() -> None:
    """Write them."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
