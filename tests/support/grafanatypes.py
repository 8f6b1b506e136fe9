# SPDX-License-Identifier: Apache-2.0
"""Grafana's own idea of a dashboard: JSON Schemas, made from the types that it publishes.

npm brings @grafana/schema and a generator into build/, once; nothing is installed elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("@grafana/schema@13.2.3", "ts-json-schema-generator@2.4.0")
PANELS = ("heatmap", "stat", "table", "timeseries")

_BUILD = Path(__file__).parents[2] / "build" / "grafana-schema"
_TYPES = "./node_modules/@grafana/schema/dist/types/raw"
_GENERATE = ("node", "node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js")


@cache
def schemas() -> dict[str, Any]:
    """The schema of `Dashboard`, and of each panel's options, `statOptions` and so on.

    Raises:
        subprocess.CalledProcessError: npm does not get the packages; what it says is in a note.
    """
    _BUILD.mkdir(parents=True, exist_ok=True)
    made = _BUILD / f"{'_'.join((*PACKAGES, *PANELS)).replace('/', '-')}.json"
    with (_BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES)
            (_BUILD / "all.ts").write_text(_exports())
            schema = _run(*_GENERATE, "--path", "all.ts", "--type", "*", "--no-type-check")
            made.write_text(schema)
    definitions: dict[str, Any] = json.loads(made.read_text())["definitions"]
    return definitions


def _exports() -> str:
    lines = [f'export {{ Dashboard }} from "{_TYPES}/dashboard/x/types.gen";']
    for name in PANELS:
        path = f"{_TYPES}/composable/{name}/panelcfg/x/types.gen"
        lines.append(f'import {{ Options as {name} }} from "{path}";')
        lines.append(f"export interface {name}Options extends {name} {{}}")
    return "\n".join(lines)


def _run(*command: str) -> str:
    try:
        return subprocess.run(
            command, cwd=_BUILD, check=True, capture_output=True, text=True
        ).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stdout + error.stderr)
        raise
