# SPDX-License-Identifier: Apache-2.0
"""Shows the dashboards at work: real traffic, one vtap-stream, three real databases, all panels.

Every query of every dashboard is asked of the database that it is for, as Grafana would ask. Exits
0 only if each returns data.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lab import traffic
from lab.command import VtapStream
from lab.dashboards.ask import Answer, Question, Range, influxql, prometheus, questions
from lab.dashboards.build import DIRECTORY
from lab.namespace import Namespace, veth
from lab.run import guarded
from lab.servers import Influxd, Prometheus, VictoriaMetrics, free_ports
from lab.traffic import Pace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.traffic import Sent

SECONDS = 20
DEADLINE = 20.0  # seconds for the last packets to be in all databases
PAYLOAD = (64, 200, 512, 1000, 1400)  # bytes, in turn
STEPS = (*(1,) * 19, 0, *(1,) * 19, 4, *(1,) * 19, 300, *(1,) * 19, -2, *(1,) * 20)
"""Of datagrams' numbers: in a hundred a duplicate, a small error, a big one, and one backwards."""
DATABASES = ("influxql", "victoriametrics", "prometheus")  # InfluxDB 3 is not to be had here
V4 = ("10.0.1.1", "10.0.1.2")
V6 = ("fd00:1::1", "fd00:1::2")
IFNAME = "demo0"


@dataclass(frozen=True, slots=True)
class Shown:
    """A question, and what the database answered."""

    question: Question
    answer: Answer


class Lab:
    """Two namespaces, three databases, and one vtap-stream that feeds them all.

    Attributes:
        arguments: What vtap-stream was started with.
        sent: The flows, once driven.
        refused: The one of them that goes to a closed port, so that the kernel drops it.
        said: Its last line, once driven.
        window: The time that the dashboards show, once driven.
    """

    arguments: tuple[str, ...]
    sent: list[Sent]
    refused: Sent
    said: str
    window: Range

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._sender = stack.enter_context(Namespace())
            self._tap = stack.enter_context(Namespace())
            veth(self._sender, "sender0", self._tap, IFNAME, ipv4=V4, ipv6=V6)
            self.influxd = stack.enter_context(Influxd(self._tap))
            self.victoria = stack.enter_context(VictoriaMetrics(self._tap))
            host = self.influxd.host
            (port,) = free_ports(self._tap, 1)
            self.arguments = (
                *("-i", IFNAME, "--sequence-offset", "0", "--metrics", f"{host}:{port}"),
                *("--probe", "flows,drops,latency,rtt"),
                *("--sink", f"http://{host}:{self.influxd.http_port}?db=vtap"),
                *("--sink", f"tcp://{host}:{self.victoria.tcp_port}"),
            )
            self._command = stack.enter_context(VtapStream(self._tap, *self.arguments))
            self._command.wait_until_measuring()
            self.prometheus = stack.enter_context(Prometheus([f"{host}:{port}"], self._tap))
            self._wait(self._scraped, "Prometheus scrapes nothing")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def drive(self, seconds: int) -> None:
        """Sends for so long, ends when all databases have every packet.

        Raises:
            RuntimeError: They do not get it in time.
        """
        start = int(time.time())
        stop = threading.Event()

        def pace(rate: int, steps: tuple[int, ...] = ()) -> Pace:
            return Pace(rate * seconds, rate, PAYLOAD, stop, steps)

        sender, tap = self._sender, self._tap
        with ThreadPoolExecutor(5) as threads:
            try:
                flows = [
                    threads.submit(traffic.udp, sender, tap, *V4, pace(400, STEPS)),
                    threads.submit(traffic.udp, sender, tap, *V6, pace(300, STEPS)),
                    threads.submit(traffic.tcp, sender, tap, *V4, pace(200)),
                    threads.submit(traffic.tcp, sender, tap, *V6, pace(100)),
                    threads.submit(traffic.udp, sender, tap, *V4, pace(20, (1,)), closed=True),
                ]
                self.sent = [flow.result() for flow in flows]
                self.refused = self.sent[-1]
            finally:
                stop.set()
        self._wait(self._arrived, "the databases do not have every packet")
        self.window = Range(start, int(time.time()), 1)
        self.said = self._command.stop()
        # VictoriaMetrics shows no points of the last second, but repeats those before them.
        self._wait(lambda: time.time() > self.window.end + 2, "the clock stands still")

    def ask(self) -> Iterator[Shown]:
        """Every query of every dashboard for which there is a database here, and its answer."""
        for source in DATABASES:
            for path in sorted((DIRECTORY / source).glob("*.json")):
                board = json.loads(path.read_text(encoding="utf-8"))
                for question in questions(board):
                    yield Shown(question, self.answer(source, question))

    def answer(self, source: str, question: Question) -> Answer:
        """What the database of a data source answers."""
        if source == "influxql":
            return influxql(question, self.window, self.influxd)
        server = self.prometheus if source == "prometheus" else self.victoria
        return prometheus(question, self.window, server)

    def _scraped(self) -> bool:
        return bool(self._sum(self.prometheus, "up"))

    def _arrived(self) -> bool:
        whole = sum(flow.packets for flow in self.sent)
        series = self.influxd.query('SELECT sum("packets") FROM "vtap_flow"')
        self.victoria.flush()
        now = int(time.time()) + 1
        return (
            whole
            == (series[0]["values"][0][1] if series else 0)
            == self._sum(self.victoria, "sum(sum_over_time(vtap_flow_packets[1h]))", now)
            == self._sum(self.prometheus, "sum(vtap_protocol_packets_total)", now)
        )

    def _sum(self, server: VictoriaMetrics | Prometheus, query: str, now: int = 0) -> float:
        question = Question("", "", {"expr": query, "instant": True})
        window = Range(0, now or int(time.time()) + 1, 1)
        return sum(prometheus(question, window, server).values)

    def _wait(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{otherwise}:\n{self._command.said}")
            time.sleep(0.2)


def main() -> int:
    """Runs the show and returns the exit code."""
    with Lab() as lab:
        print("vtap-stream", *lab.arguments, flush=True)
        lab.drive(SECONDS)
        print(lab.said)
        return report(list(lab.ask()))


def report(shown: list[Shown]) -> int:
    """Prints every query and what it got; returns 0 if each got something, else 1."""
    board = ""
    for each in shown:
        if board != each.question.board:
            board = each.question.board
            print(f"\n{board}\n")
        values = each.answer.values
        count = len(each.answer.series)
        got = f"{count} series, latest {_latest(each.answer)}" if values else "NOTHING"
        print(f"  {each.question.panel:34}  {got}\n      {each.answer.expanded}")
    empty = sum(not each.answer.values for each in shown)
    print(f"\n{len(shown) - empty} of {len(shown)} queries return data.")
    return 0 if shown and not empty else 1


def _latest(answer: Answer) -> str:
    latest = [values[-1] for values in answer.series.values() if values]
    return ", ".join(f"{value:,.6g}" for value in latest[:4]) + (" …" if latest[4:] else "")


if __name__ == "__main__":
    sys.exit(guarded(main))
