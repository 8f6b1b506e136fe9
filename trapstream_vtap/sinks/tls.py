# SPDX-License-Identifier: Apache-2.0
"""TLS to collectors: whom to trust, and who we are."""

from __future__ import annotations

import ssl

from trapstream_vtap.errors import UsageError


def context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """A client's side of TLS that checks the collector's certificate and name.

    Args:
        ca: PEM file of the authorities to trust; None: the system's.
        cert: PEM file with the client certificate, if it is asked for one.
        key: PEM file with its private key; None: it is in CERT.

    Raises:
        UsageError: A file cannot be used; the sentence says which.
    """
    if key and not cert:
        raise UsageError("--tls-key needs --tls-cert: the certificate that the key belongs to.")
    try:
        made = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise UsageError(f"--tls-ca {ca}: {_why(error)}.") from error
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        try:
            made.load_cert_chain(cert, key, password="")  # a key with a password is an error
        except OSError as error:
            files = f"--tls-cert {cert}" + (f", --tls-key {key}" if key else "")
            raise UsageError(f"{files}: {_why(error)}.") from error
    return made


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a PEM file that fits ({error.reason or error})"
    return f"cannot be read ({error.strerror})"
