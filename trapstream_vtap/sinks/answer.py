# SPDX-License-Identifier: Apache-2.0
"""What a server answers, read up to a limit: the status decides, the body is a word for a person.

Whoever reads it sees a short plain text, whatever came: gigabytes of zeros in gzip, chunks that are
none, a body without end.
"""

from __future__ import annotations

import http.client
import io
import zlib
from contextlib import suppress

_MOST_BYTES = 1 << 16  # of a body, as it comes and unpacked
_ANY_FRAME = 47  # window bits of zlib.h, header of gzip or zlib
_BODY = ("Content-Encoding", "Content-Length", "Transfer-Encoding")


class Answer(http.client.HTTPResponse):
    """An answer whose body has been read when its head has."""

    def begin(self) -> None:
        """Read all of it; a connection on which there is more to come is closed then."""
        super().begin()
        body = b""
        with suppress(OSError, ValueError, http.client.HTTPException):
            while len(body) < _MOST_BYTES and (part := self.read(_MOST_BYTES - len(body))):
                body += part
        whole = self.isclosed()
        if self.fp:
            self.fp.close()
        text = _unpacked(body, self.headers.get("Content-Encoding", ""))
        for name in _BODY:
            del self.headers[name]
        self.fp = io.BytesIO(text)  # type: ignore[assignment]
        self.chunked, self.length = False, len(text)
        self.will_close = self.will_close or not whole


def _unpacked(body: bytes, coding: str) -> bytes:
    """BODY as UTF-8 without its CODING, as far as it can be told."""
    if coding.lower() in ("gzip", "x-gzip", "deflate"):
        try:
            body = zlib.decompressobj(_ANY_FRAME).decompress(body, _MOST_BYTES)
        except zlib.error:
            body = b""
    return body.decode("utf-8", "replace").encode()
