# SPDX-License-Identifier: Apache-2.0
"""What `make docs` makes from the code: reference pages, dashboards, Telegraf's JSON inputs."""

import textwrap
from pathlib import Path

import click

from lab import jsonschema, telegraf, typed
from lab.dashboards import alerts, build
from lab.everything import accounts, schemas, settings_of
from trapstream_vtap.cli import main as command
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.metrics.exporter import INFO, families_of
from trapstream_vtap.metrics.family import Family
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.probes.drops.records import TRAP_TAGS
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
        DOCS.parent / "trapstream_vtap" / "typed.py": typed.text(),
        DOCS / "vtap.schema.json": schema.text(),
    }
    return reference | telegraf.pages() | build.pages() | alerts.pages()


def fields() -> str:
    """What is exported, measurement by measurement."""
    return "\n".join(
        (
            MADE.format("the declarations of the probes"),
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
            *(_dropped(s) if _nested(s) else _measurement(s) for s in schemas()),
            *(_measurement(rows.schema) for rows in accounts()),
            _measurement(SINK_ROWS.schema),
            "",
        )
    )


def _nested(schema: Schema) -> bool:
    return any(field.path for field in schema.fields)


def _remarks(schema: Schema) -> list[str]:
    lines = textwrap.wrap(schema.remarks, 88, break_on_hyphens=False)
    return ["", *lines] if lines else []


def _measurement(schema: Schema) -> str:
    rows = [f"## `{schema.measurement}`", "", schema.doc, ""]
    rows += ["| name | kind | unit | meaning |", "|---|---|---|---|"]
    for field in schema.fields:
        name = "time / `timestamp`" if field.role is Role.TIME else f"`{field.name}`"
        rows.append(f"| {name} | {field.role.value} | {field.unit} | {field.doc} |")
    return "\n".join((*rows, *_remarks(schema), ""))


def all_families() -> dict[Family, None]:
    """Every metric family, in the order in which they are exposed."""
    collected = (f for p in REGISTRY for f in p.collector(settings_of(p)).families)
    counted = (family for one in (*accounts(), SINK_ROWS) for family in families_of(one))
    return dict.fromkeys((INFO, *collected, *counted))


def metrics() -> str:
    """What Prometheus scrapes, family by family."""
    rows = [
        MADE.format("the declarations of the probes"),
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
    rows = [f"## `{schema.measurement}`", "", schema.doc, ""]
    rows += ["| in line protocol | in JSON | kind | unit | meaning |", "|---|---|---|---|---|"]
    for field in schema.fields:
        name = "time" if field.role is Role.TIME else f"`{field.name}`"
        place = "" if field.role is Role.TIME else f"`{'.'.join(field.path)}`"
        cells = (name, place, _role(field), field.unit, field.doc)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join((*rows, *_remarks(schema), ""))


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
    listed = [param for param in command.params if isinstance(param, click.Option)]
    for option in sorted(listed, key=lambda each: _room(each) != _CORE):
        following = _room(option)
        if following != room:
            room = following
            heading = "For every run" if room == _CORE else room
            rows += ["", f"## {heading}", "", "| option | meaning | default |", "|---|---|---|"]
        names = ", ".join(f"`{name}`" for name in option.opts)
        value = "" if option.is_flag else f" `{_metavar(option)}`"
        text, _, default = (option.help or "").partition("  [default: ")
        shown = default.rstrip("]") or ("" if option.is_flag else str(option.default))
        rows.append(f"| {names}{value} | {text} | {shown} |")
    return "\n".join((*rows, ""))


_CORE = "Options"


def _room(option: click.Option) -> str:
    room: str = getattr(option, "room", _CORE)
    return room


def _metavar(option: click.Option) -> str:
    """As a table takes it."""
    return (option.metavar or _choices(option)).replace("|", "\\|")


def _choices(option: click.Option) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return "|".join(str(choice) for choice in kind.choices)
    return kind.name


def main() -> None:
    """Write them."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
