# SPDX-License-Identifier: Apache-2.0
"""The network interfaces of this network namespace, asked of the kernel itself.

By ioctl (netdevice(7)), not through /sys, which may show the interfaces of another namespace.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIOCGIFFLAGS = 0x8913  # include/uapi/linux/sockios.h
_SIOCGIFHWADDR = 0x8927
_IFF_UP = 0x1  # include/uapi/linux/if.h
_IFF_LOOPBACK = 0x8
_ARPHRD_ETHER = 1  # include/uapi/linux/if_arp.h
_ARPHRD_LOOPBACK = 772
_NAME_SIZE = 16
_NEVER_IN_A_NAME = b"/:\t\n\v\f\r "


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface; `ethernet`: whether its frames begin with an Ethernet header."""

    name: str
    index: int
    up: bool
    loopback: bool
    ethernet: bool


def interfaces() -> dict[str, Interface]:
    """All interfaces by name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for index, name in socket.if_nameindex():
            request = struct.pack(f"{_NAME_SIZE}s24x", name.encode("utf-8", "surrogateescape"))
            try:
                flags = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
                hardware = fcntl.ioctl(asking, _SIOCGIFHWADDR, request)
            except OSError:  # gone since it was listed
                continue
            (flag,) = struct.unpack_from("H", flags, _NAME_SIZE)
            (family,) = struct.unpack_from("H", hardware, _NAME_SIZE)
            found[name] = Interface(
                name,
                index,
                up=bool(flag & _IFF_UP),
                loopback=bool(flag & _IFF_LOOPBACK),
                ethernet=family in (_ARPHRD_ETHER, _ARPHRD_LOOPBACK),
            )
    return found


def check_names(names: Iterable[str]) -> None:
    """See that interfaces may be called NAMES, now or later.

    Raises:
        UsageError: One may not. See: dev_valid_name(), net/core/dev.c
    """
    for name in names:
        data = name.encode("utf-8", "surrogateescape")
        if len(data) >= _NAME_SIZE or name in (".", "..") or {*data} & {*_NEVER_IN_A_NAME}:
            raise UsageError(
                f"There cannot be an interface {name!r}: a name has at most {_NAME_SIZE - 1} "
                "bytes, and none of / : or space."
            )


def present(names: Iterable[str]) -> tuple[tuple[Interface, ...], tuple[str, ...]]:
    """Of NAMES, each once: the interfaces that are there, and the names of those that are not."""
    known = interfaces()
    once = tuple(dict.fromkeys(names))
    return tuple(known[n] for n in once if n in known), tuple(n for n in once if n not in known)


def up() -> tuple[Interface, ...]:
    """All interfaces that are up, except loopback.

    Raises:
        UsageError: There is none.
    """
    chosen = tuple(i for i in interfaces().values() if i.up and not i.loopback)
    if not chosen:
        raise UsageError("No interface is up; name one with --interface.")
    return chosen
