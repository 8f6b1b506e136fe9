# SPDX-License-Identifier: Apache-2.0
"""docs/vtap.schema.json: editors and the command agree about what a configuration file may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from trapstream_vtap import cli
from trapstream_vtap.settings.file import without_comments

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "vtap.schema.json").read_text(encoding="utf-8"))
CHECKER = jsonschema.Draft202012Validator(SCHEMA)
EXAMPLES = sorted((ROOT / "conf").glob("*.json"))

GOOD: dict[str, list[Any]] = {
    "RULES": [[], ["- - - 443 tcp"]],
    "DISPLAY": [{"Jitter": False, "SEQ_ERRORS": "True"}],
    "PATTERN": ["0x1A2B3C4D"],
    "OFFSET": [-1, 5000],
    "SEQUENCE_THRESHOLD": [1],
    "LOG_DATA": [True, "False"],
    "MONITOR_SERVER": [True, 9090],
    "interval": [0.1, 1, 3600],
    "key": ["src_ip,dst_ip", ["src_ip"]],
    "sequence_bits": [16, 64],
    "sequence_pattern": ["5EC70123"],
    "metrics": ["127.0.0.1:8080"],
    "format": ["json"],
    "verbose": [True],
    "interface": ["eth*", ["lo", "!eth1"]],
    "probe": [["flows", "drops"], "traps", "drops, traps"],
    "decapsulate": ["vxlan", ["gre", "ipip"], " vxlan ,gre,", ""],
}
BAD: dict[str, list[Any]] = {
    "RULES": ["- - - - -", [5]],
    "DISPLAY": [{"Jitter": 1}, {"Other": True}, []],
    "PATTERN": ["1A2B3C4D", 5, "0x123456789"],
    "OFFSET": [-2, 5001, 1.5, "4"],
    "SEQUENCE_THRESHOLD": [0, "9"],
    "LOG_DATA": ["yes", 1],
    "MONITOR_SERVER": [0, 65536, "8080"],
    "interval": ["1", 0.05, 3601, True],
    "key": [5, [5], "src_ipp", "src_ip dst_ip", ["src_ip", "nothing"]],
    "probe": ["flow", "flows;drops", ["flows", "x"]],
    "decapsulate": ["vxlans", ["vxlan", "vxlans"]],
    "latency_stages": ["stacks", ["ip", "ipv4"]],
    "sequence_bits": [8, "16"],
    "sequence_pattern": [7, "xyz"],
    "format": ["xml", 5],
    "verbose": ["on", 1],
    "interface": [5, [5]],
    "colour": [1],
}


def taken(path: Path, file: dict[str, Any]) -> bool:
    """Whether the command finds nothing wrong with FILE (there is no sink, which it finds last)."""
    path.write_text(json.dumps(file), encoding="utf-8")
    said = CliRunner().invoke(cli.main, ["-c", str(path), "tcp://x", "1"]).output
    return "is a URL: give it behind --sink." in said


def test_schema_is_one() -> None:
    """It is a schema by the rules of the draft, and each key has its meaning."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(each["description"] for each in SCHEMA["properties"].values())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    """The files in conf/ are right."""
    CHECKER.validate(json.loads(without_comments(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("key", GOOD)
def test_what_is_right(tmp_path: Path, key: str) -> None:
    """Both take it."""
    for value in GOOD[key]:
        more = {"sequence_offset": 0} if "pattern" in key.lower() else {}
        file = {key: value, **more}
        assert CHECKER.is_valid(file), value
        assert taken(tmp_path / "vtap.json", file), value


@pytest.mark.parametrize("key", BAD)
def test_what_is_wrong(tmp_path: Path, key: str) -> None:
    """Neither takes it."""
    for value in BAD[key]:
        assert not CHECKER.is_valid({key: value}), value
        assert not taken(tmp_path / "vtap.json", {key: value}), value
