# SPDX-License-Identifier: Apache-2.0
"""Telegraf's configuration files: what they set is known to it, and its JSON parser gets it right.

No Telegraf runs here. `json_v2_metrics` does what its parser does with the settings that the files
use, and InfluxDB's own parser of line protocol says what must come out.

See: Telegraf 1.39, plugins/parsers/json_v2/parser.go
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plans
import pytest
from expected import AGENT, AGENT_COUNTS, INT64_MAX, SHIFT, flow_records
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle, Point

from lab import telegraf
from trapstream_vtap import formats
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.schema import Kind
from trapstream_vtap.settings.core import JSON_LINE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trapstream_vtap.schema import Schema

DIRECTORY = Path(__file__).parent.parent / "telegraf"
FILES = {path.stem: path for path in DIRECTORY.glob("*.conf")}
INPUTS = ["input-influx-tcp", "input-influx-udp", "input-json-tcp", "input-json-udp"]
FLOWS = 65_536  # an interval

KNOWN = {
    "agent": {
        "flush_interval",
        "flush_jitter",
        "metric_batch_size",
        "metric_buffer_limit",
        "omit_hostname",
    },
    "inputs.kafka_consumer": {
        "brokers",
        "consumer_group",
        "data_format",
        "max_processing_time",
        "max_undelivered_messages",
        "offset",
        "topic_regexps",
    },
    "inputs.socket_listener": {
        "data_format",
        "json_v2",
        "keep_alive_period",
        "read_buffer_size",
        "service_address",
    },
    "outputs.influxdb": {"content_encoding", "database", "timeout", "urls"},
    "outputs.influxdb_v2": {
        "bucket",
        "content_encoding",
        "organization",
        "timeout",
        "token",
        "urls",
    },
    "outputs.influxdb_v3": {"content_encoding", "database", "sync", "timeout", "token", "urls"},
    "outputs.kafka": {
        "brokers",
        "compression_codec",
        "data_format",
        "max_retry",
        "required_acks",
        "routing_key",
        "routing_tag",
        "topic",
        "topic_suffix",
    },
}
"""Names as in Telegraf's own files: cmd/telegraf/agent.conf, and sample.conf of each plugin."""

JSON_V2 = {"measurement_name_path", "object"}
JSON_V2_OBJECT = {
    "disable_prepend_keys",
    "excluded_keys",
    "fields",
    "path",
    "tags",
    "timestamp_format",
    "timestamp_key",
}
"""Names as in the `toml` marks of Config and Object in parser.go."""


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """InfluxDB's parser, running."""
    with Oracle() as running:
        yield running


def plugins(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a file, by plugin; every plugin stands there once."""
    with FILES[name].open("rb") as file:
        whole = tomllib.load(file)
    found = {"agent": whole.pop("agent")} if "agent" in whole else {}
    for kind, by_name in whole.items():
        for plugin, tables in by_name.items():
            (found[f"{kind}.{plugin}"],) = tables
    return found


def size(text: str) -> int:
    """Bytes of a size such as 16MiB."""
    return int(text.removesuffix("MiB")) << 20


def test_files() -> None:
    """There is an input for each format and transport, and an output for each database."""
    outputs = {f"output-{name}" for name in ("influxdb1", "influxdb2", "influxdb3", "kafka")}
    assert {"agent", "input-kafka", *INPUTS, *outputs} == FILES.keys()


@pytest.mark.parametrize("name", sorted(FILES))
def test_settings_are_known(name: str) -> None:
    """Plugins and settings are called as Telegraf calls them: it does not start with others."""
    found = plugins(name)
    assert len(found) == 1
    for plugin, values in found.items():
        assert values.keys() <= KNOWN[plugin]
    for parser in found.get("inputs.socket_listener", {}).get("json_v2", ()):
        assert parser.keys() == JSON_V2
        (taken,) = parser["object"]
        assert taken.keys() == JSON_V2_OBJECT


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_setting_says_why(name: str) -> None:
    """Ahead of every setting, or of the settings it stands with, there is a comment."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    if "fields]" in "".join(lines):
        lines = lines[: next(i for i, line in enumerate(lines) if line.endswith("fields]"))]
    paragraphs = "\n".join(lines).split("\n\n")
    for paragraph in paragraphs:
        assert "#" in paragraph or "=" not in paragraph, paragraph


def test_files_combine() -> None:
    """No two inputs listen at the same place, so that any of them may run together."""
    addresses = [plugins(name)["inputs.socket_listener"]["service_address"] for name in INPUTS]
    assert len(set(addresses)) == len(INPUTS)


def test_sizes() -> None:
    """Buffers hold what an interval of 65,536 flows brings, and lines beyond 64 KiB."""
    agent = plugins("agent")["agent"]
    assert agent["metric_buffer_limit"] >= 4 * FLOWS
    assert agent["metric_batch_size"] <= agent["metric_buffer_limit"] // 4
    for name in INPUTS:
        buffer = size(plugins(name)["inputs.socket_listener"]["read_buffer_size"])
        assert buffer > max(1 << 16, JSON_LINE_LIMIT)
    waiting = plugins("input-kafka")["inputs.kafka_consumer"]["max_undelivered_messages"]
    assert agent["metric_batch_size"] < waiting < agent["metric_buffer_limit"]


def json_v2_metrics(settings_: dict[str, Any], payload: bytes) -> list[Point]:
    """What Telegraf's json_v2 makes of a payload, and how each value would be written.

    Numbers become floats unless `fields` says int, which reads the digits themselves.
    """
    (parser,) = settings_["json_v2"]
    (taken,) = parser["object"]
    records = json.loads(payload, parse_int=str, parse_float=str)
    assert parser["measurement_name_path"] == "0.name"  # GJSON: member of the first element
    assert taken["path"] == "@this"  # GJSON: the whole document
    assert taken["timestamp_format"] == "unix_ns"
    assert taken["disable_prepend_keys"]
    measurement = records[0]["name"]
    found = []
    for record in records:
        time = int(record.pop(taken["timestamp_key"]))
        for name in taken["excluded_keys"]:
            record.pop(name)
        tags = {name: record.pop(name) for name in taken["tags"] if name in record}
        read = {"int": int, "float": float}
        values = {n: read[taken["fields"].get(n, "float")](text) for n, text in record.items()}
        found.append(Point(measurement, tags, values, time))
    return found


def both(schema: Schema, batch: bytes, oracle: Oracle, transport: str) -> None:
    """The same records as JSON through json_v2, and as line protocol, are the same points."""
    labels = plans.Labels("192.0.2.1", {1: "eth0", 2: "eth1", 7: "lo", 0xFFFFFFFF: "wlan0"})
    form = formats.JSON if transport == "tcp" else formats.JSON_DATAGRAM

    def rendered(which: formats.Format) -> bytes:
        plan = plans.compile_plan(which, schema, labels, coarse_shift=SHIFT)
        ((payload, _, _),), _ = plan.render(batch, 10**6, 10**9)
        return payload

    listener = plugins(f"input-json-{transport}")["inputs.socket_listener"]
    points = json_v2_metrics(listener, rendered(form))
    expected = oracle.parse(rendered(formats.INFLUX))
    assert points == expected
    for point, judged in zip(points, expected, strict=True):
        for name, value in judged.fields.items():
            assert type(point.fields[name]) is type(value), name


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@settings(derandomize=True, deadline=None, max_examples=50)
@given(flows=st.lists(flow_records(), min_size=1, max_size=3), bits=st.booleans())
def test_flows_as_json(*, oracle: Oracle, transport: str, flows: list[Any], bits: bool) -> None:
    """Records of flows come out as from line protocol: tags, integers, decimals, time in ns."""
    batch = b"".join(flow.packed(KEY_FIELDS) for flow in flows)
    both(flow_schema(KEY_FIELDS, bits=bits), batch, oracle, transport)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(values=st.lists(st.integers(0, INT64_MAX), min_size=AGENT_COUNTS, max_size=AGENT_COUNTS))
def test_agent_as_json(*, oracle: Oracle, transport: str, values: list[int]) -> None:
    """The exporter's own account is exact, beyond what a double holds, too."""
    names = [field.name for field in AGENT.fields if field.kind is Kind.COUNT]
    counts = dict(zip(names, values, strict=True))
    record = AGENT.layout.pack({"interface": 1, "time": 1_700_000_000_123_456_789, **counts})
    both(AGENT, record, oracle, transport)


@pytest.mark.parametrize("path", telegraf.pages(), ids=lambda path: path.name)
def test_json_inputs_are_current(path: Path) -> None:
    """The generated files are what `make docs` would write now."""
    assert path.read_text(encoding="utf-8") == telegraf.pages()[path]
