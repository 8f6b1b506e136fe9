# SPDX-License-Identifier: Apache-2.0
"""From records to every sink: rendered once for all sinks that take the same payloads."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trapstream_vtap import formats, places, privileges
from trapstream_vtap.clock import NS
from trapstream_vtap.credentials import Reader
from trapstream_vtap.errors import RunError, UsageError
from trapstream_vtap.ledger import Booked
from trapstream_vtap.settings.address import Address
from trapstream_vtap.settings.core import JSON_LINE_LIMIT
from trapstream_vtap.sinks import FileSink, Pace, Payload, Sender, make_sink
from trapstream_vtap.spool import Spool, directory_name
from trapstream_vtap.words import amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from trapstream_vtap._native import Plan, Tallies
    from trapstream_vtap.schema import Batch, Schema
    from trapstream_vtap.settings.core import Core

_NO_LIMIT = 1 << 62
_MOST_PLANS = 32


@dataclass(frozen=True)
class Shape:
    """What payloads are like: their format, and the most records and bytes in one."""

    form: formats.Format
    most_records: int
    most_bytes: int


def shape(address: Address, settings: Core) -> Shape:
    """Of the payloads for the sink at ADDRESS.

    Raises:
        UsageError: It does not take the format.
    """
    if address.scheme in ("http", "https"):
        if settings.format != "influx":
            raise UsageError(
                f"{address}: InfluxDB's HTTP interface takes line protocol only: leave -f "
                f"{settings.format} out, and run another vtap-stream for the {settings.format}."
            )
        from trapstream_vtap.sinks import http  # noqa: PLC0415 - see trapstream_vtap.sinks

        most_records = min(settings.batch_size, http.MOST_LINES)
        return Shape(formats.INFLUX, most_records, http.MOST_BYTES)
    stream = address.scheme in ("kafka", "file", "-")
    most_bytes = settings.max_datagram if address.scheme == "udp" else _NO_LIMIT
    if settings.format != "json":
        return Shape(formats.INFLUX, settings.batch_size, most_bytes)
    json = formats.JSON_DATAGRAM if address.scheme == "udp" else formats.JSON
    form = replace(formats.JSON_LINES if stream else json, rfc3339=settings.timestamp == "rfc3339")
    return Shape(
        form, settings.batch_size, most_bytes if stream else min(most_bytes, JSON_LINE_LIMIT)
    )


class Delivery:
    """All sinks of a run, each with a queue and a thread of its own.

    Args:
        settings: Which sinks, and what of them.
        report: Takes a sentence for the person at the terminal.
        end: Ends the run, because a sink has gone for good.

    Raises:
        UsageError: An address says what its kind of sink does not know.
        RunError: A spool cannot be had.
    """

    def __init__(
        self, settings: Core, report: Callable[[str], None], end: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._report = report
        self._end = end
        self._addresses = (*settings.sinks, *((_log_file(),) if settings.log_data else ()))
        self.device = settings.device or socket.gethostname()
        """What the tag says."""
        self._plans: dict[Schema, dict[Shape, Plan]] = {}
        self._shapes = [shape(address, settings) for address in self._addresses]
        self.credentials = Reader()
        """Reads the files that sinks show or trust."""
        self._sinks = [make_sink(a, settings, self.credentials) for a in self._addresses]
        self._spools = [self._spool(address) for address in self._addresses]
        self._senders: list[Sender] = []
        self._closed = False
        self._by_shape: dict[Shape, list[Sender]] = {}

    def _spool(self, address: Address) -> Spool | None:
        """Where the sink at ADDRESS keeps what it cannot deliver.

        What was rendered in one format is not sent in another.
        """
        settings = self._settings
        if not settings.spool:
            return None
        try:
            there = settings.spool.parent.is_dir()
        except OSError as error:
            raise UsageError(f"--spool {settings.spool}: {error.strerror}.") from error
        if not there:
            raise UsageError(f"--spool {settings.spool}: there is no {settings.spool.parent}.")
        self._check_reach(settings.spool.parent, os.X_OK)
        directory = settings.spool / directory_name(f"{address} {settings.format}")
        for path in (settings.spool, directory):
            try:
                made = places.make_directory(path, settings.user)
            except OSError as error:
                raise RunError(
                    f"Cannot make {path} ({error.strerror}): make it for {settings.user}, with "
                    f"install -d -m 700 -o {settings.user} {settings.spool}."
                ) from error
            if made and path == settings.spool:
                self._report(f"made the directory {path}, for {settings.user}")
        self._check_reach(directory, os.R_OK | os.W_OK | os.X_OK)
        with privileges.acting(settings.user):
            return Spool(directory, settings.spool_size, self._report)

    def _check_reach(self, directory: Path, mode: int) -> None:
        """See that the user as whom we shall run may do MODE with DIRECTORY, which is there.

        Raises:
            RunError: It is out of reach.
        """
        user = self._settings.user
        with privileges.acting(user):
            if not os.access(directory, mode, effective_ids=True):
                raise RunError(
                    f"{user} may not come to {directory}: let that user reach it and the "
                    "directories above, or say --user root."
                )

    def check(self, schemas: Iterable[Schema]) -> None:
        """See that a record of any of SCHEMAS fits into a payload.

        Raises:
            UsageError: It could be longer.
        """
        for schema in schemas:
            for shape in dict.fromkeys(self._shapes):
                _check_room(shape, formats.longest(shape.form, schema, self.device))

    @property
    def names(self) -> list[str]:
        """Of all sinks, as `--sink` says them."""
        return [str(address) for address in self._addresses]

    def try_files(self) -> None:
        """See that files may be written as the user who we are by now.

        Raises:
            RunError: They may not.
        """
        for sink in self._sinks:
            if isinstance(sink, FileSink):
                sink.try_out(self._settings.user)

    def start(self) -> None:
        """Begin to feed the sinks; after every check has been made."""
        grouped = defaultdict(list)
        parts = zip(self._addresses, self._sinks, self._shapes, self._spools, strict=True)
        for address, sink, shape, spool in parts:
            sender = Sender(
                sink,
                self._settings.max_memory,
                self._report,
                pace=Pace(self._settings.interval / NS) if address.scheme == "udp" else None,
                spool=spool,
                end=self._end,
            )
            self._senders.append(sender)
            grouped[shape].append(sender)
        self._by_shape = dict(grouped)
        self._awaited = list(self._senders)

    def pace(self, interval: int) -> None:
        """From now on, records come every INTERVAL ns."""
        for sender in self._senders:
            sender.keep_pace(interval / NS)

    def name_device(self, device: str) -> None:
        """From now on the tag says DEVICE."""
        self.device = device
        self._plans.clear()

    def take(self, batch: Batch) -> None:
        """BATCH into every sink's queue, rendered once for all that take the same payloads."""
        for shape, plan in self._plans_of(batch.schema).items():
            payloads, (_, too_large) = plan.render(batch.data, shape.most_records, shape.most_bytes)
            senders = self._by_shape[shape]
            for data, weights, tallies in payloads:
                payload = (
                    Payload(data, _booked(tallies), weights=weights)
                    if batch.schema.booked
                    else Payload(data)
                )
                for sender in senders:
                    sender.put(payload)
            if batch.schema.booked and too_large:
                for sender in senders:
                    sender.account.handed(_booked(too_large))
                    sender.account.lost("too_large", _booked(too_large))

    def _plans_of(self, schema: Schema) -> dict[Shape, Plan]:
        """How records of SCHEMA are rendered; made once, and forgotten after many others."""
        if schema not in self._plans:
            while len(self._plans) >= _MOST_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[schema] = {
                shape: formats.compile_plan(shape.form, schema, self.device)
                for shape in self._by_shape
            }
        return self._plans[schema]

    def accounts(self) -> dict[str, dict[str, int]]:
        """What became of the records at each sink, by name; the counts of `SINK_ROWS`."""
        senders = zip(self._addresses, self._senders, strict=False)
        return {str(address): sender.values() for address, sender in senders}

    def drain(self, seconds: float) -> None:
        """Wait until every sink has all, at most so long; once late, a sink is not waited for."""
        deadline = time.monotonic() + seconds
        for sender in self._senders:
            sender.hurry()
        self._awaited = [
            sender for sender in self._awaited if sender.drain(max(deadline - time.monotonic(), 0))
        ]

    def renew(self) -> None:
        """Have all sinks read their credentials again."""
        for sender in self._senders:
            sender.renew()

    def close(self) -> None:
        """Stop at once; what is left goes to the spool, or is booked as lost.

        Once is enough, and more does no harm; also before anything has started.
        """
        if not self._closed:
            self._closed = True
            for sender in self._senders:
                sender.close()
            for spool in filter(None, self._spools):
                spool.close()

    def up(self) -> dict[str, bool]:
        """Whether each sink can deliver, by name."""
        return {
            str(address): sender.up
            for address, sender in zip(self._addresses, self._senders, strict=False)
        }

    def progress(self) -> str:
        """How far the sinks are, in a few words."""
        accounts = [sender.account.values() for sender in self._senders]
        return "; ".join(
            f"{amount(values['records_delivered'], 'record')} sent, "
            f"{values['records_queued']} pending, "
            f"{values['records_lost']} lost" + _spooled(values) + self._of(sender)
            for sender, values in zip(self._senders, accounts, strict=True)
        )

    def summaries(self) -> Sequence[str]:
        """A sentence per sink: records sent, and lost by reason."""
        return [self._summary(sender) for sender in self._senders]

    def _summary(self, sender: Sender) -> str:
        values = sender.account.values()
        losses = ", ".join(
            f"{reason} {booked.records} ({amount(booked.packets, 'packet')})"
            for reason, booked in sorted(sender.account.losses().items())
        )
        delivered, packets = values["records_delivered"], values["packets_delivered"]
        return (
            f"{amount(delivered, 'record')} sent ({amount(packets, 'packet')}), "
            f"{amount(values['records_lost'], 'record')} lost"
            + (f": {losses}" if losses else "")
            + _spooled(values)
            + self._of(sender)
        )

    def in_vain(self) -> bool:
        """Whether there were records, and none of them went anywhere."""
        accounts = [sender.account.values() for sender in self._senders]
        return any(values["records_handed"] for values in accounts) and not any(
            values["records_delivered"] or values["records_spooled"] for values in accounts
        )

    def _of(self, sender: Sender) -> str:
        """Which sink it is, where there are several."""
        if len(self._senders) == 1:
            return ""
        return f" ({self._addresses[self._senders.index(sender)]})"


def _check_room(shape: Shape, longest: int) -> None:
    """See that a record of LONGEST bytes fits into a payload of SHAPE.

    Raises:
        UsageError: It does not.
    """
    if longest > shape.most_bytes:
        raise UsageError(
            f"--max-datagram {shape.most_bytes} is too small: with these options a record may take "
            f"{longest} bytes."
        )


def _spooled(values: Mapping[str, int]) -> str:
    """What waits on disk, in a few words; nothing, if nothing does."""
    records, packets = values["records_spooled"], values["packets_spooled"]
    if not records:
        return ""
    return f", {amount(records, 'record')} spooled ({amount(packets, 'packet')})"


def _booked(tallies: Tallies) -> Booked:
    """What a payload holds, of all interfaces together."""
    return Booked(sum(t[0] for t in tallies.values()), sum(t[1] for t in tallies.values()))


def _log_file() -> Address:
    """Where this process logs its records, if `LOG_DATA` is on: one file for each process."""
    begun = time.strftime("%Y%m%d-%H%M%S")
    return Address("file", path=str(Path(f"vtap-stream-{begun}-{os.getpid()}.log").absolute()))
