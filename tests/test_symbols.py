# SPDX-License-Identifier: Apache-2.0
"""Places in the kernel have the names that the kernel's own list has."""

from __future__ import annotations

import contextlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from trapstream_vtap.probes.drops.symbols import KALLSYMS, Symbols

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

LIST = """\
ffffffff81000000 T _text
ffffffff81000000 t start
ffffffff81001000 T tcp_v4_rcv
ffffffff81001800 d some_data
ffffffff81002000 t no_code_behind
ffffffffc0000000 t xmit\t[bonding]
ffffffffa0000000 t out_of_order\t[veth]
"""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO | None]:
    """PATH, if it is there."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(path.open("rb")) if path.exists() else None


def named(path: Path, *addresses: int) -> dict[int, str]:
    """What PATH, opened and read, says of ADDRESSES."""
    with opened(path) as file:
        return Symbols(file).names(addresses)


def test_names(tmp_path: Path) -> None:
    """A place is told by the nearest function ahead of it; data, and what is too far, is none."""
    (tmp_path / "list").write_text(LIST)
    expected = {
        0xFFFFFFFF81001000: "tcp_v4_rcv+0x0",
        0xFFFFFFFF81001001: "tcp_v4_rcv+0x1",
        0xFFFFFFFF81001FFF: "tcp_v4_rcv+0xfff",
        0xFFFFFFFF82001FFF: "",
        0xFFFFFFFFC0000010: "xmit+0x10 [bonding]",
        0xFFFFFFFFA0000123: "out_of_order+0x123 [veth]",
        0xFFFFFFFF80000000: "",
        0x1234: "",
    }

    assert named(tmp_path / "list", *reversed(expected)) == expected
    for address, name in expected.items():
        assert named(tmp_path / "list", address) == {address: name}


def test_without_symbols(tmp_path: Path) -> None:
    """Where the kernel has no list, or shows zeros to us, a place has no name, nor an address."""
    (tmp_path / "zeros").write_text("0000000000000000 T _text\n0000000000000000 t tcp_v4_rcv\n")

    for name in ("zeros", "missing"):
        assert named(tmp_path / name, 0xFFFFFFFF81001000) == {0xFFFFFFFF81001000: ""}
        with opened(tmp_path / name) as file:
            assert Symbols(file).hidden()
    assert named(tmp_path / "missing") == {}


def test_this_kernel_after_root_is_given_up() -> None:
    """Opened as root, the list can be read as nobody, who cannot open it so."""
    rows = [line.split() for line in KALLSYMS.read_text().splitlines()]
    code = [(int(row[0], 16), row[2]) for row in rows if row[1] in "tT" and len(row) == 3]
    if not code[0][0]:
        pytest.skip("this kernel shows its symbols to nobody")
    alone = [  # not two names for one place, nor at the end of a list
        (start, name)
        for (before, _), (start, name), (behind, _) in zip(code, code[1:], code[2:], strict=False)
        if before < start < behind < start + 4096
    ]
    chosen = dict(alone[:: len(alone) // 20])
    asked = [start + (start & 3) for start in chosen]
    read, write = os.pipe()
    with KALLSYMS.open("rb") as file:
        symbols = Symbols(file)
        if not os.fork():
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                found = symbols.names(asked)
                os.write(write, "\n".join(found[address] for address in asked).encode())
            finally:
                os._exit(0)
        os.wait()
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read().split("\n") == [
            f"{name}+{start & 3:#x}" for start, name in chosen.items()
        ]
