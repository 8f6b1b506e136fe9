# SPDX-License-Identifier: Apache-2.0
"""What a test module needs, by what it imports: its mark, by which tests can be chosen."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

HERE = Path(__file__).parents[1]
_ROOTS = (HERE / "support", HERE, HERE.parent)
_NEEDS = {
    "vm": ("lab.vm",),
    "collector": ("lab.servers", "lab.telegraf", "oracle", "realbroker", "mockbroker"),
    "kernel": ("lab.namespace", "lab.loading", "lab.testrun", "lab.command", "lab.capture", "disk"),
}
"""By mark: the modules that a module needs it for, itself or by what it imports."""
MARKS = (*_NEEDS, "unit")


def kind(path: Path) -> str:
    """`vm`, `collector`, `kernel`, or `unit`: no root, no server, seconds."""
    used = _used(path)
    return next((mark for mark, modules in _NEEDS.items() if used & {*modules}), "unit")


@cache
def _used(path: Path) -> frozenset[str]:
    """The modules of tests and lab that the file at PATH imports, and those that these do."""
    found: set[str] = set()
    for name in _imported(path):
        file = next(
            (f for root in _ROOTS if (f := root / f"{name.replace('.', '/')}.py").exists()), None
        )
        if file and file != path and name not in found:
            found |= {name, *_used(file)}
    return frozenset(found)


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found
