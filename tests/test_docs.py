# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.packages import unpacked
from lab.reference import pages
from lab.servers import promtool
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.probes.flows.account import rows
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.records import flow_schema

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_reference_is_current(path: Path) -> None:
    """The generated pages are what `make docs` would write now."""
    assert path.read_text(encoding="utf-8") == pages()[path]


def test_readme_lines_have_the_fields() -> None:
    """The captured lines in the README name exactly the fields that records have."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    schemas = (flow_schema(), rows(events=False).schema, SINK_ROWS.schema)
    lines = re.findall(r"^vtap_\w+,.*$", readme, re.MULTILINE)
    for schema, line in zip(schemas, lines, strict=True):
        head, values, _ = line.split(" ")
        names = [pair.partition("=")[0] for pair in (head + "," + values).split(",")[1:]]
        assert names == [field.name for field in schema.fields[:-1]]
    (array,) = re.findall(r'^\[\{"name":"vtap_flow".*\]$', readme, re.MULTILINE)
    names = re.findall(r'"(\w+)":', array)
    assert names == ["name", *[f.name for f in flow_schema().fields[:-1]], "timestamp"]


def test_links() -> None:
    """Every relative link in the documentation leads to a file."""
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_prometheus_configuration(tmp_path: Path) -> None:
    """The line that docs/prometheus.md adds to Debian's configuration makes a valid one."""
    page = (ROOT / "docs" / "prometheus.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^echo '(.*)' >>/etc/prometheus/prometheus.yml ", page, re.MULTILINE)
    plain = (unpacked("prometheus") / "etc/prometheus/prometheus.yml").read_text()
    path = tmp_path / "prometheus.yml"
    path.write_text(f"{plain}{line}\n")
    assert promtool("check", "config", str(path), text=b"") == ""
    path.write_text(f"{plain}{line[1:]}\n")
    assert promtool("check", "config", str(path), text=b"") != ""


def test_key_fields_are_documented() -> None:
    """Every key field stands in the page of fields."""
    text = (ROOT / "docs" / "fields.md").read_text(encoding="utf-8")
    for name in KEY_FIELDS:
        assert f"| `{name}` | tag |" in text
