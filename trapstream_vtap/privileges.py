# SPDX-License-Identifier: Apache-2.0
"""Giving up root, and what is left of it.

See: capabilities(7), prctl(2), setresuid(2)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from typing import TYPE_CHECKING

from trapstream_vtap import system
from trapstream_vtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

CAP_DAC_READ_SEARCH = 2  # include/uapi/linux/capability.h
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_PERFMON = 38
CAP_BPF = 39
_CAPABILITY_VERSION = 0x20080522
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_PR_GET_PDEATHSIG = 2
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def raise_descriptor_limit() -> None:
    """Have room for as many open files as we may have: a link takes one, for each place.

    See: getrlimit(2)
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def find(name: str) -> tuple[int, int]:
    """User and group id of the user called NAME.

    Raises:
        UsageError: There is no such user.
    """
    import pwd  # noqa: PLC0415 - the keeper can do without

    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError) as error:
        raise UsageError(f"--user: there is no user {name!r}; see getent passwd.") from error
    return entry.pw_uid, entry.pw_gid


def _act_as(call: str, number: int) -> None:
    """Make NUMBER this thread's effective user or group; the C library would change all threads."""
    keep = ctypes.c_uint(-1)
    system.call(call, keep, ctypes.c_uint(number), keep)


@contextlib.contextmanager
def acting(user: str) -> Iterator[None]:
    """Open and make files as USER meanwhile, if we are root and may.

    Other threads stay who they are: it is this thread's alone.

    Raises:
        UsageError: There is no such user.
    """
    was = os.geteuid(), os.getegid()
    if was[0] != 0:
        yield
        return
    uid, gid = find(user)
    death = ctypes.c_int()
    _prctl(_PR_GET_PDEATHSIG, ctypes.byref(death))
    try:
        with contextlib.suppress(PermissionError):  # a container that may not
            _act_as("setresgid", gid)
            _act_as("setresuid", uid)
        yield
    finally:
        _act_as("setresuid", was[0])
        _act_as("setresgid", was[1])
        _prctl(_PR_SET_PDEATHSIG, death)  # a change of user has cleared it


def become(user: str, keep: Collection[int] = ()) -> list[str]:
    """Be USER from now on, in no other group, with no capabilities but KEEP, for good.

    Threads that are there already keep some rights: there must be none.

    Returns:
        Sentences about what could not be given up.
    """
    uid, gid = find(user)
    death = ctypes.c_int()
    _prctl(_PR_GET_PDEATHSIG, ctypes.byref(death))
    notes = _give_up_bounding(keep)
    try:
        if keep:
            _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:  # a container that may not
        notes.append(f"cannot become user {user} ({error.strerror}): give CAP_SETUID, CAP_SETGID.")
    _only(keep)
    _prctl(_PR_SET_PDEATHSIG, death)  # a change of user has cleared it
    return notes


def reduce(keep: Collection[int]) -> None:
    """Give up all capabilities but KEEP, for good; the user stays."""
    _give_up_bounding(keep)
    _only(keep)


def bpf_is_for_all() -> bool:
    """Whether bpf(2) lets those read maps that have a descriptor, but no capabilities.

    Not before Linux 5.19, where kernel.unprivileged_bpf_disabled is set.
    """

    def lookup() -> bool:
        nothing = ctypes.create_string_buffer(128)
        number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
        ctypes.set_errno(0)
        _libc.syscall(number, 1, nothing, len(nothing))  # BPF_MAP_LOOKUP_ELEM of nothing
        return ctypes.get_errno() != errno.EPERM

    return _without_effective(lookup)


def _without_effective(action: Callable[[], bool]) -> bool:
    """ACTION's result while this thread does without its capabilities."""
    permitted = _permitted()
    _capset(0, permitted)
    try:
        return action()
    finally:
        _capset(permitted, permitted)


def _give_up_bounding(keep: Collection[int]) -> list[str]:
    for capability in range(_LAST_CAPABILITY + 1):
        if capability in keep or _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) != 1:
            continue
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            return ["the capability bounding set stays as it is: there is no CAP_SETPCAP."]
    return []


def _only(keep: Collection[int]) -> None:
    """KEEP, of what we have, in the permitted and effective sets; nothing to be gained by exec."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    wanted = sum(1 << capability for capability in keep) & _permitted()
    _capset(wanted, wanted)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_Sets = (
    ctypes.c_uint32 * 6
)  # twice (effective, permitted, inheritable), struct __user_cap_data_struct
_Head = ctypes.c_uint32 * 2


def _permitted() -> int:
    sets = _Sets()
    if _libc.capget(_Head(_CAPABILITY_VERSION, 0), sets) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return sets[1] | sets[4] << 32


def _capset(effective: int, permitted: int) -> None:
    low, high = (1 << 32) - 1, 32
    sets = _Sets(effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    if _libc.capset(_Head(_CAPABILITY_VERSION, 0), sets) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
