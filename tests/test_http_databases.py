# SPDX-License-Identifier: Apache-2.0
"""The sink for InfluxDB over HTTP with real databases, and as a person would run it."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import lastline
import pytest
from flowlines import TIME, Handing, booked, line, packets

from lab.command import VtapStream
from lab.namespace import Namespace
from lab.servers import Influxd, VictoriaMetrics
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks.http import HttpSink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

USER = ("tap", "pa55word of the tap")


@pytest.fixture(scope="module")
def influxd() -> Iterator[Influxd]:
    """InfluxDB 1.x that lets anybody write."""
    with Influxd() as server:
        yield server


@pytest.fixture
def database(influxd: Influxd, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    influxd.database = re.sub(r"\W", "_", request.node.name)
    influxd.query(f'CREATE DATABASE "{influxd.database}"')
    return influxd.database


def stored(influxd: Influxd) -> dict[int, tuple[int, int]]:
    """What is in the database: time and packets by flow."""
    return {
        int(series["tags"]["flow"]): (point[0], point[1])
        for series in influxd.query("SELECT packets FROM vtap_flow GROUP BY flow")
        for point in series["values"]
    }


def expected(numbers: Iterable[int]) -> dict[int, tuple[int, int]]:
    """The same, of the lines with these NUMBERS."""
    return {number: (TIME + number, packets(number)) for number in numbers}


def test_influxdb(influxd: Influxd, database: str) -> None:
    """Every record of some large payloads is in the database, with its time."""
    address = parse(f"http://127.0.0.1:{influxd.http_port}?db={database}")
    with Handing(HttpSink(address, None, None)) as handing:
        for first in range(0, 15_000, 5000):
            handing.put(range(first, first + 5000))
        assert handing.account() == (booked(range(15_000)), {})
    assert handing.said == []
    assert expected(range(15_000)) == stored(influxd)


def test_partial_write(influxd: Influxd, database: str) -> None:
    """Lines of another type and lines that are none are refused, the others are in the database."""
    address = parse(f"http://127.0.0.1:{influxd.http_port}?db={database}")
    bad = {0: "1.5", 401: '"x"', 402: "nonsense", 999: "2.5"}
    others = range(3000, 3100)
    with Handing(HttpSink(address, None, None)) as handing:
        handing.put([2000])  # from now on the field is an integer
        handing.put(range(1000), b"".join(line(n, bad.get(n, "")) for n in range(1000)))
        handing.put(others, b"".join(line(n, "0.5") for n in others))
        good = {2000, *range(1000)} - set(bad)
        assert handing.account() == (booked(good), {"refused": booked([*bad, *others])})
    assert expected(good) == stored(influxd)
    assert "refuses 4 records: HTTP 400, partial write: " in handing.said[0]
    assert "refuses 100 records: HTTP 400, partial write: " in handing.said[1]


def test_unknown_database(influxd: Influxd) -> None:
    """Where there is no such database, that is what the person is told."""
    address = parse(f"http://127.0.0.1:{influxd.http_port}?db=nowhere")
    with Handing(HttpSink(address, None, None)) as handing:
        handing.put(range(100))
        assert handing.account() == (booked([]), {"refused": booked(range(100))})
    assert handing.said[0].endswith(
        'HTTP 404, database not found: "nowhere"; make it there, or say another in --sink.'
    )


def test_victoriametrics(tmp_path: Path) -> None:
    """Both interfaces of InfluxDB that VictoriaMetrics has, one behind a prefix.

    To that of 2.x and 3.x goes a token.
    """
    path = tmp_path / "token"
    path.write_text("any")
    with VictoriaMetrics() as server:
        base = f"http://127.0.0.1:{server.http_port}"
        for where, numbers in (
            ("?org=lab&bucket=any", range(3000)),
            ("/influx?db=x", range(3000, 4000)),
        ):
            token = str(path) if "bucket" in where else None
            with Handing(HttpSink(parse(base + where), token, None)) as handing:
                for first in range(numbers[0], numbers[-1] + 1, 1000):
                    handing.put(range(first, first + 1000))
                assert handing.account() == (booked(numbers), {})
            assert handing.said == []
        server.flush()
        series = server.export("vtap_flow_packets")
    found = {int(one["metric"]["flow"]): one["values"] for one in series}
    assert found == {number: [packets(number)] for number in range(4000)}
    assert {one["metric"]["db"] for one in series if "db" in one["metric"]} == {"x"}


@pytest.mark.parametrize("way", ["file", "environment", "wrong"])
def test_command(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command writes to a database with passwords, and shows its own to nobody."""
    secret = ":".join(USER) + ("" if way != "wrong" else "!")
    path = tmp_path / "token"
    path.write_text(secret)
    monkeypatch.delenv("INFLUX_TOKEN", raising=False)
    options = ("--token-file", str(path))
    if way == "environment":
        monkeypatch.setenv("INFLUX_TOKEN", secret)
        options = ()
    with Namespace() as namespace, Influxd(namespace, user=USER) as influxd:
        url = f"http://127.0.0.1:{influxd.http_port}?db={influxd.database}"
        with VtapStream(namespace, "-i", "lo", "--sink", url, *options) as command:
            command.wait_until_measuring()
            with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("127.0.0.1", 0))
                for _ in range(100):
                    sender.sendto(b"x", sender.getsockname())
            shown = Path(f"/proc/{command.pid}/cmdline").read_bytes().decode()
            summary = command.stop(code=3 if way == "wrong" else 0)
        records = json.dumps(influxd.query("SELECT * FROM vtap_agent"))
        found = influxd.query("SELECT COUNT(packets), SUM(packets) FROM vtap_flow")
    for text in (shown, command.said, records):
        assert USER[1] not in text
    said = lastline.read(summary)
    if way == "wrong":
        assert (said.records, said.delivered, records) == (0, 0, "[]")
        assert f"refused {said.lost} (" in said.why
        assert "HTTP 401, authorization failed." in command.said
        return
    assert found[0]["values"] == [[0, said.records, said.delivered]]
    assert said.packets == said.delivered >= 100
    assert said.lost == 0
    assert url in records
