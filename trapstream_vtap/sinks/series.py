# SPDX-License-Identifier: Apache-2.0
"""From a rendered record back to its series and time, in either format."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from trapstream_vtap.formats import INFLUX

if TYPE_CHECKING:
    from collections.abc import Iterator

_MS = 1_000_000  # ns
_SPACE = re.compile(rb"(?<!\\) ")  # in a tag there is a backslash before it, and nowhere else
_TEXT = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TAGS = re.compile(rb'"name":%b(?:,"[A-Za-z_]+":%b)*' % (_TEXT, _TEXT))


def records(payload: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Each record of PAYLOAD, one a line: its series, itself, its time (ms since the epoch).

    The series is the measurement with the tags, as line protocol writes them; it is the same bytes
    in both formats, but of dropped packets those that stand deeper in the object are not in it.
    """
    read = _object if payload.startswith(b"{") else _line
    return map(read, payload.removesuffix(b"\n").split(b"\n"))


def measurement(series: bytes) -> str:
    """Of a SERIES."""
    return series.partition(b",")[0].decode()


def _line(record: bytes) -> tuple[bytes, bytes, int]:
    key = _SPACE.split(record, 1)[0]
    return key, record, int(record[record.rindex(b" ") + 1 :]) // _MS


def _object(record: bytes) -> tuple[bytes, bytes, int]:
    found = _TAGS.match(record, 1)
    if not found:
        raise ValueError(f"not a record: {record!r}")
    return _series(found[0]), record, _ms(record[record.rindex(b":") + 1 : -1])


def _ms(time: bytes) -> int:
    """TIME in ns, or in seconds and ns as a string."""
    return int(time.strip(b'"').replace(b".", b"")) // _MS


def _series(tags: bytes) -> bytes:
    """The series that TAGS say, members of a JSON object."""
    plain = not (b"\\" in tags or b" " in tags or b"=" in tags)
    if plain and tags.count(b",") + 1 == tags.count(b'":"'):
        return tags[len('"name":"') : -1].replace(b'","', b",").replace(b'":"', b"=")
    name, *rest = orjson.loads(b"{%b}" % tags).items()
    words = [b"%b=%b" % (tag.encode(), INFLUX.text(value)) for tag, value in rest]
    return b",".join((name[1].encode(), *words))
