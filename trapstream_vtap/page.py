# SPDX-License-Identifier: Apache-2.0
"""What is answered over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


class Page(NamedTuple):
    """What is answered: HTTP status, content type and body."""

    status: int
    kind: str
    body: bytes


def json_page(status: int, body: Mapping[str, object]) -> Page:
    """A page in JSON."""
    return Page(status, "application/json", orjson.dumps(body) + b"\n")
