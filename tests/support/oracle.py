# SPDX-License-Identifier: Apache-2.0
"""InfluxDB's own parser of line protocol as a judge: `oracle/lpcheck.go`, built once, fed by pipe.

See: Debian's golang-github-influxdb-influxdb-dev, models/points.go
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from lab.packages import unpacked

_SOURCE = Path(__file__).parents[1] / "oracle" / "lpcheck.go"
_BUILD = Path(__file__).parents[2] / "build" / "oracle"


class Refused(Exception):  # noqa: N818 - it is a verdict
    """InfluxDB does not take the payload; the message is its own."""


@dataclass(frozen=True)
class Point:
    """What InfluxDB understood; the time in ns since the epoch."""

    measurement: str
    tags: dict[str, str]
    fields: dict[str, int | float | str]
    time: int


class Oracle:
    """The running parser; a context manager.

    Raises:
        subprocess.CalledProcessError: It cannot be fetched or built.
    """

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its input

    def parse(self, payload: bytes) -> list[Point]:
        """The points of a payload, which is what a datagram or a request is to InfluxDB.

        Raises:
            Refused: InfluxDB drops the payload.
        """
        assert b"\n\n" not in payload
        assert payload[-1:] == b"\n" != payload[:1]
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(payload + b"\n")
        self._process.stdin.flush()
        verdict = json.loads(self._process.stdout.readline())
        if "error" in verdict:
            raise Refused(verdict["error"])
        return [_point(**point) for point in verdict["points"]]

    @cached_property
    def _program(self) -> Path:
        """The parser, built if it has not been since its source changed."""
        program = _BUILD / "lpcheck"
        _BUILD.mkdir(parents=True, exist_ok=True)
        with (_BUILD / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
                self._build(program)
        return program

    @staticmethod
    def _build(program: Path) -> None:
        package = unpacked("golang-github-influxdb-influxdb-dev")
        subprocess.run(
            ["go", "build", "-o", program, _SOURCE],
            env={
                **os.environ,
                "GO111MODULE": "off",
                "GOPATH": str(package / "usr/share/gocode"),
                "GOFLAGS": "",
                "GOCACHE": str(_BUILD / "cache"),
            },
            check=True,
        )


def _point(
    measurement: str, tags: dict[str, str], fields: dict[str, tuple[str, str]], time: str
) -> Point:
    read = {"integer": int, "float": float, "string": str}
    values = {name: read[kind](value) for name, (kind, value) in fields.items()}
    return Point(measurement, tags, values, int(time))
