# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what may stand in it, and what is said about what may not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from configurations import chosen
from program import FlowProgram, settings
from rulesets import crowded

from lab.command import COMMAND
from lab.namespace import Namespace
from trapstream_vtap import cli
from trapstream_vtap.clock import NS
from trapstream_vtap.errors import UsageError
from trapstream_vtap.probes.flows.layouts import JitterInterval
from trapstream_vtap.settings.file import parse, read, without_comments
from trapstream_vtap.settings.settings import keys

EXAMPLES = sorted((Path(__file__).parent.parent / "conf").glob("*.json"))

ERRORS = {
    "not JSON": ('{\n"RULES": [}', r"line 2: Expecting value, at '\"RULES\": \[}'."),
    "nothing": ("// only this", "line 1: Expecting value, at .*"),
    "a list": ("[]", r"an object in {} belongs there, not \[\]."),
    "twice": ('{"OFFSET": 1, "OFFSET": 2}', "OFFSET is there twice, the second time with 2."),
    "unknown": (
        '{"COLOUR": 1}',
        r"there is no key 'COLOUR'\. There are MONITOR_SERVER, .*, \w+\.",
    ),
    "config in it": ('{"config": "x"}', "there is no key 'config'. There are MONITOR_SERVER, .*"),
    "misspelt": ('{"intervall": 1}', "there is no key 'intervall'. Do you mean interval[?]"),
    "rules": ('{"RULES": "- - - - -"}', 'RULES is "- - - - -": give a list of rules, .*'),
    "rule": ('{"RULES": [5]}', r"RULES is \[5\]: give a list of rules, .*"),
    "bad rule": (
        '{"RULES": ["- - - - udp", "- - - x udp"]}',
        "RULES, rule 2, '- - - x udp': destination port 'x': a port is .*",
    ),
    "too many rules": (
        json.dumps({"RULES": crowded(600, 3)}),
        "RULES: 600 rules with too many values for a kernel program: use prefixes and .*",
    ),
    "tunnel": ('{"decapsulate": "ipsec"}', "decapsulate: There is no tunnel 'ipsec'; there are .*"),
    "hook": ('{"hook": "kprobe"}', "hook: 'kprobe' is not one of 'tc', 'xdp', 'socket'."),
    "display": ('{"DISPLAY": []}', r"DISPLAY is \[\]: give an object with any of Throughput, .*"),
    "display name": ('{"DISPLAY": {"Speed": true}}', "DISPLAY: there is no 'Speed'; there are .*"),
    "display value": (
        '{"DISPLAY": {"Jitter": "yes"}}',
        'DISPLAY.Jitter is "yes": give true, false, "True" or "False".',
    ),
    "pattern": ('{"PATTERN": "0x123456789"}', 'PATTERN is "0x123456789": give 32 bits as .*'),
    "pattern number": ('{"PATTERN": 5}', "PATTERN is 5: give 32 bits as .*"),
    "offset": ('{"OFFSET": -2}', "OFFSET is -2: give a whole number from -1 to 5000."),
    "offset type": ('{"OFFSET": true}', "OFFSET is true: give a whole number from -1 to 5000."),
    "threshold": ('{"SEQUENCE_THRESHOLD": 0}', "SEQUENCE_THRESHOLD is 0: give a whole number .*"),
    "log": ('{"LOG_DATA": 1}', "LOG_DATA is 1: give true, false, .*"),
    "NaN": ('{"interval": NaN}', "NaN is no value."),
    "option type": ('{"interval": "1"}', 'interval is "1": give a number, in seconds.'),
    "option number": ('{"batch_size": 5.5}', "batch_size is 5.5: give a whole number."),
    "option boolean": ('{"batch_size": true}', "batch_size is true: give a whole number."),
    "option range": (
        '{"interval": 0}',
        "interval: 0 is out of range: give a number from 0.1 to 3600, in seconds.",
    ),
    "option choice": ('{"format": "xml"}', "format: 'xml' is not one of 'influx', 'json'."),
    "option flag": ('{"bits": 1}', "bits is 1: give true, false, .*"),
    "option list": ('{"interface": [1]}', r"interface is \[1\]: give a string, or a list .*"),
    "key field": ('{"key": ["colour"]}', "key: There is no key field 'colour'; there are .*"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str, tmp_path: Path) -> None:
    """What cannot be is said with the file, the line or key, and the value; exit code 2."""
    text, sentence = ERRORS[case]
    path = tmp_path / "vtap.json"
    path.write_text(text)

    done = CliRunner().invoke(cli.main, ["-c", str(path), "127.0.0.1", "8094"])

    assert done.exit_code == 2
    assert re.fullmatch(f"Error: {re.escape(str(path))}: {sentence}", done.output.splitlines()[-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "x//y"} // "z"', {"a": "x//y"}),
        ('// {\n{"a": "\\\\"} // "', {"a": "\\"}),
        ('{"a": "\\"//", // b\n"c": 1}', {"a": '"//', "c": 1}),
    ],
)
def test_comments(text: str, expected: dict[str, object]) -> None:
    """Comments go, wherever they stand; what looks like one within a string stays."""
    assert json.loads(without_comments(text)) == expected


def test_lines_are_kept() -> None:
    """An error behind a comment names the line of the file."""
    with pytest.raises(UsageError, match=r"^line 4: "):
        parse('// one\n{ // two\n"OFFSET": 1,\n oops}', keys())


@pytest.mark.parametrize("word", ["10", "5EC70123", "0xFFFFFFFF"])
def test_pattern_as_an_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str) -> None:
    """In the file the option says the same pattern as on the command line."""
    path = tmp_path / "vtap.json"
    path.write_text(json.dumps({"sequence_offset": 4, "sequence_pattern": word}))

    made = chosen(monkeypatch, "-i", "lo", "-c", str(path))

    assert made.pattern == int(word, 16)


def test_tunnels_and_hooks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tunnels are named by a string or a list, in any order."""
    path = tmp_path / "vtap.json"
    for names in ("gtpu, vxlan", ["gtpu", "vxlan"]):
        path.write_text(
            json.dumps({"decapsulate": names, "key": "tunnel_id", "promiscuous": "True"})
        )
        made = chosen(monkeypatch, "-i", "lo", "--hook", "xdp", "-c", str(path))
        assert (made.decapsulate, made.key) == (("vxlan", "gtpu"), ("tunnel_id",))
        assert (made.hook, made.promiscuous) == ("xdp", True)


def test_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Options in the file count, under their long names; the command line wins, wherever it is."""
    path = tmp_path / "vtap.json"
    path.write_text(
        '{"interface": ["lo"], "interval": 5, "bits": "True", "device_ip": "a", "format": "json",'
        '"key": ["src_ip", "vlan"], "batch_size": 7, "PATTERN": "0x1a2B", "OFFSET": 3,'
        '"SEQUENCE_THRESHOLD": 9, "DISPLAY": {"Jitter": "False", "SEQ_ERRORS": false}}'
    )

    made = chosen(monkeypatch, "-t", "2", "-c", str(path), "-b", "8")

    assert (made.interval, made.batch_size) == (2_000_000_000, 8)
    assert made.jitter is JitterInterval.SAME
    assert [i.name for i in made.interfaces] == ["lo"]
    assert (made.bits, made.device, made.format) == (True, "a", "json")
    assert made.key == ("src_ip", "vlan")
    assert (made.pattern, made.offset, made.sequence_threshold) == (0x1A2B, 3, 9)
    assert made.hidden == {"Jitter", "SEQ_ERRORS"}


@pytest.mark.parametrize(
    ("options", "intervals", "jitter"),
    [
        ((), (NS, NS), JitterInterval.SAME),
        (("-t", "5"), (5 * NS, 5 * NS), JitterInterval.SAME),
        (("-t", "5", "-j", "5"), (5 * NS, 5 * NS), JitterInterval.SAME),
        (("-j", "0.1"), (NS // 10, NS), JitterInterval.SHORTER),
        (("-t", "0.1", "-j", "0.3"), (NS // 10, 3 * NS // 10), JitterInterval.LONGER),
        (("-t", "0.3", "-j", "3600"), (3 * NS // 10, 3600 * NS), JitterInterval.LONGER),
    ],
)
def test_jitter_interval(
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    intervals: tuple[int, int],
    jitter: JitterInterval,
) -> None:
    """It is that of --interval unless it is given, and either may be the longer."""
    made = chosen(monkeypatch, "-i", "lo", *options)

    assert (made.intervals, made.jitter) == (intervals, jitter)


def test_jitter_interval_in_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It can stand in the file; where jitter is not displayed it means nothing."""
    path = tmp_path / "vtap.json"
    path.write_text('{"jitter_interval": 10}')
    assert chosen(monkeypatch, "-i", "lo", "-c", str(path)).jitter_interval == 10 * NS
    assert chosen(monkeypatch, "-i", "lo", "-c", str(path), "-j", "2").jitter_interval == 2 * NS

    path.write_text('{"jitter_interval": 10, "DISPLAY": {"Jitter": "False"}}')
    assert chosen(monkeypatch, "-i", "lo", "-c", str(path)).jitter is JitterInterval.SAME


def test_not_wanted() -> None:
    """The original's values for nothing mean nothing."""
    found = parse('{"PATTERN": "0xFFFFFFFF", "OFFSET": -1}', keys())

    assert found.fields == {"pattern": None, "offset": None}


ALL = "0.0.0.0"  # noqa: S104 - as the original listens


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"True"', (ALL, 8080)),
        ("true", (ALL, 8080)),
        ("9090", (ALL, 9090)),
        ('"False"', None),
    ],
)
def test_monitor_server(value: str, expected: tuple[str, int] | None) -> None:
    """The original's endpoint for Prometheus is where the original had it, or at another port."""
    found = parse(f'{{"MONITOR_SERVER": {value}}}', keys())
    assert found.fields == {"metrics": expected}


@pytest.mark.parametrize("value", ["0", "65536", "-1", "8080.0", '"8080"', "null"])
def test_no_monitor_server(value: str) -> None:
    """What is neither a port nor a boolean is an error that names the key."""
    with pytest.raises(UsageError, match="MONITOR_SERVER is "):
        parse(f'{{"MONITOR_SERVER": {value}}}', keys())


def test_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Prometheus alone is collector enough; the command line wins over MONITOR_SERVER."""
    path = tmp_path / "vtap.json"
    path.write_text('{"MONITOR_SERVER": true, "metrics_flows": 7}')
    made = chosen(monkeypatch, "-i", "lo", "-c", str(path), collector=())
    assert (made.sinks, made.metrics, made.metrics_flows) == ((), (ALL, 8080), 7)
    made = chosen(monkeypatch, "-i", "lo", "-c", str(path), "--metrics", "[::1]:80", collector=())
    assert made.metrics == ("::1", 80)


def test_log_data(tmp_path: Path) -> None:
    """LOG_DATA logs the records of each run in a file of its own in the working directory.

    Its name has date and time; no collector is needed; reading the configuration again is no run.
    """
    path = tmp_path / "vtap.json"
    path.write_text('{"LOG_DATA": "True", "interface": "lo", "user": "root"}')
    begin = datetime.now().replace(microsecond=0)  # noqa: DTZ005 - as a person reads a name
    with Namespace() as namespace:
        process = namespace.popen(
            *(str(COMMAND), "-c", str(path)), stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        try:
            assert "measuring" in process.stderr.readline()
            process.send_signal(signal.SIGHUP)
            assert "the configuration was read again" in process.stderr.readline()
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()
        (log,) = tmp_path.glob("*.log")
    name = re.fullmatch(r"vtap-stream-(\d{8}-\d{6})-\d+\.log", log.name)
    made = datetime.strptime(name[1], "%Y%m%d-%H%M%S")  # noqa: DTZ007 - the same
    assert begin <= made <= datetime.now()  # noqa: DTZ005 - the same
    assert log.read_text().startswith("vtap_agent,")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example in conf/ is accepted by the command, and its program loads."""
    made = chosen(monkeypatch, "-c", str(path), "-i", "lo")
    program = FlowProgram(settings(made.key, rules=[rule.text for rule in made.rules]))
    program.close()


def test_missing_file() -> None:
    """A file that is not there is named."""
    done = subprocess.run(
        [COMMAND, "-c", "/nowhere.json", "127.0.0.1", "8094"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "Error: /nowhere.json: cannot be read (No such file or directory).\n"
    )


LONG = "x" * 5000
HOSTILE = {
    "a number of 5,000 digits": '{"interval": ' + "1" * 5000 + "}",
    "a fraction of 5,000 digits": '{"interval": 1.' + "1" * 5000 + "}",
    "half of a character": '{"device_ip": "\\ud800"}',
    "half of a character in a key": '{"\\udfff": 1}',
    "half of a character in a list": '{"sink": ["file:/tmp/\\ud800"]}',
    "a zero": '{"spool": "/tmp/a\\u0000b"}',
    "a long name for the spool": '{"spool": "/tmp/' + LONG + '"}',
    "a long way to the spool": '{"spool": "/tmp/' + LONG + '/x"}',
    "a long name for a file": '{"sink": ["file:/tmp/' + LONG + '"]}',
    "a long way to a file": '{"sink": ["file:/tmp/' + LONG + '/x"]}',
    "300 KB of quotes": '"\\' * 150_000,
    "300 KB of slashes": '"/' * 150_000,
    "2 MiB": " " * (2 << 20),
    "5,000 rules": json.dumps(
        {"RULES": [f"10.0.{n // 250}.{n % 250} - - - tcp" for n in range(5000)]}
    ),
    "brackets": "[" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    """Whatever a file says, the answer is one sentence, and at once."""
    (tmp_path / "vtap.json").write_text(HOSTILE[name])
    begun = time.monotonic()
    done = CliRunner().invoke(
        cli.main, ["-c", str(tmp_path / "vtap.json"), "-i", "lo", "127.0.0.1", "9"]
    )
    assert time.monotonic() - begun < 2
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_bytes_around_the_text(tmp_path: Path, start: str, end: str) -> None:
    """A byte order mark, and lines ended as other systems end them, are no error."""
    text = start + end.join(('{ // comment "', '"OFFSET": 4, // another', '"interval": 2}', ""))
    (tmp_path / "vtap.json").write_bytes(text.encode())
    found = read(tmp_path / "vtap.json", keys())
    assert (found.fields, found.options) == ({"offset": 4}, (("interval", 2),))
