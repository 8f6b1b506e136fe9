# SPDX-License-Identifier: Apache-2.0
"""The house: imports point down the list of docs/architecture.md, without circles, by rooms."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trapstream_vtap"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = sorted(
    str(path.relative_to(PACKAGE))
    for suffix in ("py", "pyx")
    for path in PACKAGE.rglob(f"*.{suffix}")
)
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def ranks() -> dict[str, int]:
    """The place in the list of each module or folder that it names, from the top."""
    rows = [line for line in PAGE.split("## Modules")[1].splitlines() if line.startswith("| `")]
    names = (re.findall(r"`([^`]+)`", row.split("|")[1]) for row in rows)
    return {name.rstrip("/"): rank for rank, row in enumerate(names) for name in row}


def rank(module: str) -> int:
    """The place of MODULE: its own, or that of the folder that it is in."""
    parts = module.split("/")
    known = ranks()
    for end in range(len(parts), 0, -1):
        if "/".join(parts[:end]) in known:
            return known["/".join(parts[:end])]
    raise AssertionError(f"{module} is not in the list of docs/architecture.md")


def imported(module: str) -> set[str]:
    """The modules of the package that MODULE imports, also for the type checker alone."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            inside = (node.module or "").removeprefix(PACKAGE.name).lstrip(".").replace(".", "/")
            for name in node.names:
                found.add(_file(f"{inside}/{name.name}".lstrip("/")) or _file(inside) or "")
    return found - {"", module}


def _file(name: str) -> str | None:
    candidates = (f"{name}.py", f"{name}.pyx", f"{name}/__init__.py".lstrip("/"))
    return next((c for c in candidates if c in MODULES), None)


PYTHON = [module for module in MODULES if module.endswith(".py")]


@pytest.mark.parametrize("module", PYTHON)
def test_imports_point_down(module: str) -> None:
    """No module knows of one that stands above it."""
    above = [other for other in imported(module) if rank(other) < rank(module)]
    assert not above


def test_no_circles() -> None:
    """No two modules know each other, by whatever way round."""
    sorter = TopologicalSorter({module: imported(module) for module in PYTHON})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_name_in_the_list_is_there() -> None:
    """The list speaks of nothing that has gone."""
    missing = [name for name in ranks() if not (PACKAGE / name).exists()]
    assert not missing


def test_bcc_is_imported_in_one_place() -> None:
    """What compiles; nothing else brings LLVM into a process."""
    places = [m for m in PYTHON if re.search(r"^\s*(from|import) bcc\b", text(m), re.MULTILINE)]
    assert places == ["bpf/compile.py"]


def text(module: str) -> str:
    """Of MODULE."""
    return (PACKAGE / module).read_text(encoding="utf-8")


def test_nothing_outside_a_room_names_a_probe() -> None:
    """But for the registry: none imports a room, or has a probe's name as a word of its own."""
    rooms = {f"probes/{path.name}" for path in (PACKAGE / "probes").iterdir() if path.is_dir()}
    rooms -= {"probes/__pycache__"}
    for module in PYTHON:
        inside = next((room for room in rooms if module.startswith(f"{room}/")), None)
        if module == "probes/__init__.py":
            continue
        others = {
            o for o in imported(module) for r in rooms if o.startswith(f"{r}/") and r != inside
        }
        assert not others, module
        if not inside:
            words = {
                node.value
                for node in ast.walk(ast.parse(text(module)))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not words & {"flows", "drops", "traps"}, module


@pytest.mark.parametrize("module", PYTHON)
def test_a_file_is_a_room(module: str) -> None:
    """No file is longer than 400 lines, no function longer than 60, without a reason in it."""
    lines = text(module).splitlines()
    if len(lines) > MOST_LINES:
        assert re.search(r"^# Long: ", text(module), re.MULTILINE), len(lines)
    for node in ast.walk(ast.parse(text(module))):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            assert length <= MOST_LINES_OF_A_FUNCTION or "# Long: " in body, node.name


def test_no_test_module_imports_another() -> None:
    """What several need lies in tests/support."""
    borrowed = re.compile(r"^\s*(?:from|import) (?:tests\.)?(?:vm\.)?test_\w+", re.MULTILINE)
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    for path in files:
        found = set(borrowed.findall(path.read_text(encoding="utf-8")))
        assert found <= {f"import {path.stem}"}, path  # a process of its own may run its module


def test_kernel_programs_ask_for_the_time_by_one_macro() -> None:
    """So that a program for a capture may say the capture's time."""
    sources = [path for path in (PACKAGE / "bpf").rglob("*.[ch]") if "headers" not in path.parts]
    asking = [path.name for path in sources if "bpf_ktime_get" in path.read_text(encoding="ascii")]
    assert asking == ["moment.h"]
