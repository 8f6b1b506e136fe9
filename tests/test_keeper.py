# SPDX-License-Identifier: Apache-2.0
"""Who may do what while it runs, and that nothing stays, whoever is killed."""

from __future__ import annotations

import array
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tap
from alone import alone
from attached import attached, exchange, filters, settings
from rights import (
    CAPABILITIES,
    KEEPS,
    OLD_KERNEL,
    SETS,
    children,
    exists,
    is_promiscuous,
    mask,
    status,
)
from traffic import Wire
from waiting import wait_for

from lab.command import COMMAND
from trapstream_vtap import privileges
from trapstream_vtap.errors import RunError
from trapstream_vtap.keeper import client, handover
from trapstream_vtap.probes import REGISTRY
from trapstream_vtap.probes.flows.settings import HOOKS
from trapstream_vtap.settings.command import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire without offloads."""
    with Wire() as wire:
        yield wire


def keeper(tapped: tap.Tap) -> int:
    """The keeper's process id."""
    (found,) = children(tapped.process.pid)
    return found


@pytest.mark.parametrize("user", ["nobody", "daemon", "root"])
def test_rights(wire: Wire, user: str) -> None:
    """Every thread runs as that user, with no groups, no capabilities, and none to be had."""
    entry = pwd.getpwnam(user)
    options = () if user == "nobody" else ("--user", user)
    with tap.Tap(wire.receiver, "-i", "wire0", "--health", "127.0.0.1:0", *options) as tapped:
        threads = list(Path(f"/proc/{tapped.process.pid}/task").iterdir())
        assert len(threads) > 2
        for thread in threads:
            said = status(thread)
            assert said["Uid"] == [str(entry.pw_uid)] * 4
            assert said["Gid"] == [str(entry.pw_gid)] * 4
            assert said["Groups"] == []
            assert {said[name][0] for name in SETS} == {mask(())}
            assert said["NoNewPrivs"] == ["1"]
        exchange(wire, 5)
        assert tap.agent(tapped.stop(), "wire0")["seen_packets"] == 5


@pytest.mark.parametrize(
    ("options", "more"),
    [((), ()), (("--hook", "socket"), ("net_raw",)), (("--promiscuous",), ("net_raw",))],
)
def test_rights_of_the_keeper(wire: Wire, options: tuple[str, ...], more: tuple[str, ...]) -> None:
    """The keeper has what it needs, and it is small."""
    with tap.Tap(wire.receiver, "-i", "wire0", *options) as tapped:
        said = status(Path(f"/proc/{keeper(tapped)}"))
        wanted = mask((*KEEPS, *more))
        assert {name: said[name][0] for name in SETS} == {
            **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), wanted),
            **dict.fromkeys(("CapInh", "CapAmb"), mask(())),
        }
        assert said["NoNewPrivs"] == ["1"]
        assert int(said["RssAnon"][0]) < 10_000  # kB


@pytest.mark.parametrize(
    ("missing", "options"),
    [
        ("bpf", ()),
        ("perfmon", ()),
        ("net_admin", ()),
        ("net_raw", ("--promiscuous",)),
        ("net_raw", ("--hook", "socket")),
    ],
)
def test_each_capability_is_needed(wire: Wire, missing: str, options: tuple[str, ...]) -> None:
    """Without it nothing is measured."""
    number = CAPABILITIES[missing]
    program = (
        "from trapstream_vtap.keeper import client; from trapstream_vtap.cli import main\n"
        "had = client.capabilities\n"
        f"client.capabilities = lambda settings: [c for c in had(settings) if c != {number}]\n"
        "main()"
    )
    command = (sys.executable, "-c", program, "-i", "wire0", *options, "127.0.0.1", "9")
    ended = wire.receiver.run(*command, check=False)
    assert ended.returncode == 1
    assert re.search("refuses|not permitted|does not support", ended.stderr), ended.stderr


def test_container_without_setuid(wire: Wire) -> None:
    """Root that may not become another user stays root, without capabilities, and says so."""
    drop = ("setpriv", "--bounding-set=-setuid,-setgid,-setpcap", "--inh-caps=-all")
    command = (*drop, str(COMMAND))
    with tap.Tap(wire.receiver, "-i", "wire0", command=command) as tapped:
        said = status(Path(f"/proc/{tapped.process.pid}"))
        assert (said["CapPrm"], said["CapEff"]) == ([mask(())], [mask(())])
        assert said["NoNewPrivs"] == ["1"]
        assert any("cannot become user nobody (Operation not" in line for line in tapped.said)
        assert any("bounding set stays as it is" in line for line in tapped.said)
        exchange(wire, 5)
        assert tap.agent(tapped.stop(), "wire0")["seen_packets"] == 5


def test_bpf_for_the_capable_only(wire: Wire) -> None:
    """Before Linux 5.19, where bpf(2) is not for all, CAP_BPF is kept, and nothing else."""
    program = (
        "from trapstream_vtap import privileges; from trapstream_vtap.cli import main\n"
        "assert privileges.bpf_is_for_all()\n"
        "privileges.bpf_is_for_all = lambda: False\n"
        "main()"
    )
    command = (sys.executable, "-c", program)
    with tap.Tap(wire.receiver, "-i", "wire0", command=command) as tapped:
        said = status(Path(f"/proc/{tapped.process.pid}"))
        assert said["Uid"] == ["65534"] * 4
        assert {name: said[name][0] for name in SETS} == {
            **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), mask(("bpf",))),
            **dict.fromkeys(("CapInh", "CapAmb"), mask(())),
        }
        exchange(wire, 5)
        assert tap.agent(tapped.stop(), "wire0")["seen_packets"] == 5


@pytest.mark.usefixtures("nothing_compiled")
def test_compiling_is_killed(wire: Wire, tmp_path: Path) -> None:
    """When what compiles is killed, the program measures on as before, and can be told again."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    with tap.Tap(wire.receiver, "-i", "wire0", "-c", str(path)) as tapped:
        path.write_text('{"RULES": ["- - - 9 udp"]}')
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: children(keeper(tapped)))
        os.kill(children(keeper(tapped))[0], signal.SIGKILL)
        wait_for(lambda: any("ended with exit code -9" in line for line in tapped.said))
        exchange(wire, 5)
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("was read again" in line for line in tapped.said))
        assert tap.agent(tapped.stop(), "wire0")["seen_packets"] == 5


def test_file_for_root_only(wire: Wire, tmp_path: Path) -> None:
    """A configuration file that only its owner may read can be read again."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    path = directory / "vtap.json"
    path.write_text('{"RULES": ["- - - 9 udp"]}')
    path.chmod(0o600)
    os.chown(path, 1, 1)
    os.chown(directory, 1, 1)
    with tap.Tap(wire.receiver, "-i", "wire0", "-c", str(path)) as tapped:
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("was read again, 1 rule" in line for line in tapped.said))


def test_unknown_user() -> None:
    """It is a mistake in the command line."""
    command = [str(COMMAND), "--user", "no such", "127.0.0.1", "9"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--user: there is no user 'no such'" in ended.stderr


@pytest.mark.parametrize("hook", [*HOOKS, "clsact"])
def test_sigkill(wire: Wire, hook: str) -> None:
    """When the process that measures is killed, the keeper lets go of everything and ends."""
    command = (sys.executable, "-c", OLD_KERNEL) if hook == "clsact" else (str(COMMAND),)
    side = "ingress" if hook == "xdp" else "both"
    options = ("--hook", "tc" if hook == "clsact" else hook, "--direction", side, "--promiscuous")
    with tap.Tap(wire.receiver, "-i", "wire0", *options, command=command) as tapped:
        kept = keeper(tapped)
        assert is_promiscuous(wire)
        if hook == "clsact":
            assert re.search(rf"vtap-stream:{kept}:\d+:made", filters(wire.receiver))
        tapped.process.kill()
        tapped.process.wait()
        wait_for(lambda: not exists(kept))
    assert attached(wire.receiver, "wire0") == 0
    assert "xdp" not in wire.receiver.run("ip", "link", "show", "dev", "wire0").stdout
    assert filters(wire.receiver) == ""
    assert not is_promiscuous(wire)


def test_the_parent_is_killed(wire: Wire) -> None:
    """Whoever is tied to the life of the process that started it stays so as another user."""
    tied = 'setpriv --pdeathsig KILL -- "$@" & echo $!; wait'
    options = ("-i", "wire0", "127.0.0.1", "9")
    shell = wire.receiver.popen(
        *("sh", "-c", tied, "sh", str(COMMAND), *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with shell:
        pid = int(shell.stdout.readline())
        while "measuring" not in shell.stderr.readline():
            assert exists(pid)
        (kept,) = children(pid)
        shell.kill()
        wait_for(lambda: not exists(pid) and not exists(kept))
    assert attached(wire.receiver, "wire0") == 0


def test_acting() -> None:
    """What is made meanwhile is the user's, also after an error; then it is root's again."""
    entry = pwd.getpwnam("daemon")
    with tempfile.TemporaryDirectory() as name:  # that of pytest is closed to others
        open_to_all = Path(name)
        open_to_all.chmod(0o777)

        def fail() -> None:
            with privileges.acting("daemon"):
                (open_to_all / "user").touch()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        (open_to_all / "root").touch()
        owners = {path.name: path.stat() for path in open_to_all.iterdir()}
    assert (owners["user"].st_uid, owners["user"].st_gid) == (entry.pw_uid, entry.pw_gid)
    assert (owners["root"].st_uid, owners["root"].st_gid) == (0, 0)


@pytest.mark.usefixtures("nothing_compiled")
def test_sigkill_while_loading(wire: Wire, tmp_path: Path) -> None:
    """What is being compiled for a process that was killed ends, too."""
    path = tmp_path / "vtap.json"
    path.write_text("{}")
    with tap.Tap(wire.receiver, "-i", "wire0", "-c", str(path)) as tapped:
        kept = keeper(tapped)
        path.write_text('{"RULES": ["- - - 9 udp"]}')
        tapped.process.send_signal(signal.SIGHUP)
        wait_for(lambda: children(kept))
        (loader,) = children(kept)
        tapped.process.kill()
        tapped.process.wait()
        wait_for(lambda: not exists(kept) and not exists(loader))
    assert attached(wire.receiver, "wire0") == 0


def test_the_keeper_is_killed(wire: Wire) -> None:
    """The process that measures says so and ends with 1; what it has measured is delivered."""
    with tap.Tap(wire.receiver, "-i", "wire0", "-t", "3600") as tapped:
        exchange(wire, 7)
        os.kill(keeper(tapped), signal.SIGKILL)
        assert tapped.process.wait(tap.DEADLINE) == 1
        records = tapped.records()
    assert "the kernel programs attached has ended" in tapped.said[-1]
    assert attached(wire.receiver, "wire0") == 0
    assert sum(record["packets"] for record in tap.flows(records)) == 7
    assert tap.delivered(records)["packets_handed"] == 7


def test_ctrl_c(wire: Wire) -> None:
    """The terminal tells all processes: the keeper lets go when its peer is ready for it."""
    with tap.Tap(wire.receiver, "-i", "wire0", "-t", "3600") as tapped:
        exchange(wire, 7)
        kept = keeper(tapped)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(kept, number)
        exchange(wire, 7)
        records = tapped.stop()
        assert not exists(kept)
    assert tap.agent(records, "wire0")["packets_handed"] == 14


def test_requests_say_nothing(wire: Wire) -> None:
    """What the keeper is sent beside its requests it does not do, or it ends; nothing stays."""
    with wire.receiver.entered():
        keeping = client.Keeper(alone(settings()), None)
    with pytest.raises(RunError, match="nothing to attach"):
        keeping.attach(["flows"])
    objects, _ = keeping.load("flows")
    assert set(objects.programs) == {"vtap_sweep"}
    keeping.attach(["flows"], ("../../etc", "lo", "wire1"))
    assert attached(wire.receiver, "lo") == 0
    assert attached(wire.receiver, "wire0") == 1
    handover.send(keeping._orders, b"x" * 100_000)
    wait_for(lambda: attached(wire.receiver, "wire0") == 0)
    with pytest.raises(RunError, match="has ended"):
        keeping.load("flows")
    keeping.close()
    objects.close()


@pytest.mark.parametrize("configured", [("flows",), ("flows", "drops"), ("traps",)])
def test_only_what_is_configured(wire: Wire, configured: tuple[str, ...]) -> None:
    """Every order is refused for every probe that is not configured, and so are unknown orders."""
    with wire.receiver.entered():
        keeping = client.Keeper(alone(settings(probes=configured)), None)
    for probe in {*(probe.name for probe in REGISTRY), "nothing", "../flows", ""} - {*configured}:
        with pytest.raises(RunError, match="not configured"):
            keeping.load(probe)
        for order in ("attach", "forget"):
            with pytest.raises(RunError, match="not configured"):
                keeping._ask(keeping._orders, f"{order}\n{probe}".encode())
    for order in (b"", b"load\nflows", b"_let_go", b"serve", b"attach\xff"):
        with pytest.raises(RunError, match="no such order"):
            keeping._ask(keeping._orders, order)
    for order in (b"attach", b"forget", b"forget\n" + configured[0].encode() + b"\nmore"):
        with pytest.raises(RunError):
            keeping._ask(keeping._orders, order)
    assert keeping._ask(keeping._orders, b"ahead") == ([], [])
    keeping.close()


def test_descriptors_sent_along(wire: Wire) -> None:
    """Descriptors that come with a request stay nobody's."""
    with wire.receiver.entered():
        keeping = client.Keeper(alone(settings()), None)
    held = Path(f"/proc/{keeping._process.pid}/fd")
    keeping.load("flows")[0].close()
    before = len(list(held.iterdir()))
    with Path("/dev/null").open() as null:
        for way, request in ((keeping._orders, b"ahead"), (keeping._loads, b"look nothing")):
            for _ in range(3):
                handover.send(way, request, [null.fileno()] * 100)
                handover.receive(way)
            way.sendmsg([struct.pack("=II", 5, 0)], [(1, 1, array.array("i", [null.fileno()] * 9))])
            way.send(b"ahead")
            handover.receive(way)
    assert len(list(held.iterdir())) <= before
    keeping.close()


def test_attached_once(wire: Wire) -> None:
    """A probe is attached once, however often that is ordered."""
    with wire.receiver.entered():
        keeping = client.Keeper(alone(settings(probes=("drops",))), None)
        links = Path(f"/proc/{keeping._process.pid}/fdinfo")
        for _ in range(3):
            keeping.load("drops")[0].close()
            keeping.attach(["drops"])
            keeping.settle()
        texts = [path.read_text() for path in links.iterdir()]
        assert sum("link_type:\traw_tracepoint" in text for text in texts) == 1
        keeping.close()


def tracepoints(keeping: client.Keeper) -> set[str]:
    """The programs, by their number, at the raw tracepoints that it holds."""
    texts = [path.read_text() for path in Path(f"/proc/{keeping._process.pid}/fdinfo").iterdir()]
    return {
        match[1]
        for text in texts
        if "link_type:\traw_tracepoint" in text
        and (match := re.search(r"^prog_id:\t(\d+)$", text, re.MULTILINE))
    }


def test_all_probes_or_none(wire: Wire) -> None:
    """Where the kernel refuses one of two, the other one stays as it was, too."""
    words = ("-i", "wire0", "--probe", "drops,flows", "--hook", "xdp", "127.0.0.1", "9")
    with wire.receiver.entered():
        keeping = client.Keeper(load_settings(words), None)
        keeping.load("drops")[0].close()
        keeping.attach(["drops"])
        first = tracepoints(keeping)
        for probe in ("drops", "flows"):
            keeping.load(probe)[0].close()
        with (
            tap.Tap(wire.receiver, "-i", "wire0", "--hook", "xdp"),
            pytest.raises(RunError, match="XDP"),
        ):
            keeping.attach(["drops", "flows"])
        assert len(first) == 1
        assert tracepoints(keeping) == first
        assert {*keeping.attach(["drops", "flows"])} == {"drops", "flows"}
        assert len(tracepoints(keeping) - first) == 1
        keeping.close()


def test_many_descriptors() -> None:
    """Hundreds of descriptors come as they were sent."""
    here, there = socket.socketpair()
    with here, there, Path("/dev/null").open() as null:
        handover.send(here, b"x", [null.fileno()] * 200)
        data, descriptors = handover.receive(there)
        assert (data, len(descriptors)) == (b"x", 200)
        for descriptor in descriptors:
            assert Path(f"/proc/self/fd/{descriptor}").readlink() == Path("/dev/null")
            os.close(descriptor)


def test_messages() -> None:
    """Messages come whole, with their descriptors, which no other program inherits."""
    here, there = socket.socketpair()
    with here, there:
        data = os.urandom(100_000)
        with Path("/dev/null").open() as null:
            handover.send(here, b"")
            handover.send(here, data, [null.fileno()] * 3)
        assert handover.receive(there) == (b"", [])
        received, descriptors = handover.receive(there)
        assert received == data
        assert len(descriptors) == 3
        for descriptor in descriptors:
            assert Path(f"/proc/self/fd/{descriptor}").readlink() == Path("/dev/null")
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
        here.send(b"\x05\0\0\0\0\0\0\0cut")
        here.close()
        with pytest.raises(EOFError):
            handover.receive(there)
