# SPDX-License-Identifier: Apache-2.0
"""What maps take of the kernel's memory is known before they are made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from program import FlowProgram, settings

from trapstream_vtap.bpf import memory
from trapstream_vtap.errors import RunError
from trapstream_vtap.probes.flows import program as flow

MIB = 1 << 20


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"flow_table_size": 65536},
        {"flow_table_size": 5000, "metrics": ("127.0.0.1", 1), "offset": 0, "jitter_interval": 1},
    ],
)
def test_what_is_computed_is_what_the_kernel_says(chosen: dict[str, object]) -> None:
    """The need is that of the kernel's own account (memlock in /proc/PID/fdinfo), within 5 %."""
    if "jitter_interval" in chosen:
        chosen = {**chosen, "jitter_interval": 24 * 3600 * 10**9}
    plain = settings(**chosen)  # type: ignore[arg-type]
    program = FlowProgram(plain)
    taken = 0
    for descriptor in program.objects.maps.values():
        text = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii")
        taken += int(re.search(r"memlock:\s+(\d+)", text)[1])  # type: ignore[index]
    program.close()
    assert taken * 0.95 < flow.memory(plain) + MIB // 4 < taken * 1.05 + MIB // 2


def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tightest control group that we are in counts, and a word that is no number does not."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for group, most, used in ((inner, "max", "5"), (inner.parent, str(64 * MIB), str(40 * MIB))):
        (group / "memory.max").write_text(most + "\n")
        (group / "memory.current").write_text(used + "\n")
    (tmp_path / "own").write_text("1:name=x:/y\n0::/a/b\n7:cpu,memory:/c\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    assert memory.free_bytes() == 24 * MIB
    memory.check(19 * MIB, "x")
    first = tmp_path / "memory" / "c"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text(f"{10 * MIB}\n")
    (first / "memory.usage_in_bytes").write_text(f"{3 * MIB}\n")
    assert memory.free_bytes() == 7 * MIB
    (first / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.free_bytes() == 24 * MIB
    with pytest.raises(RunError, match=r"^x takes 20 MiB .* 24 MiB that are free at most 80%"):
        memory.check(20 * MIB, "x")
