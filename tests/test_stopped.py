# SPDX-License-Identifier: Apache-2.0
"""Real databases that are stopped under load, and go on: kernel buffers of the usual size."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from collector import Load, seen
from traffic import Wire
from waiting import wait_for

from lab.command import VtapStream
from lab.servers import Influxd, VictoriaMetrics

STOPPED_SECONDS = float(os.environ.get("VTAP_STOPPED_SECONDS", "1"))
"""More by hand: VTAP_STOPPED_SECONDS=30 make test PYTEST_ARGS='-s -k stopped_database'."""
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


@pytest.mark.parametrize("kind", [Influx, Victoria])
def test_stopped_database(
    kind: type[Influx | Victoria], capsys: pytest.CaptureFixture[str]
) -> None:
    """A database that is stopped and goes on has every packet in the end, and none was lost."""
    with Wire() as wire, kind(wire.receiver) as database:
        options = ("-i", "wire0", "-t", "0.1", "--sink", database.url)
        with VtapStream(wire.receiver, *options) as command:
            command.wait_until_measuring()
            with Load(wire, FLOWS):
                wait_for(lambda: database.points("vtap_flow", "packets"))
                os.kill(database.pid, signal.SIGSTOP)
                time.sleep(STOPPED_SECONDS)
                os.kill(database.pid, signal.SIGCONT)
                before = len(database.points("vtap_flow", "packets"))
                wait_for(lambda: len(database.points("vtap_flow", "packets")) > before)
            summary = command.stop()
        told = re.fullmatch(
            r"vtap-stream: (\d+) records sent \((\d+) packets\), 0 records lost", summary
        )
        assert told, command.said
        wait_for(lambda: len(database.points("vtap_flow", "packets")) == int(told[1]))
        packets = sum(database.points("vtap_flow", "packets").values())
        assert packets == int(told[2]) == seen(wire)
        worst = {
            name: max(database.points("vtap_agent", name).values())
            for name in ("bytes_queued", "oldest_age_ms", "records_retried")
        }
    with capsys.disabled():
        print(  # noqa: T201 - figures for docs/delivery.md
            f"\n{kind.__name__} stopped for {STOPPED_SECONDS:g} s: {summary}; {worst}"
        )
