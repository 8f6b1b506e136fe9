# SPDX-License-Identifier: Apache-2.0
"""Under kernel 6.1 the programs count what they count here: crafted frames, and a wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tunnelling
from dissector import Packet, dissect
from packets import COUNTED, MALFORMED, NOT_IP, counted, flow_of
from program import LONGEST, settings

from trapstream_vtap.probes.flows.program import source
from trapstream_vtap.probes.flows.settings import HOOKS, TUNNELS

if TYPE_CHECKING:
    from lab.vm import VirtualMachine

SIZES = [7 * n % 1400 for n in range(300)]  # of datagrams, in bytes
HEADERS = 14 + 20 + 8  # Ethernet, IPv4, UDP

Frames = dict[str, tuple[bytes, list[Any]]]
"""By name: a frame, and why it is counted, into which flows."""


def plain() -> Frames:
    """Frames without tunnels."""
    found = {name: counted(name) for name in COUNTED}
    return {
        **{name: (frame, ["counted", [repr(flow)]]) for name, (frame, flow) in found.items()},
        **{n: (f, ["not_ip", []]) for n, f in NOT_IP.items() if len(f) < LONGEST},
        **{n: (f, ["malformed", []]) for n, f in MALFORMED.items() if len(f) < LONGEST},
    }


def tunnels() -> Frames:
    """Packets in packets, and what looks like it."""
    inside = {name: tunnelling.inner(name) for name in tunnelling.DECAPSULATED}
    outside = {
        name: (tunnelling.framed(packet), tunnelling.outer(packet, protocol, ports))
        for name, (packet, protocol, ports) in tunnelling.OUTER.items()
    }
    for name, packet in tunnelling.BROKEN.items():
        said, frame = dissect(tunnelling.framed(packet)), tunnelling.framed(packet)
        assert isinstance(said, Packet)
        outside[name] = frame, flow_of(said, len(frame))
    return {n: (f, ["counted", [repr(flow)]]) for n, (f, flow) in (inside | outside).items()}


CASES = [(hook, tunnel) for hook in HOOKS for tunnel in ((), TUNNELS)]


@pytest.fixture(scope="module")
def results(vm: VirtualMachine) -> dict[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """What was counted there, by hook, without tunnels and with all of them."""
    chosen = [settings(direction="ingress", hook=hook, decapsulate=t) for hook, t in CASES]
    vm.compile_ahead([source(made, vm.release) for made in chosen])
    given = [
        {
            "hook": hook,
            "decapsulate": tunnel,
            "frames": {n: f.hex() for n, (f, _) in (tunnels() if tunnel else plain()).items()},
            "sizes": SIZES,
        }
        for hook, tunnel in CASES
    ]
    done = vm.python("tests/vm/guest_counts.py", timeout=200, given=given)
    return dict(zip(CASES, done.results, strict=True))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("tunnel", [(), TUNNELS], ids=["plain", "tunnels"])
def test_frames(results: dict[Any, dict[str, Any]], hook: str, tunnel: tuple[str, ...]) -> None:
    """Each crafted frame is counted under its reason, into its flow."""
    frames = tunnels() if tunnel else plain()
    assert results[hook, tunnel]["counted"] == {n: expected for n, (_, expected) in frames.items()}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("tunnel", [(), TUNNELS], ids=["plain", "tunnels"])
def test_wire(results: dict[Any, dict[str, Any]], hook: str, tunnel: tuple[str, ...]) -> None:
    """On a veth every packet and byte is counted once, and nothing is left attached."""
    wired = results[hook, tunnel]["wired"]
    expected = [len(SIZES), sum(SIZES) + HEADERS * len(SIZES)]
    assert wired["arrived"] == len(SIZES)
    assert [wired["program"][f"counted_{unit}"] for unit in ("packets", "bytes")] == expected
    assert [wired["program"][f"seen_{unit}"] for unit in ("packets", "bytes")] == expected
    assert not wired["left"]
