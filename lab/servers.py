# SPDX-License-Identifier: Apache-2.0
"""Real collectors that leave nothing behind: their files are in a tmpfs that only they see."""

import http.client
import json
import socket
import subprocess
import tempfile
import time
import urllib.parse
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from lab.namespace import Namespace
from lab.packages import unpacked

HOST = "127.0.0.1"
DIRECTORY = "/run"  # where a server's own tmpfs is mounted, for itself alone
CONFIG = f"{DIRECTORY}/config"
START_DEADLINE = 20.0  # seconds
STOP_DEADLINE = 10.0  # seconds

INFLUXD_CONFIG = """
reporting-disabled = true
bind-address = "{host}:{rpc_port}"
[meta]
  dir = "{directory}/meta"
[data]
  dir = "{directory}/data"
  wal-dir = "{directory}/wal"
  index-version = "tsi1"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "{host}:{http_port}"
  log-enabled = false
  auth-enabled = {auth}
[subscriber]
  enabled = false
[continuous_queries]
  enabled = false
[[udp]]
  enabled = true
  bind-address = "{host}:{udp_port}"
  database = "{database}"
  precision = "ns"
  batch-size = 5000
  batch-pending = 10
  batch-timeout = "100ms"
  read-buffer = {read_buffer}
"""


class Server(ABC):
    """A server process on a namespace's loopback, asked over HTTP.

    Args:
        namespace: Where it listens; the caller's own by default.

    Attributes:
        host: Address of every listener.
        http_port: Where it is asked.
        udp_port: Where it takes line protocol over UDP.
        pid: Of the running process.
    """

    ready_path: ClassVar[str]
    http_port: int
    udp_port: int
    pid: int

    def __init__(self, namespace: Namespace | None = None) -> None:
        self.host = HOST
        self._given = namespace

    def __enter__(self) -> Self:
        self._namespace = self._given or Namespace.current()
        self._log = tempfile.TemporaryFile()
        self._process: subprocess.Popen[bytes] | None = None
        try:
            private = f'mount -t tmpfs lab {DIRECTORY} && cat >{CONFIG} && exec "$@"'
            self._process = self._namespace.popen(
                *("unshare", "--mount", "sh", "-c", private, "sh", *self._command()),
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
            self.pid = self._process.pid
            assert self._process.stdin  # noqa: S101 - a pipe
            with self._process.stdin as config:
                config.write(self._config().encode())
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    @abstractmethod
    def _command(self) -> tuple[str, ...]:
        """Chooses ports and gives the command to start."""

    def _config(self) -> str:
        """The text of the configuration file."""
        return ""

    def _wait_until_ready(self) -> None:
        assert self._process  # noqa: S101 - just started
        deadline = time.monotonic() + START_DEADLINE
        while True:
            ended = self._process.poll() is not None
            if not ended:
                try:
                    self.http("GET", self.ready_path)
                except (OSError, http.client.HTTPException, RuntimeError):  # 503: not yet
                    if time.monotonic() < deadline:
                        time.sleep(0.01)
                        continue
                else:
                    return
            self._log.seek(0)
            said = self._log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{type(self).__name__} did not start:\n{said}")

    def _stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        if not self._given:
            self._namespace.close()

    def http(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request; the body of the answer.

        Raises:
            OSError: When nobody answers.
            RuntimeError: When the answer is not a success; the message is the server's.
        """
        connection = http.client.HTTPConnection(self.host, self.http_port, timeout=30)
        connection.sock = self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(30)
            connection.sock.connect((self.host, self.http_port))
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode().strip()}")
        return content

    def udp_drops(self) -> int:
        """Datagrams that the kernel dropped because the server's UDP socket was full."""
        with self._namespace.entered():
            rows = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
        port = f":{self.udp_port:04X}"
        return sum(int(row.split()[-1]) for row in rows if row.split()[1].endswith(port))


class Influxd(Server):
    """InfluxDB 1.x, taking line protocol over UDP.

    Args:
        namespace: Where it listens; the caller's own by default.
        database: What UDP points go into; made at the first point.
        read_buffer: Bytes of the UDP socket's buffer; the kernel's default by default.
        user: Name and password without which HTTP requests are refused; none by default.

    See: https://docs.influxdata.com/influxdb/v1/supported_protocols/udp/
    """

    ready_path = "/ping"

    def __init__(
        self,
        namespace: Namespace | None = None,
        *,
        database: str = "vtap",
        read_buffer: int | None = None,
        user: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(namespace)
        self.database = database
        self._read_buffer = read_buffer or 0
        self._user = user

    def _command(self) -> tuple[str, ...]:
        self.http_port, self._rpc_port, self.udp_port = free_ports(self._namespace, 3)
        return str(unpacked("influxdb") / "usr/bin/influxd"), "-config", CONFIG

    def _config(self) -> str:
        return INFLUXD_CONFIG.format(
            host=self.host,
            directory=DIRECTORY,
            rpc_port=self._rpc_port,
            http_port=self.http_port,
            udp_port=self.udp_port,
            database=self.database,
            read_buffer=self._read_buffer,
            auth="true" if self._user else "false",
        )

    def _wait_until_ready(self) -> None:
        super()._wait_until_ready()
        if self._user:
            name, password = self._user
            self._ask("POST", f"CREATE USER {name} WITH PASSWORD '{password}' WITH ALL PRIVILEGES")
        # Else a query before the first point would be an error.
        self._ask("POST", f'CREATE DATABASE "{self.database}"')

    def query(self, influxql: str) -> list[dict[str, Any]]:
        """The series that a statement yields: `name`, `tags`, `columns`, `values` (times in ns).

        Raises:
            RuntimeError: When InfluxDB refuses the statement.
        """
        (result,) = self._ask("GET", influxql, db=self.database, epoch="ns")
        if "error" in result:
            raise RuntimeError(f"{influxql}: {result['error']}")
        series: list[dict[str, Any]] = result.get("series", [])
        return series

    def _ask(self, method: str, influxql: str, **arguments: str) -> list[dict[str, Any]]:
        """The results of a statement."""
        if self._user:
            arguments |= dict(zip(("u", "p"), self._user, strict=True))
        query = urllib.parse.urlencode(arguments | {"q": influxql})
        results: list[dict[str, Any]] = json.loads(self.http(method, f"/query?{query}"))["results"]
        return results

    def udp_stats(self) -> dict[str, int]:
        """InfluxDB's counters of its UDP listener, among them pointsRx and pointsParseFail."""
        (series,) = self.query("SHOW STATS FOR 'udp'")
        return dict(zip(series["columns"], series["values"][0], strict=True))


class VictoriaMetrics(Server):
    """VictoriaMetrics, taking line protocol over TCP and UDP on one port.

    Args:
        namespace: Where it listens; the caller's own by default.

    See: https://docs.victoriametrics.com/
    """

    ready_path = "/health"

    def _command(self) -> tuple[str, ...]:
        self.http_port, self.tcp_port = free_ports(self._namespace, 2)
        self.udp_port = self.tcp_port
        return (
            str(unpacked("victoria-metrics") / "usr/bin/victoria-metrics"),
            f"-storageDataPath={DIRECTORY}/data",
            f"-httpListenAddr={self.host}:{self.http_port}",
            f"-influxListenAddr={self.host}:{self.tcp_port}",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",
            "-search.disableCache",
            "-memory.allowedBytes=512MB",
        )

    def flush(self) -> None:
        """Makes everything that was taken in visible to queries."""
        self.http("GET", "/internal/force_flush")

    def export(self, match: str) -> list[dict[str, Any]]:
        """The series that a selector matches: `metric` (labels), `values`, `timestamps` (ms).

        A metric's name is measurement and field joined by an underscore; call `flush` before.
        """
        # Without an explicit end, points of the current second are left out.
        arguments = {"match[]": match, "start": "0", "end": str(int(time.time()) + 3600)}
        answer = self.http("GET", f"/api/v1/export?{urllib.parse.urlencode(arguments)}")
        return [json.loads(line) for line in answer.splitlines()]


PROMETHEUS_CONFIG = """
global:
  scrape_interval: {interval}ms
scrape_configs:
  - job_name: vtap
    static_configs:
      - targets: {targets}
"""


class Prometheus(Server):
    """Prometheus, scraping.

    Args:
        targets: `address:port` of what it scrapes.
        namespace: Where it listens, and where its targets are; the caller's own by default.
        interval: Seconds from one scrape to the next.

    See: https://prometheus.io/docs/prometheus/latest/querying/api/
    """

    ready_path = "/-/ready"

    def __init__(
        self, targets: list[str], namespace: Namespace | None = None, *, interval: float = 1
    ) -> None:
        super().__init__(namespace)
        self._targets = targets
        self._interval = interval

    def _command(self) -> tuple[str, ...]:
        (self.http_port,) = free_ports(self._namespace, 1)
        return (
            str(unpacked("prometheus") / "usr/bin/prometheus"),
            f"--config.file={CONFIG}",
            f"--storage.tsdb.path={DIRECTORY}/data",
            f"--web.listen-address={self.host}:{self.http_port}",
        )

    def _config(self) -> str:
        targets = json.dumps(self._targets)
        return PROMETHEUS_CONFIG.format(interval=round(self._interval * 1000), targets=targets)

    def query(self, promql: str) -> list[dict[str, Any]]:
        """What an expression yields now: `metric` (labels), and `value` or `values` (time, text).

        Raises:
            RuntimeError: When Prometheus refuses the expression.
        """
        arguments = urllib.parse.urlencode({"query": promql})
        answer = json.loads(self.http("GET", f"/api/v1/query?{arguments}"))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, with `health` and `lastError`; nothing in the first five seconds."""
        answer = json.loads(self.http("GET", "/api/v1/targets?state=active"))
        active: list[dict[str, Any]] = answer["data"]["activeTargets"]
        return active


def promtool(*arguments: str, text: bytes) -> str:
    """What promtool says of TEXT on its standard input; nothing, if it is content.

    See: https://prometheus.io/docs/prometheus/latest/command-line/promtool/
    """
    command = str(unpacked("prometheus") / "usr/bin/promtool")
    done = subprocess.run([command, *arguments], input=text, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode() if done.returncode else ""


def free_ports(namespace: Namespace, count: int) -> list[int]:
    """Ports that are free for both TCP and UDP on loopback at this moment."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            tcp = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
            udp = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held += [tcp, udp]
            tcp.bind((HOST, 0))
            port = tcp.getsockname()[1]
            try:
                udp.bind((HOST, port))
            except OSError:
                continue
            ports.append(port)
    finally:
        for taken in held:
            taken.close()
    return ports
