# SPDX-License-Identifier: Apache-2.0
"""Credentials that are renewed on disk, also in files that only root may read."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import certificate
import pytest
import tap
from alone import alone
from flowlines import Handing, booked
from httpserver import Answer, HttpServer, Request, taken
from realbroker import Broker
from traffic import Wire
from waiting import wait_for

from lab.command import COMMAND
from trapstream_vtap import credentials, privileges
from trapstream_vtap.errors import UsageError
from trapstream_vtap.keeper import client
from trapstream_vtap.probes.flows.settings import FlowSettings
from trapstream_vtap.settings.address import parse
from trapstream_vtap.sinks import kafka, tls
from trapstream_vtap.sinks.http import HttpSink
from trapstream_vtap.sinks.kafka import KafkaSink


def test_token_renewed_before_it_is_refused(tmp_path: Path) -> None:
    """A token that is refused is read again, and the payload is sent with the new one."""
    path = tmp_path / "token"
    path.write_text("old")
    accepted = ["Token old"]

    def answer(request: Request, _: int) -> Answer:
        if request.headers["authorization"] in accepted:
            return taken(request)
        return Answer(401, "unauthorized access")

    with HttpServer(answer) as server:
        where = parse(f"http://127.0.0.1:{server.port}?bucket=x")
        with Handing(HttpSink(where, str(path), None)) as handing:
            handing.put(range(10))
            assert handing.account() == (booked(range(10)), {})
            path.write_text("new")
            accepted[:] = ["Token new"]
            handing.put(range(10, 30))
            assert handing.account() == (booked(range(30)), {})
            accepted.clear()  # and one that stays as it was is refused, as ever
            handing.put(range(30, 40))
            assert handing.account()[1] == {"refused": booked(range(30, 40))}
            path.write_text("")
            handing.sender._closing.clear()
            handing.sender.renew()
            wait_for(lambda: "credentials stay as they were" in handing.said[-1])
            assert f"--token-file {path}: is empty." in handing.said[-1]


def test_half_a_certificate(tmp_path: Path) -> None:
    """Files that do not fit are named, and the connection goes on with those before."""
    certificate.make(tmp_path, "client", "other")
    pem, key = tmp_path / "client.pem", tmp_path / "client.key"
    contexts = tls.Contexts(None, str(pem), str(key))
    before = contexts.latest
    assert not contexts.renew()
    shutil.copy(tmp_path / "other.pem", pem)
    with pytest.raises(UsageError, match="not a PEM file that fits"):
        contexts.renew()
    assert contexts.latest is before
    shutil.copy(tmp_path / "other.key", key)
    assert contexts.renew()
    assert contexts.latest is not before


def test_properties_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that are not trusted are tried again with the properties as they are by then."""
    monkeypatch.setattr(kafka, "_CONNECT_TRIES", 1)
    certificate.make(tmp_path, "server", "stranger")
    properties = tmp_path / "kafka.properties"

    def trust(name: str) -> None:
        properties.write_text(f"security.protocol=ssl\nssl.ca.location={tmp_path / name}.pem\n")

    trust("stranger")
    with Broker(tmp_path, certificate=tmp_path / "server") as broker:
        sink = KafkaSink(parse(f"kafka://{broker.hosts}"), str(properties))
        with Handing(sink) as handing:
            handing.put(range(100))
            wait_for(lambda: any("certificate verify failed" in s for s in handing.said))
            trust("server")
            assert handing.account() == (booked(range(100)), {})


class Server:
    """A TLS server that remembers which certificates its clients have shown."""

    def __init__(self, certificates: Path, *trusted: str) -> None:
        self.serials: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        for name in trusted:
            context.load_verify_locations(certificates / f"{name}.pem")
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._read, args=(accepted,), daemon=True).start()

    def _read(self, accepted: socket.socket) -> None:
        try:
            with self._context.wrap_socket(accepted, server_side=True) as secured:
                self.serials.append(str((secured.getpeercert() or {})["serialNumber"]))
                while secured.recv(1 << 16):
                    pass
        except OSError:
            return

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory that only root may enter, with certificates."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    certificate.make(directory, "server", "first", "second")
    for name in ("pem", "key"):
        shutil.copy(directory / f"first.{name}", directory / f"client.{name}")
        (directory / f"client.{name}").chmod(0o600)
    return directory


def test_sighup(files: Path) -> None:
    """As nobody, it shows after SIGHUP a certificate that root alone may read; nothing is lost."""
    options = ["--tls", "-i", "wire0", "-t", "0.2"]
    for name, found in {"ca": "server.pem", "cert": "client.pem", "key": "client.key"}.items():
        options += [f"--tls-{name}", str(files / found)]
    with Wire() as wire, ExitStack() as stack:
        with wire.receiver.entered():
            server = Server(files, "first", "second")
        stack.callback(server.close)
        command = (str(COMMAND), *options, "127.0.0.1", str(server.port))
        process = wire.receiver.popen(*command, stderr=subprocess.PIPE, text=True)
        stack.callback(process.kill)
        assert "measuring" in process.stderr.readline()
        sender = wire.udp(socket.AF_INET, 7001)
        sender.send(b"one")
        wait_for(lambda: server.serials)
        for name in ("pem", "key"):
            shutil.copyfile(files / f"second.{name}", files / f"client.{name}")
        process.send_signal(signal.SIGHUP)
        assert "credentials were read again" in process.stderr.readline()
        sender.send(b"two")
        wait_for(lambda: len(server.serials) == 2)
        process.terminate()
        assert process.wait(tap.DEADLINE) == 0
        said = process.communicate()[1]
    assert len(set(server.serials)) == 2
    assert " 0 records lost" in said, said


def test_keeper_opens_no_other_file(files: Path) -> None:
    """Whatever it is asked for, the keeper hands over the configured files, and no other."""
    own = str(files / "client.key")
    none, device = str(files / "none"), "/dev/zero"
    chosen = FlowSettings(tls_key=own, tls_ca=none, token_file=device)
    keeper = client.Keeper(alone(chosen), None)
    try:
        for request in (b"credentials", b"/etc/shadow", b"credentials\n/etc/shadow", b"\xff"):
            names, (descriptor,) = keeper._ask(keeper._files, request)
            assert names == [own]
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(descriptor, b"x")
            with os.fdopen(descriptor, "rb") as file:
                assert file.read() == (files / "client.key").read_bytes()
    finally:
        keeper.close()


def test_kafka_key_of_root(files: Path) -> None:
    """The private key that a file of properties names is read for librdkafka, which is nobody."""
    properties = files.parent / "kafka.properties"
    key = files / "client.key"
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        certificate_file = Path(public) / "client.pem"
        shutil.copy(files / "client.pem", certificate_file)
        certificate_file.chmod(0o644)
        properties.write_text(
            f"security.protocol=ssl\nssl.certificate.location={certificate_file}\n"
            f"ssl.key.location = {key}\n"
        )
        sink = KafkaSink(parse("kafka://127.0.0.1:9"), str(properties))
        with privileges.acting("nobody"), pytest.raises(ConnectionError) as raised:
            sink.open()
    assert "Connection refused" in str(raised.value)
    assert credentials.paths(FlowSettings(kafka_config=str(properties))) == (
        str(properties),
        str(key),
    )
    key.unlink()
    with pytest.raises(UsageError, match=r"ssl.key.location .*client.key: No such file"):
        sink.renew()
