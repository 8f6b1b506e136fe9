# SPDX-License-Identifier: Apache-2.0
"""The running kernel's drop reasons, by its types."""

from __future__ import annotations

from trapstream_vtap.bpf.btf import DIRECTORY, Btf

_REASON = "SKB_DROP_REASON_"
_NO_REASONS = ("SKB_NOT_DROPPED_YET", f"{_REASON}MAX", f"{_REASON}SUBSYS_MASK")
_SUBSYSTEMS = {  # net/mac80211/drop.h, net/openvswitch/drop.h
    "mac80211": ("mac80211_drop_reason", "___RX_DROP_UNUSABLE"),
    "openvswitch": ("ovs_drop_reason", "OVS_DROP_"),
}


def drop_reasons(btf: Btf) -> dict[str, int]:
    """The kernel's drop reasons: numbers by name, without their common prefix.

    Those of subsystems (upper 16 bits not 0) are there as far as their modules are loaded.
    """
    found = {
        name.removeprefix(_REASON if name.startswith(_REASON) else "SKB_"): number
        for name, number in btf.enumerators("skb_drop_reason").items()
        if name not in _NO_REASONS
    }
    for module, (name, prefix) in _SUBSYSTEMS.items():
        reasons = btf.enumerators(name)
        if not reasons and (path := DIRECTORY / module).exists():
            reasons = Btf(path.read_bytes(), btf).enumerators(name)
        for label, number in reasons.items():
            if number & 0xFFFF and number >> 16:
                found[label.removeprefix(prefix).lstrip("_")] = number
    return found
