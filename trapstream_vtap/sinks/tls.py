# SPDX-License-Identifier: Apache-2.0
"""TLS to collectors: whom to trust, and who we are."""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trapstream_vtap.credentials import read_file
from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Contexts:
    """A client's side of TLS that checks the collector's certificate and name, as its files say.

    Args:
        ca: PEM file of the authorities to trust; None: the system's.
        cert: PEM file with the client certificate, if it is asked for one.
        key: PEM file with its private key; None: it is in CERT.
        read: Reads a file.

    Raises:
        UsageError: A file cannot be used; the sentence says which.
    """

    def __init__(
        self,
        ca: str | None,
        cert: str | None,
        key: str | None,
        read: Callable[[str], bytes] = read_file,
    ) -> None:
        if key and not cert:
            raise UsageError("--tls-key needs --tls-cert: the certificate that the key belongs to.")
        self._files = {"--tls-ca": ca, "--tls-cert": cert, "--tls-key": key}
        self._read = read
        self._contents = self._read_files()
        self.latest = self._made(self._contents)
        """For new connections."""

    def renew(self) -> bool:
        """Read the files again; whether they have changed.

        Raises:
            UsageError: One cannot be used; all stays as it was.
        """
        contents = self._read_files()
        if contents == self._contents:
            return False
        self.latest = self._made(contents)
        self._contents = contents
        return True

    def _read_files(self) -> dict[str, bytes]:
        contents = {}
        for option, path in self._files.items():
            try:
                if path:
                    contents[option] = self._read(path)
            except OSError as error:
                raise UsageError(
                    f"{self._named(option)}: cannot be read ({error.strerror})."
                ) from error
        return contents

    def _named(self, option: str) -> str:
        """The files of which one is that of OPTION, as a person gave them."""
        options = ("--tls-ca",) if option == "--tls-ca" else ("--tls-cert", "--tls-key")
        return ", ".join(f"{name} {self._files[name]}" for name in options if self._files[name])

    def _made(self, contents: dict[str, bytes]) -> ssl.SSLContext:
        try:
            with _path(contents.get("--tls-ca")) as authorities:
                made = ssl.create_default_context(cafile=authorities)
        except OSError as error:
            raise self._wrong("--tls-ca", error) from error
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._files["--tls-cert"]:
            cert = contents["--tls-cert"]
            try:
                with _path(cert) as chain, _path(contents.get("--tls-key", cert)) as key:
                    assert chain  # noqa: S101 - there is a file
                    made.load_cert_chain(chain, key, password="")  # a key with one is an error
            except OSError as error:
                raise self._wrong("--tls-cert", error) from error
        return made

    def _wrong(self, option: str, error: OSError) -> UsageError:
        why = getattr(error, "reason", None) or error
        return UsageError(f"{self._named(option)}: not a PEM file that fits ({why}).")


@contextmanager
def _path(data: bytes | None) -> Iterator[str | None]:
    """Where DATA can be opened for a while, in memory: OpenSSL takes certificates by path alone."""
    if data is None:
        yield None
        return
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
