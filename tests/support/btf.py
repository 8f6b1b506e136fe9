# SPDX-License-Identifier: Apache-2.0
"""Names of an enumeration out of a kernel's type information (BTF), read apart from the product.

See: https://docs.kernel.org/bpf/btf.html
"""

from __future__ import annotations

import array
import struct

_ENUM = 6
_FIXED = {1: 1, 3: 3, 14: 1, 17: 1}  # words behind the head: INT, ARRAY, VAR, DECL_TAG
_EACH = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}  # words for each member


def enumeration(data: bytes, name: str) -> dict[str, int]:
    """The constants of the enumeration NAME in BTF DATA, by name; empty if there is none."""
    head, types, length, strings = struct.unpack_from("<4xIIII", data)
    words = array.array("I", data[head + types :][:length])

    def text(at: int) -> str:
        start = head + strings + at
        return data[start : data.index(b"\0", start)].decode()

    at = 0
    while at < len(words):
        kind, count = words[at + 1] >> 24 & 31, words[at + 1] & 0xFFFF
        members = at + 3
        if kind == _ENUM and text(words[at]) == name:
            pairs = words[members : members + 2 * count]
            return {text(n): v for n, v in zip(pairs[::2], pairs[1::2], strict=True)}
        at = members + (_EACH[kind] * count if kind in _EACH else _FIXED.get(kind, 0))
    return {}
