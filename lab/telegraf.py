# SPDX-License-Identifier: Apache-2.0
"""Telegraf's inputs for JSON, made from the records' own description: `make docs`.

json_v2 must be told which members are tags, and which numbers are integers: without that it takes
every number for a decimal one, and InfluxDB would refuse the same field from line protocol.

See: Telegraf's plugins/parsers/json_v2/README.md
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab import everything
from lab.everything import EVERYTHING
from trapstream_vtap.ledger import SINK_ROWS
from trapstream_vtap.probes.flows.layouts import KEY_FIELDS, JitterInterval
from trapstream_vtap.probes.flows.records import flow_schema
from trapstream_vtap.schema import Kind, Role

if TYPE_CHECKING:
    from trapstream_vtap.schema import Schema

DIRECTORY = Path(__file__).parents[1] / "telegraf"

_INTEGERS = {Kind.COUNT, Kind.COUNT_IF, Kind.SIGNED}

_TEXT = """\
# SPDX-License-Identifier: Apache-2.0
# Made by `make docs` from the records' description; do not edit.
# JSON over {name}: vtap-stream -f json {option}HOST 8095

[[inputs.socket_listener]]
  # All addresses of the machine, IPv4 and IPv6. Not the port of line protocol.
  service_address = "{transport}://:8095"

{buffer}

  # Takes arrays and keeps integers exact; the older format "json" makes decimals of them.
  data_format = "json_v2"

  [[inputs.socket_listener.json_v2]]
    # The records of an array are all of one measurement: the first one's is theirs.
    measurement_name_path = "0.name"

    [[inputs.socket_listener.json_v2.object]]
      # The array itself; each object in it is a record.
      path = "@this"

      # In each object, in ns. (timestamp_path, one level up, cannot look into arrays.)
      timestamp_key = "timestamp"
      timestamp_format = "unix_ns"

      # Said by measurement_name_path already.
      excluded_keys = ["name"]

      # Names as they are, with nothing in front.
      disable_prepend_keys = true

      # All other members are fields.
      tags = [
{tags}
      ]

      # Of each field its type, or else every number would be a decimal one.
      [inputs.socket_listener.json_v2.object.fields]
{fields}
"""

_TCP = """\
  # Of the socket, and of the buffer that lines are split in. Above 64 KiB it is also the longest
  # line: an array is a line, of at most 60,000 bytes; one too long would end the connection. TCP
  # holds the sender back when it is full: nothing is lost.
  read_buffer_size = "1MiB"\
"""

_UDP = """\
  # Of the socket; what does not fit is lost, and only the kernel counts it (the column `drops` of
  # /proc/net/udp). An interval of 65,536 flows is about 32 MB of JSON, which vtap-stream spreads
  # over most of a second. The kernel gives no more than net.core.rmem_max:
  #   sysctl -w net.core.rmem_max=16777216
  # A datagram is an array of its own.
  read_buffer_size = "16MiB"\
"""


def schemas() -> tuple[Schema, ...]:
    """All records that there are, with all fields that they may have, but for nested ones."""
    flat = [
        schema for schema in everything.schemas() if not any(field.path for field in schema.fields)
    ]
    flows = flow_schema(
        KEY_FIELDS, bits=True, sequence=True, jitter=JitterInterval.LONGER, guest=EVERYTHING.guest
    )
    return (*flat, flows, *(rows.schema for rows in everything.accounts()), SINK_ROWS.schema)


def pages() -> dict[Path, str]:
    """The generated files: where each belongs, and its text."""
    fields = [field for schema in schemas() for field in schema.fields]
    tags = sorted({field.name for field in fields if field.role is Role.TAG})
    types = {
        field.name: "int" if field.kind in _INTEGERS else "float"
        for field in fields
        if field.role is Role.VALUE
    }
    lists = {
        "tags": "\n".join(f'        "{tag}",' for tag in tags),
        "fields": "\n".join(f'        {name} = "{kind}"' for name, kind in sorted(types.items())),
    }
    return {
        DIRECTORY / f"input-json-{transport}.conf": _TEXT.format(
            transport=transport,
            name=transport.upper(),
            option="--transport udp " if transport == "udp" else "",
            buffer=buffer,
            **lists,
        )
        for transport, buffer in (("tcp", _TCP), ("udp", _UDP))
    }
