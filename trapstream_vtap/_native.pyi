# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Tallies: TypeAlias = dict[int, tuple[int, int, int]]
_Slot: TypeAlias = tuple[int, bytes, bytes, tuple[int, ...], int, int, Mapping[int, bytes]]

def tally(
    batch: bytes | bytearray, record_size: int, interface_at: int, counts: tuple[int, int] | None
) -> Tallies: ...

class Ring:
    def __init__(self, map_fd: int, record_size: int) -> None: ...
    @property
    def record_size(self) -> int: ...
    def fileno(self) -> int: ...
    def read(self, most: int) -> bytearray: ...

class Plan:
    def __init__(
        self,
        slots: Iterable[_Slot],
        open: bytes,  # noqa: A002 - the native name
        separator: bytes,
        close: bytes,
        record_size: int,
        interface_at: int,
        counts: tuple[int, int] | None,
    ) -> None: ...
    @property
    def longest(self) -> int: ...
    def render(
        self, batch: bytes | bytearray, most_records: int, most_bytes: int
    ) -> tuple[list[tuple[bytes, memoryview, Tallies]], tuple[int, Tallies]]: ...

class Sweep:
    def __init__(
        self,
        flows_fd: int,
        program_fd: int,
        keys_per_run: int,
        *,
        key_size: int,
        value_size: int,
        interface_at: int,
        end_at: int,
        arrivals_at: tuple[int, int],
        gaps_at: tuple[int, int],
        guest_at: tuple[int, int],
        merged_at: tuple[int, int],
        bytes_at: tuple[int, int],
    ) -> None: ...
    def begin(self) -> None: ...
    def step(self, now: int, force: bool) -> bool: ...
    def result(self) -> tuple[int, int, Tallies]: ...
