# SPDX-License-Identifier: Apache-2.0
"""What an HTTP client would rather have, by the q-values of what it accepts.

See: RFC 9110, sections 12.4.2, 12.5.1 and 12.5.3
"""

from __future__ import annotations

import re

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"?')  # in linear time, whatever there is
_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|\Z)", re.IGNORECASE)


def weights(header: str) -> dict[str, float]:
    """The weight of each name in an Accept or Accept-Encoding HEADER, the parameters left out.

    Of a name that is there several times, with other parameters, the greatest.
    """
    found: dict[str, float] = {}
    for element in _QUOTED.sub("", header).split(","):
        name = element.partition(";")[0].strip().lower()
        given = _WEIGHT.search(element)
        if name:
            found[name] = max(found.get(name, 0.0), min(float(given[1]), 1.0) if given else 1.0)
    return found


def media_type_weight(header: str, name: str) -> float:
    """How much a client that sends an Accept HEADER wants the media type NAME, 0 to 1.

    The range that says most decides. Without the header, any is as good as another.
    """
    given = weights(header) or {"*/*": 1.0}
    for range_ in (name, f"{name.partition('/')[0]}/*", "*/*"):
        if range_ in given:
            return given[range_]
    return 0.0


def wants_gzip(header: str) -> bool | None:
    """Whether a client that sends an Accept-Encoding HEADER wants gzip; None: nothing else."""
    given = weights(header)
    gzip = given.get("gzip", given.get("x-gzip", given.get("*", 0.0)))
    identity = given.get("identity", given.get("*"))
    if gzip and identity == 0:
        return None
    return gzip > 0 and gzip >= (identity or 0.0)
