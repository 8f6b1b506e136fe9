# SPDX-License-Identifier: Apache-2.0
"""The command as a person meets it: sentences, exit codes, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lastline
import pytest
from waiting import wait_for

import trapstream_vtap
from lab.command import COMMAND, VtapStream
from lab.namespace import Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 30.0  # seconds
COLLECTOR = ("127.0.0.1", "8094")
OPTIONS = (
    *("--interface", "--format", "--transport", "--interval", "--batch-size", "--device-ip"),
    *("--direction", "--key", "--bits", "--flow-table-size", "--max-datagram", "--duration"),
    *("--verbose", "--version", "--help", "-i", "-f", "-t", "-b", "-d", "-v", "--max-memory"),
    *("--config", "-c", "--jitter-interval", "-j", "--sink", "--token-file"),
    *("--tls", "--tls-ca", "--tls-cert", "--tls-key", "--kafka-config"),
    *("--file-size", "--file-age", "--file-keep"),
)
SUMMARY = re.compile(
    r"vtap-stream: \d+ packets? of .*; \d+ records? sent \(\d+ packets?\), \d+ records? lost.*"
)
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}[os.uname().machine]

USAGE = {
    "no arguments": (
        (),
        "Say where to stream to: COLLECTOR_IP COLLECTOR_PORT, --sink URL, or --metrics.",
    ),
    "unknown kind of sink": (
        ("--sink", "ftp://192.0.2.1:21"),
        "--sink 'ftp://192.0.2.1:21': a sink begins with one of .*tcp, udp.*",
    ),
    "sink without port": (
        ("--sink", "tcp://192.0.2.1"),
        "--sink 'tcp://192.0.2.1': give tcp://host:port.",
    ),
    "sink with a path": (
        ("-i", "lo", "--sink", "tcp://127.0.0.1:8094/vtap"),
        "--sink 'tcp://127.0.0.1:8094/vtap': give tcp://host:port.",
    ),
    "sink with a password": (
        ("--sink", "tcp://me:secret@192.0.2.1:8094"),
        "--sink 'tcp://…@192.0.2.1:8094': names and passwords do not belong on the command line.",
    ),
    "sink with a token": (
        ("-i", "lo", "--sink", "http://127.0.0.1:8086?db=vtap&token=secret"),
        "--sink http://…: there is no 'token'; there are db, .*--token-file or INFLUX_TOKEN.",
    ),
    "sink without database": (
        ("-i", "lo", "--sink", "http://127.0.0.1:8086"),
        "--sink 'http://127.0.0.1:8086': say where in InfluxDB: .db=NAME .*, or .org=.*&bucket=.*",
    ),
    "sink with database and bucket": (
        ("-i", "lo", "--sink", "http://127.0.0.1:8086?db=a&bucket=b"),
        "--sink .*: say where in InfluxDB: .*",
    ),
    "sink with endpoint": (
        ("-i", "lo", "--sink", "http://127.0.0.1:8086/api/v2/write?bucket=b"),
        "--sink .*: leave out /write, it is added.",
    ),
    "sink with two InfluxDBs": (
        ("-i", "lo", "--sink", "http://127.0.0.1:8086,127.0.0.2:8086?db=a"),
        "--sink .*: give one host; --sink can be repeated.",
    ),
    "JSON to InfluxDB": (
        ("-i", "lo", "-f", "json", "--sink", "http://127.0.0.1?db=a"),
        "http://127.0.0.1:80.db=a: InfluxDB's HTTP .* line protocol only: leave -f json out, .*",
    ),
    "no token file": (
        ("-i", "lo", "--sink", "http://127.0.0.1?db=a", "--token-file", "/none"),
        r"--token-file /none: cannot be read \(No such file or directory\).",
    ),
    "no authorities": (
        ("-i", "lo", "--sink", "https://127.0.0.1?db=a", "--tls-ca", "/none"),
        r"--tls-ca /none: cannot be read \(No such file or directory\).",
    ),
    "TLS over UDP": (
        ("-i", "lo", "--tls", "--transport", "udp", *COLLECTOR),
        "--tls: there is no TLS over UDP here; use TCP.",
    ),
    "TLS beside UDP": (
        ("-i", "lo", "--tls", "--sink", "udp://127.0.0.1:8094", *COLLECTOR),
        "--tls: there is no TLS over UDP here; use TCP.",
    ),
    "TLS to a file": (
        ("-i", "lo", "--tls", "--sink", "file:/tmp/vtap"),
        "--tls is for sinks over TCP, and there is none.",
    ),
    "certificate without TLS": (
        ("-i", "lo", "--tls-cert", "/none", *COLLECTOR),
        "--tls-cert is for --tls and https sinks, and there are none.",
    ),
    "no certificate": (
        ("-i", "lo", "--tls", "--tls-cert", "/none", *COLLECTOR),
        r"--tls-cert /none: cannot be read \(No such file or directory\).",
    ),
    "no properties": (
        ("-i", "lo", "--sink", "kafka://127.0.0.1:9092", "--kafka-config", "/none"),
        r"--kafka-config /none: cannot be read \(No such file or directory\).",
    ),
    "file in no directory": (
        ("-i", "lo", "--sink", "file:/none/records"),
        "--sink file:/none/records: there is no directory /none.",
    ),
    "standard output twice": (
        ("-i", "lo", "--sink", "-", "-"),
        "- is there twice: a record would be sent there twice.",
    ),
    "file size 0": (
        ("--file-size", "0", *COLLECTOR),
        ".*'--file-size': 0 is out of range: .* from 1 to 1048576, in MiB.",
    ),
    "file age 0": (
        ("--file-age", "0", *COLLECTOR),
        ".*'--file-age': 0 is out of range: .* from 1 to 31622400, in seconds.",
    ),
    "file keep 0": (
        ("--file-keep", "0", *COLLECTOR),
        ".*'--file-keep': 0 is out of range: .* from 1 to 1000000.",
    ),
    "sink with port 65536": (("--sink", "tcp://[::1]:65536"), "--sink .*: Port out of range.*"),
    "a sink twice": (
        ("--sink", "tcp://127.0.0.1:8094", *COLLECTOR),
        "tcp://127.0.0.1:8094 is there twice: a record would be sent there twice.",
    ),
    "address and port in one": (
        ("192.0.2.1:8094",),
        ".* give address and port as two, 192.0.2.1 8094.",
    ),
    "the same of IPv6": (("[::1]:8094",), ".* give address and port as two, ::1 8094."),
    "a port in both": (
        ("localhost:8094", "8094"),
        ".* give address and port as two, localhost 8094.",
    ),
    "a word with colons": (("a:b", "8094"), "'a:b' is neither a name nor an address."),
    "IPv6 in brackets": (("[::1]", "8094"), ".* is neither a name nor an address: give ::1."),
    "a URL and a port": (("tcp://127.0.0.1", "8094"), ".* is a URL: give it behind --sink."),
    "a sink that is a path": (("--sink", "./vtap.lp"), ".*, such as file:./vtap.lp."),
    "a sink of InfluxDB": (
        ("--sink", "influx://db:8086/vtap"),
        ".*, InfluxDB's with http: http://host:8086.db=NAME.",
    ),
    "ms for seconds": (
        ("-t", "500ms", *COLLECTOR),
        ".*'500ms' has a unit: give the number alone, in seconds: 0.5.",
    ),
    "bytes with a unit": (("--sequence-offset", "8B", "-"), ".* the number alone, in bytes."),
    "a URL": (("http://192.0.2.1:8086",), ".* is a URL: give it behind --sink."),
    "standard output with a port": (("-", "8094"), "- is standard output, .*: leave the port out."),
    "a unit": (
        ("-t", "10s", *COLLECTOR),
        ".*'10s' has a unit: give the number alone, in seconds: 10.",
    ),
    "a unit of bytes": (("--max-memory", "64M", "-"), ".*'64M' has a unit: .* alone, in MiB."),
    "a unit of none": (("--max-events", "1k", "-"), ".*'1k' has a unit: give the number alone."),
    "a sink without scheme": (
        ("--sink", "db:8086"),
        ".*begins with one of .*, such as tcp://db:8086.",
    ),
    "a misspelt probe": (
        ("--probe", "drop", "-"),
        ".*There is no probe 'drop'; .* Do you mean drops.*",
    ),
    "no port": (("127.0.0.1",), "Missing argument 'COLLECTOR_PORT'."),
    "unknown option": (("--colour", *COLLECTOR), "No such option '?--colour'?[.:].*"),
    "port 0": (("::1", "0"), ".*'0' is not a port: give a number from 1 to 65535."),
    "port 65536": (("::1", "65536"), ".*'65536' is not a port: give a number from 1 to 65535."),
    "an interface without -i": (
        ("lo", "127.0.0.1", "80"),
        ".*'127.0.0.1' is not a port: .* Is lo an interface. Give it behind -i.",
    ),
    "bits without an offset": (
        ("--sequence-bits", "16", *COLLECTOR),
        "--sequence-bits needs --sequence-offset.",
    ),
    "order without an offset": (
        ("--sequence", "--sequence-order", "little", *COLLECTOR),
        "--sequence-order needs --sequence-offset.",
    ),
    "threshold of nothing": (
        ("--sequence-threshold", "5", *COLLECTOR),
        "--sequence-threshold needs --sequence or --sequence-offset.",
    ),
    "spool size without a spool": (
        ("--spool-size", "5", *COLLECTOR),
        "--spool-size needs --spool.",
    ),
    "an option of drops": (
        ("--unique", "5", *COLLECTOR),
        "--unique is for --probe drops or traps.",
    ),
    "drop reasons without drops": (
        ("--drop-reasons", "NO_SOCKET", *COLLECTOR),
        "--drop-reasons is for --probe drops or traps.",
    ),
    "an option of flows": (
        ("--probe", "drops", "--sequence-offset", "4", *COLLECTOR),
        "--sequence-offset is for --probe flows.",
    ),
    "a number behind every payload": (
        ("--sequence-offset", "65530", "--sequence-bits", "64", *COLLECTOR),
        "--sequence-offset 65530 and 64 bits behind it: no payload is longer than 65535 bytes.",
    ),
    "for ever": (
        ("--duration", "1e300", *COLLECTOR),
        ".*'--duration': 1e300 is out of range: .*",
    ),
    "port abc": (("::1", "abc"), ".*'abc' is not a port: give a number from 1 to 65535."),
    "port -1": (("--", "::1", "-1"), ".*'-1' is not a port: give a number from 1 to 65535."),
    "a port behind the interface": (
        ("-i", "lo,eth0:8094", *COLLECTOR),
        "There cannot be an interface 'eth0:8094': .*",
    ),
    "a long interface": (
        ("-i", "x" * 128, *COLLECTOR),
        "There cannot be an interface 'x{128}': .*",
    ),
    "empty interface": (("-i", ",", *COLLECTOR), "--interface is empty: name an interface.*"),
    "unknown key field": (
        ("--key", "src_ip,colour", *COLLECTOR),
        ".*There is no key field 'colour'; there are src_ip, .+, vlan, tunnel_id.",
    ),
    "unknown tunnel": (
        ("--decapsulate", "vxlan,colour", *COLLECTOR),
        ".*There is no tunnel 'colour'; there are vxlan, .+, ipip.",
    ),
    "tunnel id without tunnels": (
        ("-i", "lo", "--key", "src_ip,tunnel_id", *COLLECTOR),
        "--key tunnel_id without --decapsulate: .+",
    ),
    "unknown format": (
        ("-f", "xml", *COLLECTOR),
        "Invalid value for '-f' / '--format': 'xml' is not one of 'influx', 'json'.",
    ),
    "unknown transport": (
        ("--transport", "sctp", *COLLECTOR),
        "Invalid value for '--transport': 'sctp' is not one of 'tcp', 'udp'.",
    ),
    "unknown direction": (
        ("--direction", "up", *COLLECTOR),
        "Invalid value for '--direction': 'up' is not one of 'ingress', 'egress', 'both'.",
    ),
    "not a host name": (
        ("a..b", "8094"),
        "The collector's name 'a..b' is none that a host can have: give a name or an IP address.",
    ),
    "interval too short": (
        ("-t", "0.09", *COLLECTOR),
        ".*: 0.09 is out of range: give a number from 0.1 to 3600, in seconds.",
    ),
    "interval too long": (
        ("-t", "3601", *COLLECTOR),
        ".*: 3601 is out of range: .*3600, in seconds.",
    ),
    "interval nan": (
        ("-t", "nan", *COLLECTOR),
        ".*: 'nan' is not a number: give one from 0.1 to 3600, in seconds.",
    ),
    "interval word": (
        ("-t", "soon", *COLLECTOR),
        ".*'--interval': 'soon' is not a number: give one from 0.1 to 3600, in seconds.",
    ),
    "intervals that do not fit": (
        ("-i", "lo", "-t", "1", "-j", "1.5", *COLLECTOR),
        "--jitter-interval is 1.5 s and --interval 1 s: one of the two must be a whole multiple .+",
    ),
    "jitter interval 0": (
        ("-j", "0", *COLLECTOR),
        ".*'--jitter-interval': 0 is out of range: .+, in seconds.",
    ),
    "expected gap": (("--expected-gap", "soon"), ".* give one from 0 to 3600000, in ms."),
    "sequence bits": (("--sequence-bits", "x"), ".*'x' is not one of 16, 32 and 64."),
    "sequence bits 8": (("--sequence-bits", "8"), ".*'8' is not one of 16, 32 and 64."),
    "half a packet": (("--max-datagram", "1.5"), ".*'1.5' is not a whole number: .*, in bytes."),
    "duration 0": (
        ("--duration", "0", *COLLECTOR),
        ".*'--duration': 0 is out of range: give a number above 0, up to 3162240000, in seconds.",
    ),
    "duration inf": (
        ("--duration", "inf", *COLLECTOR),
        ".*'--duration': inf is out of range: .*, up to 3162240000, in seconds.",
    ),
    "empty device": (
        ("-i", "lo", "-d", " ", *COLLECTOR),
        "--device-ip must have 1 to 255 characters: give the address that names this device.",
    ),
    "batch size 0": (
        ("-b", "0", *COLLECTOR),
        ".*'--batch-size': 0 is out of range: give a whole number from 1 to 1000000.",
    ),
    "flow table size 0": (
        ("--flow-table-size", "0", *COLLECTOR),
        ".*'--flow-table-size': 0 is out of range: .* from 64 to 16777216.",
    ),
    "small datagram": (
        ("-i", "lo", "--transport", "udp", "--max-datagram", "200", *COLLECTOR),
        r"--max-datagram 200 is too small: with these options a record may take \d+ bytes.",
    ),
    "large datagram": (
        ("--max-datagram", "65508", *COLLECTOR),
        ".*'--max-datagram': 65508 is out of range: .* from 1 to 65507, in bytes.",
    ),
}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A namespace with nothing but loopback, so that no other traffic is measured."""
    with Namespace() as new:
        yield new


@pytest.fixture
def listener(namespace: Namespace) -> Iterator[socket.socket]:
    """A collector on the namespace's loopback, which takes what comes as far as memory goes."""
    with namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((COLLECTOR[0], int(COLLECTOR[1])))
        listening.listen()
        yield listening


def failure(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What a command that failed said: nothing but one sentence, after usage if it was that."""
    assert code == done.returncode, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    if code == 2:
        usage = "Usage: vtap-stream [OPTIONS] [COLLECTOR_IP COLLECTOR_PORT]"
        hint = re.fullmatch(r"Try 'vtap-stream (--help|-h)' for help\.", lines[1])  # by version
        assert [usage, ""] == [lines[0], lines[2]]
        assert hint
        del lines[:3]
    (sentence,) = lines
    return sentence.removeprefix("Error: " if code == 2 else "vtap-stream: ")


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(namespace: Namespace, case: str) -> None:
    """Each argument that cannot be taken has its own sentence, and exit code 2."""
    arguments, sentence = USAGE[case]

    done = namespace.run(str(COMMAND), *arguments, check=False, timeout=DEADLINE)

    assert re.fullmatch(sentence, failure(done, 2))


def run_in(namespace: Namespace, *command: str, **environment: str) -> str:
    """The sentence of a command that fails at run time, in that environment."""
    done = namespace.run(
        *(*command, str(COMMAND), "-i", "lo", *COLLECTOR),
        check=False,
        timeout=DEADLINE,
        env={**os.environ, **environment},
    )
    return failure(done, 1)


def test_not_root(namespace: Namespace) -> None:
    """Another user than root is told what is missing."""
    become = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")

    sentence = run_in(namespace, *become)

    assert sentence.startswith("The kernel refuses to load BPF programs: run as root (CAP_BPF ")


def test_root_without_capabilities(namespace: Namespace) -> None:
    """Root in a container that may not load programs is told the same as another user."""
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")

    sentence = run_in(namespace, *drop)

    assert sentence.startswith("The kernel refuses to load BPF programs: run as root (CAP_BPF ")


@pytest.mark.usefixtures("nothing_compiled")
def test_no_bcc(namespace: Namespace, tmp_path: Path) -> None:
    """Without BCC the sentence names the distribution's package, and warns of the other one."""
    (tmp_path / "bcc.py").write_text("raise ImportError('No module named bcc')\n")

    sentence = run_in(namespace, PYTHONPATH=str(tmp_path))

    assert sentence.startswith("BCC is missing from this Python: install")
    assert "python3-bpfcc" in sentence


@pytest.mark.parametrize("compiled", [True, False])
def test_no_bpf(namespace: Namespace, request: pytest.FixtureRequest, *, compiled: bool) -> None:
    """A kernel without bpf(2) is named as the reason, with what the kernel said."""
    if compiled:
        with VtapStream(namespace, "-i", "lo", *COLLECTOR) as command:
            command.wait_until_measuring()
    else:
        request.getfixturevalue("nothing_compiled")
    with without_bpf() as wrapper:
        sentence = run_in(namespace, *wrapper)

    assert sentence.startswith("This kernel does not support what is needed of BPF (5.12 or newer")
    assert os.strerror(errno.ENOSYS) in sentence


@contextlib.contextmanager
def without_bpf() -> Iterator[tuple[str, ...]]:
    """A command that runs another one for which bpf(2) does not exist (ENOSYS), by seccomp(2)."""
    code = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None); "
        "text = ctypes.create_string_buffer(bytes.fromhex(sys.argv[1])); "
        "program = (ctypes.c_void_p * 2)(4, ctypes.addressof(text)); "
        "assert libc.prctl(38, 1, 0, 0, 0) == 0; "  # PR_SET_NO_NEW_PRIVS
        "assert libc.prctl(22, 2, program, 0, 0) == 0; "  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    instructions = (
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, BPF_SYSCALL),
        (0x06, 0, 0, 0x00050000 | errno.ENOSYS),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    text = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    yield (str(COMMAND.with_name("python")), "-c", code, text.hex())


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_waits_for_what_is_not_there(namespace: Namespace, host: str) -> None:
    """Without a route, a name's address, or an interface it starts, says so, and goes on trying."""
    options = ("-i", "lo,later0", "-t", "0.2", "--sink", "-", "--transport", "tcp")
    with VtapStream(namespace, *options, host, "8094") as command:
        command.wait_until_measuring()
        assert f"There is no way to tcp://{host}:8094 yet (" in command.said
        assert "later0 is not there yet; it is measured when it is (there are lo)" in command.said
        device = ("later0", "type", "veth", "peer", "name", "peer0")
        namespace.run("ip", "link", "add", *device)
        wait_for(lambda: "later0 is there, and measured" in command.said)
        namespace.run("ip", "link", "set", "peer0", "up")
        namespace.run("ip", "link", "set", "later0", "up")
        if host == "192.0.2.1":
            namespace.run("ip", "addr", "add", "192.0.2.2/24", "dev", "later0")
            wait_for(lambda: "The tag device says 192.0.2.2 from now on." in command.said)
        os.kill(command.pid, signal.SIGTERM)
        command.wait()


def test_version() -> None:
    """The version is the package's."""
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)

    assert f"vtap-stream, version {trapstream_vtap.__version__}\n" == done.stdout


def test_help() -> None:
    """Every option is in the help, each with a text of its own."""
    done = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)

    described = re.findall(r"^  (-.+?)(?:  +|\n +)[A-Z]", done.stdout, re.MULTILINE)
    named = {word for option in described for word in re.findall(r"(?<!\S)--?[a-z-]+", option)}
    assert named >= set(OPTIONS)
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def check_end(code: int, said: str, wanted: int = 0) -> None:
    """A run that ended as WANTED: that exit code, and one line of summary, the last."""
    assert code == wanted, said
    assert "Traceback" not in said
    summaries = [line for line in said.splitlines() if SUMMARY.fullmatch(line)]
    assert said.splitlines()[-1:] == summaries


def test_duration(namespace: Namespace, listener: socket.socket) -> None:
    """It stops by itself, and says in one line what became of the records."""
    begin = time.monotonic()

    done = namespace.run(str(COMMAND), "-i", "lo", "--duration", "0.5", *COLLECTOR)

    assert time.monotonic() - begin >= 0.5
    check_end(done.returncode, done.stderr)
    assert done.stdout == ""
    assert listener


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(namespace: Namespace, listener: socket.socket, number: signal.Signals) -> None:
    """SIGINT and SIGTERM end it as an end: what it measured is sent, and summed up in one line."""
    with VtapStream(namespace, "-i", "lo", "-t", "3600", *COLLECTOR) as command:
        command.wait_until_measuring()
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(7):
                sender.sendto(b"x", ("127.0.0.1", 9))
        os.kill(command.pid, number)
        summary = command.wait()

        check_end(0, command.said)
    assert SUMMARY.fullmatch(summary)
    connection, _ = listener.accept()
    with connection, connection.makefile() as stream:
        lines = list(stream)
    flows = [line for line in lines if ",dst_port=9," in line]
    assert sum(int(re.search(r" packets=(\d+)i,", line)[1]) for line in flows) == 7
    sent = sum(line.startswith("vtap_flow,") for line in lines)
    found = lastline.read(summary)
    assert (found.packets, found.records, found.lost) == (found.delivered, sent, 0)
    assert found.packets >= 7


def is_compiling(pid: int) -> bool:
    """Whether the command, or a process of its, has started the process that compiles."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(
        b"keeper.loader" in Path(f"/proc/{child}/cmdline").read_bytes() or is_compiling(int(child))
        for child in children
    )


@pytest.mark.usefixtures("nothing_compiled")
def test_interrupt_while_starting(namespace: Namespace, listener: socket.socket) -> None:
    """Ctrl-C before it measures, which every process of the terminal gets, is an end like any."""
    process = namespace.popen(
        *(str(COMMAND), "-i", "lo", *COLLECTOR),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE
        while not is_compiling(process.pid):
            assert time.monotonic() < deadline
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()

    check_end(process.returncode, said)
    assert listener


def test_collector_down(namespace: Namespace) -> None:
    """A collector that is down does not stop the measuring; what it missed is summed up as lost."""
    with VtapStream(namespace, "-i", "lo", "-t", "3600", *COLLECTOR) as command:
        command.wait_until_measuring()
        with namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", 9))
        summary = command.stop(code=3)

        check_end(3, command.said, 3)
        assert "is down (Connection refused); records wait in memory." in command.said
    found = lastline.read(summary)
    assert found.records == 0 < found.lost
    assert (
        found.why == f"undelivered {found.lost} ({found.packets} packet{'s' * (found.packets > 1)})"
    )
