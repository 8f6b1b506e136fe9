# SPDX-License-Identifier: Apache-2.0
"""The record kinds of the flow probe: what is exported of what the kernel program hands over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trapstream_vtap.probes.flows.layouts import (
    EVENT_KINDS,
    KEY_FIELDS,
    SEQUENCE_FIELDS,
    JitterInterval,
    flow_layouts,
)
from trapstream_vtap.probes.flows.squares import limits
from trapstream_vtap.schema import DEVICE, INTERFACE, TIME, Field, Kind, Role, Schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trapstream_vtap.guest import Guest
    from trapstream_vtap.probes.flows.settings import FlowSettings

_FLOW_TAGS = {
    "src_ip": Field("src_ip", Role.TAG, Kind.ADDRESS, ("src_ip", "family"), "", "source address"),
    "dst_ip": Field(
        "dst_ip", Role.TAG, Kind.ADDRESS, ("dst_ip", "family"), "", "destination address"
    ),
    "src_port": Field(
        "src_port",
        Role.TAG,
        Kind.PORT,
        ("src_port", "ports"),
        "",
        "source port; absent where the protocol has none, and in later fragments",
    ),
    "dst_port": Field(
        "dst_port",
        Role.TAG,
        Kind.PORT,
        ("dst_port", "ports"),
        "",
        "destination port; absent where the protocol has none, and in later fragments",
    ),
    "protocol": Field(
        "protocol",
        Role.TAG,
        Kind.LABEL,
        ("protocol",),
        "",
        "`tcp`, `udp`, `icmp`, `icmpv6`, or the protocol's number",
    ),
    "vlan": Field(
        "vlan",
        Role.TAG,
        Kind.VLAN,
        ("vlan",),
        "",
        "VLAN id, `outer.inner` where there are two; absent where there is none",
    ),
    "tunnel_id": Field(
        "tunnel_id",
        Role.TAG,
        Kind.ID,
        ("tunnel_id", "tunnel"),
        "",
        "id of the tunnel that the packet came out of (`--decapsulate`): VNI, GRE key, ERSPAN "
        "session or TEID; absent where there is none",
    ),
}

DIRECTIONS = {0: "ingress", 1: "egress"}
PROTOCOLS = {
    number: {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}.get(number, str(number))
    for number in range(256)
}
_REMARKS = (
    "Of the tags from `dst_ip` to `vlan` exactly those stand in a record that `--key` names. With "
    "`--bits` the rates are `throughput_bits_per_second` and `goodput_bits_per_second`. "
    "`iat_deviation_ms` is there with `--expected-gap`, `jitter_rfc3550_ms` with "
    "`--smoothed-jitter`, `jitter_interval_s` where `--jitter-interval` differs from `--interval` "
    "(if it is the shorter one, counts, rates and `seq_` are in the records that end a measuring "
    "interval), the fields that begin with `seq_`, and `loss_ratio`, where sequence numbers are "
    "checked (`--sequence`, `--sequence-offset`); what they mean exactly: [sequence.md]"
    "(sequence.md), [jitter.md](jitter.md)."
)
_NAMES = {"direction": DIRECTIONS, "protocol": PROTOCOLS}

_NUMBERED = "absent in flows without numbers"
_IAT = "inter-arrival time in the interval; absent where there was none"

_DEVIATION = (
    Field(
        "iat_deviation_ms",
        Role.VALUE,
        Kind.DEVIATION_MS,
        ("iat_count", "iat_sum", "iat_excess", "expected_gap"),
        "ms",
        "mean distance of the inter-arrival times from `--expected-gap`; absent likewise",
    ),
)
_SMOOTHED = (
    Field(
        "jitter_rfc3550_ms",
        Role.VALUE,
        Kind.SMOOTHED_MS,
        ("iat_count", "iat_smoothed"),
        "ms",
        "smoothed jitter at the end of the interval; absent likewise",
    ),
)
_JITTER_INTERVAL = Field(
    "jitter_interval_s",
    Role.VALUE,
    Kind.SECONDS,
    ("jitter_duration",),
    "s",
    "length of the jitter interval that ends here; absent where none does",
)
_LOSS = Field(
    "loss_ratio",
    Role.VALUE,
    Kind.RATIO,
    ("seq_received", "seq_missed", "seq_expected"),
    "",
    "by how much `seq_missing` grew in the interval, over the numbers (TCP: bytes) expected in it; "
    "0 where it did not grow; absent where none were expected",
)
_SEQUENCE = (
    *(
        Field(name, Role.VALUE, Kind.COUNT_IF, ("seq_received", name), unit, f"{doc}; {_NUMBERED}")
        for name, (unit, doc) in SEQUENCE_FIELDS.items()
    ),
    _LOSS,
)


def _tags(key: Sequence[str]) -> list[Field]:
    """What tells the flows apart, in order of names."""
    tags = [DEVICE, INTERFACE, *(_FLOW_TAGS[name] for name in KEY_FIELDS if name in key)]
    tags.append(
        Field("direction", Role.TAG, Kind.LABEL, ("direction",), "", "`ingress` or `egress`")
    )
    return sorted(tags, key=lambda tag: tag.name)


def flow_schema(
    key: Sequence[str] = KEY_FIELDS[:5],
    *,
    bits: bool = False,
    sequence: bool = False,
    deviation: bool = False,
    smoothed: bool = False,
    jitter: JitterInterval = JitterInterval.SAME,
    guest: Guest | None = None,
) -> Schema:
    """The records of `vtap_flow`.

    Args:
        key: What tells flows apart, out of `KEY_FIELDS`; exactly these become tags.
        bits: Rates in bits instead of bytes per second.
        sequence: With sequence numbers.
        deviation: With the distance from an expected gap.
        smoothed: With the jitter of RFC 3550.
        jitter: The jitter interval; where it is the shorter one, not every record has counts.
        guest: What another probe measures of each flow.
    """
    # Long: one list, in the order in which the fields are written.
    rate, unit = (Kind.BIT_RATE, "bits") if bits else (Kind.RATE, "bytes")
    own = jitter is not JitterInterval.SAME
    first = jitter is JitterInterval.SHORTER  # then it is the one field that all records have

    def count(name: str, unit: str, doc: str) -> Field:
        kind, columns = (Kind.COUNT_IF, ("duration", name)) if first else (Kind.COUNT, (name,))
        return Field(name, Role.VALUE, kind, columns, unit, doc)

    return Schema(
        measurement="vtap_flow",
        doc="One record per flow and interval in which the flow had a packet.",
        layout=flow_layouts(
            key,
            sequence=sequence,
            deviation=deviation,
            smoothed=smoothed,
            own_interval=own,
            guest=guest,
        ).record,
        fields=(
            *_tags(key),
            *((_JITTER_INTERVAL,) if first else ()),
            count("packets", "packets", "on the wire"),
            count("bytes", "bytes", "on the wire, with Ethernet header and VLAN tags, without FCS"),
            count("payload_bytes", "bytes", "behind the transport header, without padding"),
            Field(
                f"throughput_{unit}_per_second",
                Role.VALUE,
                rate,
                ("bytes", "duration"),
                f"{unit}/s",
                "`bytes` over the interval's length",
            ),
            Field(
                f"goodput_{unit}_per_second",
                Role.VALUE,
                rate,
                ("payload_bytes", "duration"),
                f"{unit}/s",
                "`payload_bytes` over the interval's length",
            ),
            Field(
                "iat_mean_ms",
                Role.VALUE,
                Kind.MEAN_MS,
                ("iat_count", "iat_sum"),
                "ms",
                f"mean {_IAT}",
            ),
            Field(
                "jitter_ms",
                Role.VALUE,
                Kind.STDDEV_MS,
                ("iat_count", "iat_sum", "iat_squares", "iat_squares_coarse"),
                "ms",
                "population standard deviation of the inter-arrival times; absent likewise",
            ),
            Field(
                "iat_min_ms",
                Role.VALUE,
                Kind.EXTREME_MS,
                ("iat_count", "iat_min"),
                "ms",
                f"shortest {_IAT}",
            ),
            Field(
                "iat_max_ms",
                Role.VALUE,
                Kind.EXTREME_MS,
                ("iat_count", "iat_max"),
                "ms",
                f"longest {_IAT}",
            ),
            *(_DEVIATION if deviation else ()),
            *(_SMOOTHED if smoothed else ()),
            *((_JITTER_INTERVAL,) if own and not first else ()),
            *(_SEQUENCE if sequence else ()),
            *(guest.fields if guest else ()),
            TIME,
        ),
        names=_NAMES,
        remarks=f"{_REMARKS} {guest.remark}" if guest else _REMARKS,
    )


DISPLAYED = {
    "Throughput": ("throughput_",),
    "Goodput": ("goodput_",),
    "Jitter": ("iat_", "jitter_"),
    "SEQ_ERRORS": ("seq_", "loss_"),
}
"""What the names of the fields begin with that a configuration file can switch off."""


def without(schema: Schema, hidden: frozenset[str]) -> Schema:
    """SCHEMA without the fields that belong to HIDDEN, keys of `DISPLAYED` and others."""
    gone = tuple(start for name in hidden for start in DISPLAYED.get(name, ()))
    kept = tuple(f for f in schema.fields if not (gone and f.name.startswith(gone)))
    return replace(schema, fields=kept)


def schema_of(settings: FlowSettings) -> Schema:
    """The records of `vtap_flow` that SETTINGS ask for, with the names of their interfaces."""
    schema = without(
        flow_schema(
            settings.key,
            bits=settings.bits,
            sequence=settings.sequences,
            deviation=settings.expected_gap is not None,
            smoothed=settings.smoothed_jitter,
            jitter=settings.jitter,
            guest=settings.guest,
        ),
        settings.hidden,
    )
    _, shift = limits(settings)
    return replace(schema, names=_with_interfaces(schema, settings), coarse_shift=shift)


def errors_of(settings: FlowSettings) -> Schema | None:
    """The records of `vtap_sequence_error`, where SETTINGS ask for them."""
    if not settings.sequences:
        return None
    schema = event_schema(settings.key)
    return replace(schema, names=_with_interfaces(schema, settings))


def _with_interfaces(schema: Schema, settings: FlowSettings) -> dict[str, Mapping[int, str]]:
    return {**schema.names, "interface": {i.index: i.name for i in settings.interfaces}}


def event_schema(key: Sequence[str] = KEY_FIELDS[:5]) -> Schema:
    """The records of `vtap_sequence_error`; KEY as for `flow_schema`."""
    kind = Field("kind", Role.TAG, Kind.LABEL, ("kind",), "", "what is wrong")
    return Schema(
        measurement="vtap_sequence_error",
        doc=(
            "One record per sequence error, at most `--max-events` a second; only where sequence "
            "numbers are checked."
        ),
        layout=flow_layouts(key).event,
        fields=(
            *sorted((*_tags(key), kind), key=lambda tag: tag.name),
            Field(
                "expected",
                Role.VALUE,
                Kind.COUNT,
                ("expected",),
                "number",
                "that would have been in order",
            ),
            Field("received", Role.VALUE, Kind.COUNT, ("received",), "number", "that came"),
            Field(
                "distance",
                Role.VALUE,
                Kind.SIGNED,
                ("distance",),
                "numbers",
                "from the number before; TCP: bytes from the expected one",
            ),
            Field("time", Role.TIME, Kind.TIME, ("time",), "ns", "of the packet, UTC"),
        ),
        names=_NAMES | {"kind": dict(enumerate(EVENT_KINDS))},
    )
