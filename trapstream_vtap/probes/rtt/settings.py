# SPDX-License-Identifier: Apache-2.0
"""What the person may say of round-trip times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from trapstream_vtap.errors import UsageError
from trapstream_vtap.settings.core import Core
from trapstream_vtap.settings.kinds import STRINGS, Choice, ValueType, Whole, check_strings, split
from trapstream_vtap.settings.option import Reload, option
from trapstream_vtap.words import nearest

FIELDS = ("src_ip", "dst_ip", "src_port", "dst_port", "vlan")
"""What tells records apart, beside interface, protocol and side; and networks, as below."""

NETS = ("src_net", "dst_net")
DEFAULT_KEY = ("dst_ip",)
_IPV6_BITS = 48
_NET = re.compile(r"(?P<name>src_net|dst_net)/(?P<ipv4>[0-9]{1,3})(/(?P<ipv6>[0-9]{1,3}))?")
_ALWAYS = "protocol"
_MOST_BITS = {"ipv4": 32, "ipv6": 128}


def network(word: str) -> tuple[str, int, int]:
    """What `dst_net/24/48` says: the name, and the lengths of IPv4's and of IPv6's networks, bits.

    Raises:
        UsageError: It says something else.
    """
    found = _NET.fullmatch(word)
    if not found:
        raise UsageError(
            f"{word!r}: give the length of a network behind it, as dst_net/24, or of IPv4's and "
            "IPv6's, as dst_net/24/48."
        )
    bits = {"ipv4": int(found["ipv4"]), "ipv6": int(found["ipv6"] or _IPV6_BITS)}
    for version, most in _MOST_BITS.items():
        if not 1 <= bits[version] <= most:
            name = {"ipv4": "IPv4", "ipv6": "IPv6"}[version]
            raise UsageError(f"{word!r}: a network of {name} has a length from 1 to {most}.")
    return found["name"], bits["ipv4"], bits["ipv6"]


def parse_key(text: str) -> tuple[str, ...]:
    """The fields that TEXT names, comma-separated, in the order of `FIELDS`; networks in full.

    Raises:
        UsageError: They are no such fields, or say the same twice.
    """
    found: dict[str, str] = {}
    for word in split(text):
        name, _, bits = word.partition("/")
        if name in NETS:
            _, ipv4, ipv6 = network(word)
            found[name] = f"{name}/{ipv4}/{ipv6}"
        elif bits or name not in (*FIELDS, _ALWAYS):
            there = (*FIELDS, "src_net/24", "dst_net/24")
            hint = nearest(word, there)
            raise UsageError(f"There is no key field {word!r}; there are {', '.join(there)}.{hint}")
        else:
            found[name] = name
    for end in ("src", "dst"):
        if f"{end}_ip" in found and f"{end}_net" in found:
            raise UsageError(f"{end}_ip tells more apart than {end}_net: name one of them.")
    return tuple(found[name] for name in (*FIELDS[:2], *NETS, *FIELDS[2:]) if name in found)


class KeyFields(ValueType):
    """Fields of a key, comma-separated."""

    name = "FIELD,…"
    schema = STRINGS

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """The fields."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_key(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)

    def check_json(self, key: str, value: Any, unit: str) -> Any:  # noqa: ARG002
        """A string, or a list of them."""
        return ",".join(check_strings(key, value))


@dataclass(frozen=True, kw_only=True)
class RttSettings(Core):
    """Everything that measuring round-trip times depends on."""

    rtt_key: tuple[str, ...] | None = option(
        "--rtt-key",
        kind=KeyFields(),
        reload=Reload.TAKEN,
        help="What tells round-trip times apart, beside interface, protocol and side: any of "
        f"{', '.join(FIELDS)}, and src_net/24, dst_net/24 (IPv6: 48, or as dst_net/24/56 says).  "
        "[default: dst_ip; where flows are measured in both directions they stand in the records "
        "of flows]",
    )
    rtt_tcp: str = option(
        "--rtt-tcp",
        kind=Choice(("sequence", "timestamp")),
        default="sequence",
        reload=Reload.TAKEN,
        help="What tells TCP's answers: sequence numbers, or the timestamps that most connections "
        "carry, for paths on which somebody changes the numbers.",
    )
    rtt_table_size: int = option(
        "--rtt-table-size",
        kind=Whole(64, 1 << 18),
        metavar="N",
        default=16384,
        reload=Reload.TAKEN,
        help="Most connections, questions without an answer, and records of an interval that the "
        "kernel keeps at a time; they take 1.5 KB of its memory, each.",
    )

    @property
    def by(self) -> tuple[str, ...]:
        """What tells records apart that are not those of flows."""
        return DEFAULT_KEY if self.rtt_key is None else self.rtt_key
