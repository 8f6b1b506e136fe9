# SPDX-License-Identifier: Apache-2.0
"""Where records go: what `--sink` says, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import parse_qsl, urlencode, urlsplit

from trapstream_vtap.errors import UsageError

SCHEMES = ("tcp", "udp", "http", "https", "kafka", "file", "-")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One place that records go to.

    Args:
        scheme: One of `SCHEMES`.
        hosts: Host names or IP addresses, with ports; several only where a sink knows clusters.
        path: Behind the hosts, with its slash.
        query: Behind the path.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """As `--sink` takes it."""
        if not self.hosts:
            return f"{self.scheme}:{self.path}" if self.path else self.scheme
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{self.scheme}://{hosts}{self.path}{query}"


def parse(text: str) -> Address:
    """The address that TEXT, a value of `--sink`, says.

    Raises:
        UsageError: It says none.
    """
    if text == "-":
        return Address(text)
    if text.startswith("file:"):
        return Address("file", path=_file_path(text))
    try:
        parts = urlsplit(text)
        if parts.scheme not in SCHEMES:
            raise _wrong(text, f"a sink begins with one of {', '.join(SCHEMES)}{_meant(text)}")
        if "@" in parts.netloc:
            shown = text.replace(parts.netloc.rpartition("@")[0], "…")
            raise _wrong(shown, "names and passwords do not belong on the command line")
        hosts = tuple(_host(text, parts.scheme, word) for word in parts.netloc.split(","))
        query = tuple(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    except ValueError as error:
        raise _wrong(text, str(error)) from error
    if parts.fragment:
        raise _wrong(text, "there is a # in it")
    return Address(parts.scheme, hosts, parts.path, query)


def _meant(text: str) -> str:
    """What TEXT, which is no address, may stand for, behind a sentence."""
    if re.fullmatch(r"[\w.\[\]:-]+:[0-9]+", text):
        return f", such as tcp://{text}"
    if re.match(r"\.{0,2}/[^/]", text):
        return f", such as file:{text}"
    if text.startswith(("influx:", "influxdb:")):
        return ", InfluxDB's with http: http://host:8086?db=NAME"
    return ""


def is_ipv6(host: str) -> bool:
    """Whether HOST is an IPv6 address, perhaps with a zone (RFC 4007 section 11)."""
    try:
        return IPv6Address(host) is not None
    except ValueError:
        return False


def _file_path(text: str) -> str:
    """As a shell would say it: in a path `%`, `?` and `#` are themselves."""
    path = text.removeprefix("file:")
    if path.startswith("//") and not path.startswith("///"):
        raise _wrong(text, "give file:/path")
    path = path.removeprefix("//")
    if not path or path.endswith("/") or "\0" in path:
        raise _wrong(text, "give file:/path")
    return path


def plain(address: Address) -> Address:
    """ADDRESS, if it is one host and port and nothing else.

    Raises:
        UsageError: It says more.
    """
    if len(address.hosts) > 1 or address.path.strip("/") or address.query:
        raise _wrong(str(address), f"give {address.scheme}://host:port")
    return Address(address.scheme, address.hosts)


def _host(text: str, scheme: str, word: str) -> tuple[str, int]:
    parts = urlsplit(f"//{word}")
    port = parts.port or _DEFAULT_PORTS.get(scheme, 0)
    if not parts.hostname or not port:
        raise _wrong(text, f"give {scheme}://host:port")
    return parts.hostname, port


def _wrong(text: str, wanted: str) -> UsageError:
    return UsageError(f"--sink {text!r}: {wanted}.")
