# SPDX-License-Identifier: Apache-2.0
"""In the virtual machine: receive latency at every stage, and what an application says of it.

Given are the stages, how many packets, and seconds of an interval and of the reader's pauses. What
comes back is by protocol: the records, what the application found, and what was said.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from guest_command import ADDRESSES, HERE, WIRE, streaming
from latencies import Application, one_in_each_interval

from lab.namespace import Namespace, veth

PORT = 7001


def ends(sender: Namespace, protocol: str) -> tuple[socket.socket, socket.socket]:
    """Of a connection to this namespace, or of datagrams."""
    here = Namespace.current()
    if protocol == "udp":
        taking = here.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taking.bind((ADDRESSES[1], PORT))
        sending = sender.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sending.connect((ADDRESSES[1], PORT))
        return sending, taking
    with here.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((ADDRESSES[1], PORT))
        listener.listen()
        sending = sender.socket(socket.AF_INET, socket.SOCK_STREAM)
        sending.connect((ADDRESSES[1], PORT))
        sending.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sending, listener.accept()[0]


def main() -> None:
    """One protocol after the other."""
    given = json.loads((HERE / "given.json").read_bytes())
    options = ("-i", WIRE, "--probe", "latency", "-t", str(given["interval"]))
    options += ("--latency-stages", ",".join(given["stages"]))
    results: dict[str, Any] = {}
    groups = HERE / "groups"
    groups.mkdir()
    Namespace.current().run("mount", "-t", "cgroup2", "none", str(groups))
    with Namespace() as sender:
        veth(sender, WIRE, Namespace.current(), WIRE, ipv4=ADDRESSES)
        for protocol in ("udp", "tcp"):
            with streaming(*options) as records:
                sending, taking = ends(sender, protocol)
                application = Application(taking, given["pause"])
                time.sleep(1)
                one_in_each_interval(sending, given["packets"], given["interval"])
                time.sleep(2)
            said = (HERE / "errors").read_text()
            found = application.found[: given["packets"]]
            results[protocol] = {"records": records, "found": found, "said": said}
    Path(os.environ["VM_DIRECTORY"], "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
