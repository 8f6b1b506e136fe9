# SPDX-License-Identifier: Apache-2.0
"""Several sinks at once: each has all, whatever becomes of the others."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import tap
from traffic import V4, Wire

PACKETS = 300


def lines(port: socket.socket, into: list[bytes]) -> threading.Thread:
    """A collector that reads one connection to its end, INTO lines."""

    def read() -> None:
        connection, _ = port.accept()
        with connection, connection.makefile("rb") as stream:
            into.extend(stream)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("form", ["influx", "json"])
def test_each_sink_has_all(form: str) -> None:
    """Beside a sink that is dead and one that takes datagrams, a TCP sink loses nothing."""
    with Wire() as wire, wire.receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        with wire.receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.bind(("127.0.0.1", 0))  # and nobody listens
            dead = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
            datagrams = wire.receiver.socket(socket.AF_INET, socket.SOCK_DGRAM)
            datagrams.bind(("127.0.0.1", 0))
            udp = f"udp://127.0.0.1:{datagrams.getsockname()[1]}"
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            tcp = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            found: list[bytes] = []
            reader = lines(listener, found)
            sinks = ("--sink", tcp, "--sink", udp, "--sink", dead)
            with tap.Tap(wire.receiver, "-f", form, *sinks, "-i", "wire0") as tapped:
                sender = wire.udp(socket.AF_INET, 7001)
                for number in range(PACKETS):
                    sender.send(bytes(number))
                wire.settle()
                records = tapped.stop() if form == "json" else []
                if form == "influx":
                    tapped.end()
            reader.join(tap.DEADLINE)
        payloads = []
        datagrams.settimeout(0.2)
        try:
            while True:
                payloads.append(datagrams.recv(1 << 16))
        except TimeoutError:
            datagrams.close()
    if form == "influx":
        assert sum(b"vtap_flow," in line for line in found) > 0
        packets = [
            sum(int(line.split(b" packets=")[1].split(b"i")[0]) for line in part)
            for part in (
                [line for line in found if line.startswith(b"vtap_flow")],
                [
                    line
                    for payload in payloads
                    for line in payload.splitlines()
                    if line.startswith(b"vtap_flow")
                ],
            )
        ]
        assert packets == [PACKETS, PACKETS]
        return
    for part in (found, payloads):
        got = [record for payload in part for record in json.loads(payload)]
        assert sum(record["packets"] for record in tap.flows(got)) == PACKETS
    ends = {r["sink"]: r for r in records if r["name"] == "vtap_agent" and "sink" in r}
    assert tap.agent(records, "wire0")["packets_handed"] == PACKETS
    assert ends[dead]["packets_queued"] == ends[tcp]["packets_delivered"] == PACKETS
    assert ends[udp]["packets_delivered"] == PACKETS
    assert (ends[dead]["up"], ends[tcp]["up"], ends[udp]["up"]) == (0, 1, 1)
    assert ends[dead]["oldest_age_ms"] > ends[tcp]["oldest_age_ms"]
    assert V4[1] in {record["dst_ip"] for record in tap.flows(records)}
