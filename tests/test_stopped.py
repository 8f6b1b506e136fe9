# SPDX-License-Identifier: Apache-2.0
"""Real databases that are stopped under load, and go on: kernel buffers of the usual size."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

from collector import Load, seen
from traffic import Wire
from waiting import wait_for

from lab.command import VtapStream
from lab.servers import Influxd, VictoriaMetrics

if TYPE_CHECKING:
    import pytest

STOPPED_SECONDS = float(os.environ.get("VTAP_STOPPED_SECONDS", "1"))
"""More by hand: VTAP_STOPPED_SECONDS=30 make test PYTEST_ARGS='-s -k stopped_databases'."""
FLOWS = 200

Points = dict[tuple[object, ...], float]
"""Values by series and time: what comes twice is there once."""


class Influx(Influxd):
    """InfluxDB, which answers each request."""

    @property
    def url(self) -> str:
        """As a sink."""
        return f"http://{self.host}:{self.http_port}?db={self.database}"

    def points(self, measurement: str, field: str) -> Points:
        """What it holds."""
        return {
            (*series["tags"].values(), time): value
            for series in self.query(f"SELECT {field} FROM {measurement} GROUP BY *")  # noqa: S608
            for time, value in series["values"]
        }


class Victoria(VictoriaMetrics):
    """VictoriaMetrics, of which only its kernel answers."""

    @property
    def url(self) -> str:
        """As a sink."""
        return f"tcp://{self.host}:{self.tcp_port}"

    def points(self, measurement: str, field: str) -> Points:
        """What it holds."""
        self.flush()
        return {
            (*series["metric"].values(), time): value
            for series in self.export(f'{{__name__="{measurement}_{field}"}}')
            for time, value in zip(series["timestamps"], series["values"], strict=True)
        }


Database = Influx | Victoria


def until(database: Database, count: int) -> None:
    """Wait until it has so many records of flows."""
    wait_for(lambda: len(database.points("vtap_flow", "packets")) >= count)


def test_stopped_databases(capsys: pytest.CaptureFixture[str]) -> None:
    """Databases that are stopped and go on have every packet in the end, and none was lost."""
    with Wire() as wire, Influx(wire.receiver) as influx, Victoria(wire.receiver) as victoria:
        databases: tuple[Database, ...] = (influx, victoria)
        sinks = ("--sink", influx.url, "--sink", victoria.url)
        with VtapStream(wire.receiver, "-i", "wire0", "-t", "0.1", *sinks) as command:
            command.wait_until_measuring()
            with Load(wire, FLOWS):
                for database in databases:
                    until(database, 1)
                for database in databases:
                    os.kill(database.pid, signal.SIGSTOP)
                time.sleep(STOPPED_SECONDS)
                for database in databases:
                    os.kill(database.pid, signal.SIGCONT)
                for database in databases:
                    until(database, len(database.points("vtap_flow", "packets")) + 1)
            command.stop()
        for database in databases:
            told = re.search(
                r"(\d+) records sent \((\d+) packets\), 0 records lost "
                rf"\({re.escape(database.url)}\)[;\n]",
                command.said,
            )
            assert told, command.said
            until(database, int(told[1]))
            points = database.points("vtap_flow", "packets")
            assert len(points) == int(told[1])
            assert sum(points.values()) == int(told[2]) == seen(wire)
            worst = {
                name: max(
                    value
                    for point, value in database.points("vtap_agent", name).items()
                    if database.url in point
                )
                for name in ("bytes_queued", "oldest_age_ms", "records_retried")
            }
            with capsys.disabled():
                print(  # noqa: T201 - figures for docs/delivery.md
                    f"\nstopped for {STOPPED_SECONDS:g} s: {told[0].strip()}: {worst}"
                )
