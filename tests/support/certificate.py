# SPDX-License-Identifier: Apache-2.0
"""Certificates for 127.0.0.1, each its own authority, made by openssl."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make(directory: Path, *names: str) -> None:
    """NAME.pem and NAME.key in DIRECTORY for each of NAMES."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in names:
        files = ("-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem")
        subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
        subprocess.run(
            ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", *subject, *files],
            check=True,
            capture_output=True,
        )
