# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that leaves nothing behind, and its checker of rules."""

from pathlib import Path

from lab.namespace import Namespace
from lab.packages import unpacked
from lab.servers import CONFIG, DIRECTORY, Server, free_ports


class Prometheus(Server):
    """Prometheus, scraping every second.

    Args:
        namespace: Where it listens and scrapes; the caller's own by default.
        target: ADDRESS:PORT to scrape.

    See: https://prometheus.io/docs/prometheus/latest/configuration/configuration/
    """

    ready_path = "/-/ready"

    def __init__(self, namespace: Namespace | None = None, *, target: str) -> None:
        super().__init__(namespace)
        self._target = target

    def _command(self) -> tuple[str, ...]:
        (self.http_port,) = free_ports(self._namespace, 1)
        return (
            str(unpacked("prometheus") / "usr/bin/prometheus"),
            f"--config.file={CONFIG}",
            f"--storage.tsdb.path={DIRECTORY}/data",
            f"--web.listen-address={self.host}:{self.http_port}",
        )

    def _config(self) -> str:
        return (
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            f'- {{job_name: vtap, static_configs: [{{targets: ["{self._target}"]}}]}}\n'
        )


def promtool() -> Path:
    """Prometheus's command that checks and tests rules."""
    return unpacked("prometheus") / "usr/bin/promtool"
