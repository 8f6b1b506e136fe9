# SPDX-License-Identifier: Apache-2.0
"""Formats: a Schema and the labels of this run, compiled into a plan for the native renderer."""

from trapstream_vtap.formats.influx import INFLUX
from trapstream_vtap.formats.json import JSON, JSON_DATAGRAM, JSON_LINES
from trapstream_vtap.formats.plan import Format, compile_plan, longest, safe_text

__all__ = [
    "INFLUX",
    "JSON",
    "JSON_DATAGRAM",
    "JSON_LINES",
    "Format",
    "compile_plan",
    "longest",
    "safe_text",
]
