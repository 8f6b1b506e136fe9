# SPDX-License-Identifier: Apache-2.0
"""The network interfaces of this network namespace, asked of the kernel itself; choosing some.

By netlink, not through /sys, which may show the interfaces of another namespace.

See: rtnetlink(7), include/uapi/linux/rtnetlink.h, include/uapi/linux/if_link.h
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

RTM_NEWLINK = 16
RTM_DELLINK = 17
_RTM_GETLINK = 18
_NLMSG_DONE = 3  # include/uapi/linux/netlink.h
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_IFLA_IFNAME = 3
_IFLA_PROP_LIST = 52
_IFLA_ALT_IFNAME = 53
_NESTED = 0x8000
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_LARGEST = 1 << 16
_IFF_UP = 0x1  # include/uapi/linux/if.h
_IFF_LOOPBACK = 0x8
_ARPHRD_ETHER = 1  # include/uapi/linux/if_arp.h
_ARPHRD_LOOPBACK = 772
_LONGEST_NAME = 127  # ALTIFNAMSIZ with its zero is 128
_NEVER_IN_A_NAME = b"/:\t\n\v\f\r "


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface.

    Args:
        name: The kernel's.
        index: Its number.
        up: Whether somebody has set it up.
        loopback: Whether it is the loopback interface.
        ethernet: Whether its frames begin with an Ethernet header.
        others: Its alternative names.
    """

    name: str
    index: int
    up: bool
    loopback: bool
    ethernet: bool
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What the kernel says of an interface; the name is empty where it says none."""

    kind: int
    family: int
    hardware: int
    index: int
    flags: int
    name: str
    others: tuple[str, ...]


def messages(data: bytes) -> Iterator[Message]:
    """The messages about interfaces in DATA, which netlink has sent."""
    at = 0
    while at + _HEADER.size + _LINK.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            family, hardware, index, flags, _ = _LINK.unpack_from(data, at + _HEADER.size)
            rest = data[at + _HEADER.size + _LINK.size : at + length]
            names = dict(_attributes(rest))
            listed = _attributes(names.get(_IFLA_PROP_LIST, b""))
            others = tuple(_text(value) for kind_, value in listed if kind_ == _IFLA_ALT_IFNAME)
            name = _text(names.get(_IFLA_IFNAME, b""))
            yield Message(kind, family, hardware, index, flags, name, others)
        at += max((length + 3) & ~3, _HEADER.size)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & ~_NESTED, data[at + _ATTRIBUTE.size : at + length]
        at += max((length + 3) & ~3, _ATTRIBUTE.size)


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode("utf-8", "surrogateescape")


def interfaces() -> dict[str, Interface]:
    """All interfaces by name."""
    found = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        asking.bind((0, 0))
        size = _HEADER.size + _LINK.size
        asking.send(_HEADER.pack(size, _RTM_GETLINK, _DUMP, 1, 0) + _LINK.pack(0, 0, 0, 0, 0))
        done = False
        while not done:
            data = asking.recv(_LARGEST)
            done = _HEADER.unpack_from(data)[1] == _NLMSG_DONE
            for said in messages(data):
                found[said.name] = Interface(
                    said.name,
                    said.index,
                    up=bool(said.flags & _IFF_UP),
                    loopback=bool(said.flags & _IFF_LOOPBACK),
                    ethernet=said.hardware in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK),
                    others=said.others,
                )
    return found


def check_names(words: Iterable[str]) -> None:
    """See that interfaces may be called as WORDS say, now or later.

    Raises:
        UsageError: One may not. See: dev_valid_name(), net/core/dev.c
    """
    for word in words:
        name = word.removeprefix("!")
        data = name.encode("utf-8", "surrogateescape")
        if len(data) > _LONGEST_NAME or name in ("", ".", "..") or {*data} & {*_NEVER_IN_A_NAME}:
            raise UsageError(
                f"There cannot be an interface {name!r}: a name has at most {_LONGEST_NAME} "
                "bytes, and none of / : or space."
            )


def is_pattern(word: str) -> bool:
    """Whether WORD stands for any number of interfaces."""
    return word.startswith("!") or "*" in word or "?" in word


def choose(
    words: Iterable[str], measured: Collection[str] = ()
) -> tuple[tuple[Interface, ...], tuple[str, ...]]:
    """The interfaces that WORDS choose of those that are there.

    Args:
        words: Names, alternative names, patterns (`*` stands for any characters, `?` for one), and
            with a ! ahead what is left out. Without names and patterns all that are up. Only a name
            chooses loopback.
        measured: Names of interfaces that have been up, and stay chosen when they are down.

    Returns:
        Each once, and the names that nothing has that is there.
    """
    known = interfaces()
    also = {other: one for one in known.values() for other in one.others} | known
    once = tuple(dict.fromkeys(words))
    names = [word for word in once if not is_pattern(word)]
    patterns = [word for word in once if is_pattern(word) and not word.startswith("!")]
    chosen = {also[name].name: also[name] for name in names if name in also}
    for one in known.values():
        fits = any(map(matcher(patterns).fullmatch, (one.name, *one.others)))
        if not names and not patterns:
            fits = one.up or one.name in measured
        if fits and not one.loopback:
            chosen.setdefault(one.name, one)
    left_out = matcher(word.removeprefix("!") for word in once if word.startswith("!"))
    kept = (i for i in chosen.values() if not any(map(left_out.fullmatch, (i.name, *i.others))))
    return tuple(kept), tuple(name for name in names if name not in also)


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """What matches what one of PATTERNS stands for."""
    parts = (re.escape(p).replace(r"\*", ".*").replace(r"\?", ".") for p in patterns)
    return re.compile("|".join(parts) or "(?!)", re.DOTALL)
