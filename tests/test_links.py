# SPDX-License-Identifier: Apache-2.0
"""Interfaces that go and come back while they are measured."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Self

import pytest
import tap
from attached import attached, filters
from numbered_frames import PORT, frame
from rights import OLD_KERNEL, is_promiscuous
from traffic import Wire, bursts
from waiting import wait_for

from lab.namespace import Namespace
from trapstream_vtap.links import Links, changes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RTM_DELLINK = 17  # include/uapi/linux/rtnetlink.h
AF_BRIDGE = 7  # include/linux/socket.h
INDEX = 77


class Extra:
    """A second wire, `wire1`.

    Args:
        wire: Between the same two namespaces as this one.
        index: Of the receiver's end.
    """

    def __init__(self, wire: Wire, index: int) -> None:
        self._wire = wire
        self.add(index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def add(self, index: int) -> None:
        """Make it."""
        peer = f"/proc/{os.getpid()}/fd/{self._wire.sender.fd}"
        names = f"wire1 index {index} type veth peer name wire1 netns {peer}"
        change(self._wire.receiver, f"add {names}")
        for namespace in (self._wire.sender, self._wire.receiver):
            change(namespace, "set wire1 arp off addrgenmode none up")
        for namespace in (self._wire.sender, self._wire.receiver):  # until then it sends nothing
            wait_for(
                lambda at=namespace: " state UP " in at.run("ip", "link", "show", "wire1").stdout
            )

    def remove(self) -> None:
        """Remove both ends."""
        change(self._wire.receiver, "del wire1")

    def send(self, count: int) -> None:
        """COUNT frames, which have passed when this returns."""
        with self._wire.sender.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind(("wire1", 0))
            for number in range(count):
                sender.send(frame(number))
        wait_for(lambda: self._wire.receiver.counters("wire1").rx_packets >= count)
        time.sleep(0.1)  # the queue of a CPU, which an interface takes with it when it goes


@contextlib.contextmanager
def traffic(wire: Wire) -> Iterator[None]:
    """Datagrams over the first wire all the time."""
    with bursts(wire.udp(socket.AF_INET, PORT), wire.udp(socket.AF_INET6, PORT)):
        yield


def change(namespace: Namespace, words: str) -> None:
    """What `ip link` does with WORDS."""
    namespace.run("ip", "link", *words.split())


def wait_until_said(tapped: tap.Tap, words: str, times: int = 1) -> None:
    """Return when it has said WORDS so many times."""
    wait_for(lambda: sum(words in line for line in tapped.said) >= times)


def check(records: list[dict[str, object]], interface: str, packets: int) -> None:
    """Every one of the PACKETS is accounted for, in the account and in the flows."""
    account = tap.agent(records, interface)
    assert account["seen_packets"] == account["counted_packets"] == packets
    assert account["packets_handed"] == packets
    assert account["evicted_packets"] == 0
    flows = [record for record in tap.flows(records) if record["interface"] == interface]
    assert sum(flow["packets"] for flow in flows) == packets
    assert sum(flow["bytes"] for flow in flows) == account["seen_bytes"]


@pytest.mark.parametrize(
    ("hook", "second"),
    [("tc", INDEX), ("tc", 5000), ("xdp", INDEX), ("socket", INDEX), ("clsact", INDEX)],
)
def test_gone_and_back(hook: str, second: int) -> None:
    """Twice gone, and back under the same index or another: the counts of the name go on.

    Over the other interface there is traffic all the time, of which no packet is missed.
    """
    command = (sys.executable, "-c", OLD_KERNEL) if hook == "clsact" else (str(tap.COMMAND),)
    options = ("-i", "wire0,wire1", "--hook", "tc" if hook == "clsact" else hook, "-t", "0.2")
    with Wire() as wire, Extra(wire, INDEX) as extra:
        with tap.Tap(wire.receiver, *options, "--promiscuous", command=command) as tapped:
            before = wire.receiver.counters("wire0")
            with traffic(wire):
                extra.send(11)
                for turn, index in enumerate((second, INDEX), start=1):
                    extra.remove()
                    wait_until_said(tapped, "wire1 is gone", turn)
                    extra.add(index)
                    wait_until_said(tapped, "wire1 is back", turn)
                    assert is_promiscuous(wire, "wire1")
                    extra.send(20 + turn)
            wire.settle()
            after = wire.receiver.counters("wire0")
            records = tapped.stop()
        check(records, "wire0", after.rx_packets - before.rx_packets)
        check(records, "wire1", 11 + 21 + 22)
        assert tap.agent(records, "wire0")["seen_packets"] > 1000
        assert attached(wire.receiver, "wire0") == attached(wire.receiver, "wire1") == 0
        assert filters(wire.receiver) == ""


def test_all_gone(tmp_path: Path) -> None:
    """It waits, and takes what is back; meanwhile the file may be read again."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    with (
        Wire() as wire,
        Extra(wire, INDEX) as extra,
        tap.Tap(wire.receiver, "-i", "wire1", "-t", "0.2", "-c", str(path)) as tapped,
    ):
        extra.send(5)
        extra.remove()
        wait_until_said(tapped, "wire1 is gone")
        tapped.process.send_signal(signal.SIGHUP)
        wait_until_said(tapped, "was read again")
        extra.add(INDEX)
        wait_until_said(tapped, "wire1 is back")
        extra.send(6)
        records = tapped.stop()
    check(records, "wire1", 11)


def test_others_come_and_go() -> None:
    """What is not to be measured changes nothing; nor does an interface that was down."""
    with Wire() as wire, tap.Tap(wire.receiver, "-t", "0.1") as tapped:
        sender = wire.udp(socket.AF_INET, PORT)
        with Extra(wire, INDEX) as extra:
            extra.send(5)
        sender.send(b"x")
        wire.settle()
        change(wire.receiver, "set wire0 down")
        change(wire.receiver, "set wire0 up")
        sender.send(b"x")
        wire.settle()
        records = tapped.stop()
    assert not any("gone" in line or "back" in line for line in tapped.said)
    check(records, "wire0", 2)


def test_changes() -> None:
    """Of what the kernel says of interfaces only changes count, and each once."""
    with Namespace() as namespace:
        with namespace.entered():
            links = Links()
        change(namespace, "add gone index 300 type veth peer name other index 301")
        change(namespace, "set other up")
        assert links.gone({300: "gone", 301: "other"}) == set()
        change(namespace, "del gone")
        assert links.gone({1: "lo", 301: "other"}) == {301}
        assert links.gone({1: "lo", 300: "gone", 301: "other"}) == set()
        links.close()


def test_elsewhere() -> None:
    """An interface with another name, or in another namespace, is gone as well."""
    with Namespace() as namespace, Namespace() as other:
        with namespace.entered():
            links = Links()
        for number in (300, 400):
            names = (
                f"w{number}",
                "index",
                f"{number}",
                "type",
                "veth",
                "peer",
                "name",
                f"p{number}",
            )
            change(namespace, "add " + " ".join(names))
        known = {300: "w300", 400: "w400"}
        change(namespace, "set w300 name renamed")
        assert links.gone(known) == {300}
        change(namespace, f"set w400 netns /proc/{os.getpid()}/fd/{other.fd}")
        assert links.gone(known) == {400}
        links.close()


def test_lost_messages() -> None:
    """Where messages were lost, those that are not there any more are removed."""
    with Namespace() as namespace:
        with namespace.entered():
            links = Links(buffer=1)
        change(namespace, "add gone index 300 type veth peer name other")
        for _ in range(20):
            change(namespace, "set gone up")
            change(namespace, "set gone down")
        change(namespace, "del gone")
        with namespace.entered():
            assert links.gone({1: "lo", 300: "gone"}) == {300}
        links.close()


def test_bridge_port() -> None:
    """A bridge says of a port that leaves it that it is removed (AF_BRIDGE); it is not."""
    header = struct.pack("=IHHII", 32, RTM_DELLINK, 0, 0, 0)
    assert changes(header + struct.pack("=BxHiII", socket.AF_UNSPEC, 1, 5, 0, 0)) == {5: None}
    assert changes(header + struct.pack("=BxHiII", AF_BRIDGE, 1, 5, 0, 0)) == {}


def test_cut_message() -> None:
    """A message that is cut off is none."""
    message = struct.pack("=IHHII", 32, 17, 0, 0, 0) + struct.pack("=BxHiII", 0, 1, 5, 0, 0)
    assert changes(message + message) == {5: None}
    assert all(changes(message[:n]) == {} for n in range(len(message)))
    assert changes(bytes(64)) == {}
