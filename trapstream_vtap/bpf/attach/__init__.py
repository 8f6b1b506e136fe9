# SPDX-License-Identifier: Apache-2.0
"""What holds programs at their places: one file for each kind of place."""

from trapstream_vtap.bpf.attach.attachment import Attachment
from trapstream_vtap.bpf.attach.holder import Holder
from trapstream_vtap.bpf.attach.packet_socket import PacketSocket
from trapstream_vtap.bpf.attach.place import (
    GENERIC,
    AnyPlace,
    CgroupPlace,
    Direction,
    NetfilterPlace,
    Place,
    TracepointPlace,
    TracingPlace,
)
from trapstream_vtap.bpf.attach.tcx import attach

__all__ = [
    "GENERIC",
    "AnyPlace",
    "Attachment",
    "CgroupPlace",
    "Direction",
    "Holder",
    "NetfilterPlace",
    "PacketSocket",
    "Place",
    "TracepointPlace",
    "TracingPlace",
    "attach",
]
