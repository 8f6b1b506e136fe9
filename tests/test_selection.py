# SPDX-License-Identifier: Apache-2.0
"""Which interfaces are measured: by name, by pattern, all that are up; now, and when they come."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
import tap
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numbered_frames import frame
from waiting import wait_for

from lab.namespace import Namespace
from trapstream_vtap.interfaces import choose, interfaces, matcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAMES = ("eth0", "eth1", "eth10", "docker0", "wlan0")
ALSO = "enp0s31f6-the-uplink-of-this-machine"  # longer than a name may be


class Host:
    """A namespace, and another that is the other end of all its wires."""

    def __init__(self) -> None:
        self.here, self.there = Namespace(), Namespace()

    def add(self, name: str, *, up: bool = True) -> None:
        """A wire; the other end has the same name."""
        peer = f"/proc/{os.getpid()}/fd/{self.there.fd}"
        self.here.run(*f"ip link add {name} type veth peer name {name} netns {peer}".split())
        for namespace in (self.here, self.there) if up else (self.there,):
            namespace.run(*f"ip link set {name} arp off addrgenmode none up".split())

    def change(self, words: str) -> None:
        """What `ip link` does with WORDS."""
        self.here.run("ip", "link", *words.split())

    def send(self, name: str, count: int) -> None:
        """COUNT frames over that wire, which have passed when this returns."""
        before = self.here.counters(name).rx_packets
        with self.there.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind((name, 0))
            for number in range(count):
                sender.send(frame(number))
        wait_for(lambda: self.here.counters(name).rx_packets >= before + count)
        time.sleep(0.1)  # the queue of a CPU

    def close(self) -> None:
        """Both go, with all their wires."""
        self.here.close()
        self.there.close()


@pytest.fixture
def host() -> Iterator[Host]:
    """Without any interface but loopback."""
    with contextlib.closing(Host()) as host:
        yield host


@pytest.fixture
def named(host: Host) -> Host:
    """With all of `NAMES`, of which wlan0 is down; eth1 has another name."""
    for name in NAMES:
        host.add(name, up=name != "wlan0")
    host.change(f"property add dev eth1 altname {ALSO}")
    return host


def said(tapped: tap.Tap, words: str) -> bool:
    """Whether it has said so by now."""
    return any(words in line for line in tapped.said)


def packets(records: list[dict[str, object]], name: str) -> int:
    """How many there are in all flows of an interface."""
    return sum(r["packets"] for r in tap.flows(records) if r["interface"] == name)


CHOICES = (
    ((), (), {"eth0", "eth1", "eth10", "docker0"}, ()),
    ((), ("wlan0",), {"eth0", "eth1", "eth10", "docker0", "wlan0"}, ()),
    (("eth*",), (), {"eth0", "eth1", "eth10"}, ()),
    (("eth?",), (), {"eth0", "eth1"}, ()),
    (("*",), (), {*NAMES}, ()),
    (("!docker*",), (), {"eth0", "eth1", "eth10"}, ()),
    (("*", "!eth1*", "!docker0"), (), {"eth0", "wlan0"}, ()),
    (("eth*", "lo"), (), {"eth0", "eth1", "eth10", "lo"}, ()),
    (("wlan0", "none0", "non*"), (), {"wlan0"}, ("none0",)),
    ((ALSO, "eth1"), (), {"eth1"}, ()),
    (("enp0*uplink*",), (), {"eth1"}, ()),
    (("!enp0*",), (), {"eth0", "eth10", "docker0"}, ()),
    (("eth0", "!eth0"), (), set(), ()),
)


@pytest.mark.parametrize(("words", "measured", "chosen", "missing"), CHOICES)
def test_choice(
    named: Host,
    words: Sequence[str],
    measured: Sequence[str],
    chosen: set[str],
    missing: tuple[str, ...],
) -> None:
    """Names, alternative names and patterns, of what is there."""
    with named.here.entered():
        found, gone = choose(words, measured)
        assert ({interface.name for interface in found}, gone) == (chosen, missing)
        assert {*interfaces()} == {*NAMES, "lo"}
        assert interfaces()["eth1"].others == (ALSO,)
        for interface in interfaces().values():
            assert interface.index == socket.if_nametoindex(interface.name)
            assert interface.up == (interface.name != "wlan0")
            assert interface.loopback == (interface.name == "lo")


@hypothesis_settings(derandomize=True)
@given(pattern=st.text("ab*?", min_size=1, max_size=6), name=st.text("ab", max_size=8))
def test_pattern(pattern: str, name: str) -> None:
    """The two signs mean what they mean in a shell."""
    assert bool(matcher([pattern]).fullmatch(name)) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize("hook", ["tc", "xdp", "socket"])
def test_followed(host: Host, hook: str) -> None:
    """Without -i, whatever comes up is measured, and the account has it; nothing else is lost."""
    host.add("eth0")
    with tap.Tap(host.here, "-t", "0.2", "--hook", hook) as tapped:
        host.send("eth0", 5)
        host.add("eth1", up=False)
        time.sleep(1)
        assert not said(tapped, "eth1")
        host.change("set eth1 arp off addrgenmode none up")
        wait_for(lambda: said(tapped, "eth1 is there, and measured"))
        host.send("eth1", 7)
        host.send("eth0", 6)
        host.change("set eth1 name eth9")
        wait_for(lambda: said(tapped, "eth1 is gone"))
        wait_for(lambda: said(tapped, "eth9 is there, and measured"))
        records = tapped.stop()
    assert packets(records, "eth0") == tap.agent(records, "eth0")["counted_packets"] == 11
    assert packets(records, "eth1") == tap.agent(records, "eth1")["counted_packets"] == 7


def test_patterns_followed(host: Host, tmp_path: Path) -> None:
    """With patterns only what fits them, also after the file has been read again."""
    path = tmp_path / "vtap.json"
    path.write_text('{"interface": ["eth*", "!eth9*"]}')
    with tap.Tap(host.here, "-t", "0.2", "-c", str(path)) as tapped:
        assert said(tapped, "no interface fits eth*,!eth9* yet (there are lo)")
        for name in ("docker0", "eth90", "eth1"):
            host.add(name)
        wait_for(lambda: said(tapped, "eth1 is there, and measured"))
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: said(tapped, "was read again"))
        host.add("eth2")
        wait_for(lambda: said(tapped, "eth2 is there, and measured"))
        for count, name in enumerate(("docker0", "eth90", "eth1", "eth2"), start=3):
            host.send(name, count)
        records = tapped.stop()
    assert [packets(records, name) for name in ("docker0", "eth90", "eth1", "eth2")] == [0, 0, 5, 6]


def test_none_up_at_boot(host: Host) -> None:
    """It starts without any interface, says so, and measures the first that is there."""
    with tap.Tap(host.here, "-t", "0.2", "--metrics", "127.0.0.1:0") as tapped:
        assert said(tapped, "no interface is up yet (there are lo)")
        assert said(tapped, "measuring ingress of interfaces that are to come")
        host.add("eth0")
        wait_for(lambda: said(tapped, "eth0 is there, and measured"))
        host.send("eth0", 9)
        records = tapped.stop()
    assert packets(records, "eth0") == 9


def test_many_come_and_go(host: Host) -> None:
    """A crowd that comes and goes costs a few loads; every packet of those that stay is counted."""
    host.add("eth0")
    with tap.Tap(host.here, "-t", "0.2") as tapped:
        for turn in range(3):
            for number in range(20):
                host.add(f"pod{turn}x{number}")
            host.send("eth0", 10)
            for number in range(20):
                host.change(f"del pod{turn}x{number}")
        host.add("last0")
        wait_for(lambda: said(tapped, "last0 is there, and measured"))
        host.send("last0", 4)
        host.send("eth0", 10)
        time.sleep(0.5)
        records = tapped.stop()
    assert packets(records, "eth0") == tap.agent(records, "eth0")["counted_packets"] == 40
    assert packets(records, "last0") == 4
    accounts = [r for r in records if r["name"] == "vtap_agent" and "interface" in r]
    end = max(r["timestamp"] for r in accounts)
    # of those that have gone all has been said
    assert {r["interface"] for r in accounts if r["timestamp"] == end} == {"eth0", "last0"}


@pytest.mark.parametrize("given", ["!uplink", "!up*"])
def test_left_out_by_another_name(host: Host, given: str) -> None:
    """An interface that gets a name by which it is left out is not measured, and that is said."""
    host.add("eth0")
    host.add("eth1")
    with tap.Tap(host.here, "-t", "0.2", "-i", given) as tapped:
        host.send("eth0", 5)
        host.send("eth1", 6)
        host.change("property add dev eth1 altname uplink")
        wait_for(lambda: said(tapped, "eth1 is not chosen any more, and not measured"))
        host.send("eth1", 100)
        host.change("property del dev eth1 altname uplink")
        wait_for(lambda: said(tapped, "eth1 is back, and measured again"))
        host.send("eth1", 7)
        host.send("eth0", 8)
        records = tapped.stop()
    assert packets(records, "eth0") == tap.agent(records, "eth0")["counted_packets"] == 13
    assert packets(records, "eth1") == tap.agent(records, "eth1")["counted_packets"] == 13


def test_name_that_moves(host: Host) -> None:
    """With an alternative name chosen, whatever has it is measured; what has lost it is not."""
    host.add("eth0")
    host.add("eth1")
    host.change("property add dev eth0 altname uplink")
    with tap.Tap(host.here, "-t", "0.2", "-i", "uplink") as tapped:
        host.send("eth0", 5)
        host.change("property del dev eth0 altname uplink")
        host.change("property add dev eth1 altname uplink")
        wait_for(lambda: said(tapped, "eth1 is there, and measured"))
        assert said(tapped, "eth0 is not chosen any more, and not measured")
        host.send("eth0", 100)
        host.send("eth1", 7)
        records = tapped.stop()
    assert (packets(records, "eth0"), packets(records, "eth1")) == (5, 7)
