# SPDX-License-Identifier: Apache-2.0
"""vtap-stream scraped as Prometheus does, and read by prometheus-client's own parsers."""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import tap
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
from waiting import wait_for

from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.core import Metric

    from lab.command import VtapStream
    from lab.namespace import Namespace

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
CLASSIC = "text/plain; version=0.0.4"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by name and labels."""


class Answer(NamedTuple):
    """Of one scrape."""

    status: int
    headers: dict[str, str]
    body: bytes


def port_of(command: VtapStream) -> int:
    """Where it says that it is scraped."""
    pattern = r"metrics at http://\S+:(\d+)/metrics\n"
    wait_for(lambda: re.search(pattern, command.said))
    match = re.search(pattern, command.said)
    assert match
    return int(match[1])


def get(namespace: Namespace, port: int, path: str = "/metrics", **headers: str) -> Answer:
    """What is answered to GET; HEADERS by their names with underscores."""
    connection = http.client.HTTPConnection("localhost", port)
    connection.sock = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.sock.settimeout(30)
    connection.sock.connect(("127.0.0.1", port))
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=sent)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return Answer(answer.status, dict(answer.getheaders()), body)


def scrape(namespace: Namespace, port: int) -> Samples:
    """All samples in OpenMetrics; none may be there twice."""
    answer = get(namespace, port, Accept=OPENMETRICS)
    assert answer.status == 200
    return samples(openmetrics.text_string_to_metric_families(answer.body.decode()))


def scrape_classic(namespace: Namespace, port: int) -> Samples:
    """All samples in the classic format; none may be there twice."""
    return samples(parser.text_string_to_metric_families(get(namespace, port).body.decode()))


def samples(metrics: Iterable[Metric]) -> Samples:
    """The samples of METRICS."""
    found: Samples = {}
    for metric in metrics:
        for sample in metric.samples:
            series = sample.name, frozenset(sample.labels.items())
            assert series not in found, series
            found[series] = sample.value
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of the series NAME that have these LABELS."""
    wanted = set(labels.items())
    return sum(v for (n, has), v in found.items() if n == name and wanted <= has)


def ask(namespace: Namespace, port: int, path: str, family: int) -> tuple[int, dict[str, Any]]:
    """What the process answers: status and body."""
    connection = http.client.HTTPConnection("localhost", port)
    connection.sock = namespace.socket(family, socket.SOCK_STREAM)
    connection.sock.settimeout(tap.DEADLINE)
    connection.sock.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    connection.request("GET", path)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body
