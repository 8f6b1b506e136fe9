# SPDX-License-Identifier: Apache-2.0
"""Kafka: a message per record, a topic per measurement, the series as key.

See: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from trapstream_vtap.credentials import read_file
from trapstream_vtap.errors import UsageError
from trapstream_vtap.sinks import series
from trapstream_vtap.sinks.payload import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError, Message, Producer

    from trapstream_vtap.settings.address import Address
    from trapstream_vtap.sinks.payload import Payload

_CONNECT_TRIES = 5  # of a second each
_CLOSE_SECONDS = 1.0
_POLL_SECONDS = 0.1
_DOWN_SECONDS = 10.0
"""A cluster that is back so soon gets what it was being sent from librdkafka, nothing twice."""

_DEFAULTS = {
    "client.id": "vtap-stream",
    "compression.type": "lz4",
    "enable.idempotence": "true",
    "log_level": "0",  # what there is to say, `error_cb` says
    "message.timeout.ms": "60000",  # an unknown topic is refused after half of that
    "queue.buffering.max.kbytes": "65536",
    "queue.buffering.max.messages": "100000",
}
_KEY = "ssl.key.location"
_OURS = ("bootstrap.servers", "delivery.report.only.error")
_REFUSALS = (
    *("MSG_SIZE_TOO_LARGE", "INVALID_MSG", "INVALID_MSG_SIZE", "RECORD_LIST_TOO_LARGE"),
    *("TOPIC_EXCEPTION", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_OR_PART"),
    *("TOPIC_AUTHORIZATION_FAILED", "POLICY_VIOLATION", "INVALID_RECORD", "INVALID_TIMESTAMP"),
)
"""Errors that another attempt would meet again."""
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,200}")  # 249 with the measurement's name


class KafkaSink:
    """An idempotent producer for one cluster.

    Args:
        address: Some of its brokers; the path is what the topics' names begin with.
        config_file: Properties of librdkafka, one `name=value` a line; None: none.
        read: Reads that file.

    Raises:
        UsageError: confluent-kafka is missing, or it does not take a property.
    """

    def __init__(
        self,
        address: Address,
        config_file: str | None,
        read: Callable[[str], bytes] = read_file,
    ) -> None:
        self._address = address
        self._prefix = _prefix(address)
        self._config_file, self._read = config_file, read
        try:
            import confluent_kafka  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UsageError(
                f"{address}: confluent-kafka is missing from this Python: install "
                "trapstream-vtap[kafka], or confluent-kafka by itself."
            ) from error
        self._library = confluent_kafka
        self._refusals = {getattr(confluent_kafka.KafkaError, name) for name in _REFUSALS}
        self._properties = self._checked()
        self._given_up = threading.Event()
        self._producer: Producer | None = None
        self._batches: deque[_Batch] = deque()
        self._unfinished: deque[_Batch] = deque()  # of the producer before this
        self._failure = ""
        self._trouble = "no broker answers"
        self._down_since: float | None = None

    def __str__(self) -> str:
        """The collector as messages name it."""
        return str(self._address)

    def renew(self) -> bool:
        """Read the properties again, for the next producer; whether they have changed.

        Raises:
            UsageError: They cannot be used; the old ones stay.
        """
        before, self._properties = self._properties, self._checked()
        return before != self._properties

    def _checked(self) -> dict[str, str]:
        """The properties as the file says them now.

        Raises:
            UsageError: They cannot be used.
        """
        own = _properties(self._config_file, self._read) if self._config_file else {}
        if _KEY in own:  # librdkafka would open it as `--user`
            path = own.pop(_KEY)
            try:
                own["ssl.key.pem"] = self._read(path).decode()
            except (OSError, UnicodeDecodeError) as error:
                why = getattr(error, "strerror", None) or "is no PEM file"
                raise UsageError(
                    f"--kafka-config {self._config_file}: {_KEY} {path}: {why}."
                ) from error
        properties = {**_DEFAULTS, **own}
        try:
            self._make(properties)  # says what is wrong, and connects to nothing
        except (self._library.KafkaException, TypeError, ValueError) as error:
            raise UsageError(f"--kafka-config {self._config_file}: {_reason(error)}.") from error
        return properties

    def _make(self, properties: dict[str, str], hosts: str = "") -> Producer:
        options: dict[str, Any] = {**properties, "bootstrap.servers": hosts}
        return self._library.Producer({**options, "error_cb": self._on_error})

    def open(self) -> None:
        """Make a producer, and see that a broker answers.

        Raises:
            OSError: None does.
        """
        self.close()
        self._unfinished.extendleft(reversed(self._batches))
        self._batches.clear()
        self._failure, self._down_since = "", None
        with suppress(UsageError):  # they may have been renewed; if not rightly, the old ones stay
            self.renew()
        hosts = ",".join(_host(*host) for host in self._address.hosts)
        try:
            producer = self._make(self._properties, hosts)
        except self._library.KafkaException as error:  # a file that `--user` may not read
            raise ConnectionError(0, _reason(error)) from error
        for attempt in range(_CONNECT_TRIES):
            try:
                producer.list_topics(timeout=1)
                break
            except self._library.KafkaException as error:
                with suppress(self._library.KafkaException):
                    producer.poll(0)  # `_on_error` may know more
                if attempt + 1 == _CONNECT_TRIES or self._given_up.is_set():
                    raise ConnectionError(0, self._trouble) from error
        self._down_since = None
        self._producer = producer

    def send(self, payload: Payload) -> None:
        """Hand the records of a payload to the producer, but for those that have arrived before.

        Raises:
            OSError: A message came to nothing, or there is no room for more, and no end to it.
        """
        producer = self._connected()
        while self._unfinished and self._unfinished[0].payload is not payload:
            self._unfinished.popleft()  # given up meanwhile
        batch = self._unfinished.popleft() if self._unfinished else _Batch(payload)
        self._batches.append(batch)
        topic = ""
        for number, (key, value, ms) in enumerate(series.records(payload.data)):
            topic = topic or self._prefix + series.measurement(key)  # a payload has one measurement
            while not batch.is_done(number):
                report = partial(self._on_report, batch, number)
                try:
                    producer.produce(topic, value, key, on_delivery=report, timestamp=ms)
                    break
                except BufferError:
                    if self._given_up.is_set():
                        raise TimeoutError("the brokers do not take more") from None
                    self._poll(_POLL_SECONDS)
                except self._library.KafkaException as error:
                    report(error.args[0], None)
                    self._poll(0)

    def settled(self) -> list[Refusal | None]:
        """One for each payload of which every message has been reported since the last call.

        Raises:
            OSError: A message came to nothing, or no broker has been there for a while.
        """
        self._poll(0)
        outcomes = []
        while self._batches and not self._batches[0].waiting:
            outcomes.append(self._batches.popleft().outcome())
        return outcomes

    def check(self) -> None:
        """Notice that no broker has been there for a while.

        Raises:
            OSError: It is so.
        """
        self._poll(0)

    def give_up(self) -> None:
        """Have a `send` that waits for room raise instead."""
        self._given_up.set()

    def close(self) -> None:
        """Let the producer go, with all messages that it has not been able to deliver."""
        producer, self._producer = self._producer, None
        if producer:
            producer.purge()
            with suppress(self._library.KafkaException):  # it has failed for good, as may be
                producer.flush(_CLOSE_SECONDS)  # the reports of what arrived, and was purged

    def _poll(self, seconds: float) -> None:
        """Serve reports and errors, and raise what they say."""
        try:
            self._connected().poll(seconds)
        except self._library.KafkaException as error:  # the producer has failed for good
            raise ConnectionError(0, _reason(error)) from error
        if self._failure:
            raise ConnectionError(0, self._failure)
        if self._down_since and time.monotonic() - self._down_since > _DOWN_SECONDS:
            raise ConnectionError(0, self._trouble)

    def _on_report(
        self, batch: _Batch, number: int, error: KafkaError | None, _message: Message | None
    ) -> None:
        if error is None:
            batch.done(number)
            self._down_since = None
        elif error.code() in self._refusals:
            batch.refuse(number, error.str())
        else:
            self._failure = self._failure or error.str()

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = error.str()
        elif error.code() == self._library.KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - public
            self._down_since = self._down_since or time.monotonic()
        else:
            self._trouble = error.str()

    def _connected(self) -> Producer:
        if not self._producer:
            raise ConnectionError("not connected")
        return self._producer


class _Batch:
    """The messages of one payload, and what was reported of them."""

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.waiting = payload.data.count(b"\n")
        self._done = bytearray(self.waiting)
        self._refused: list[int] = []
        self._why = ""

    def is_done(self, number: int) -> bool:
        """Whether message NUMBER needs no attempt any more."""
        return bool(self._done[number])

    def done(self, number: int) -> None:
        """Message NUMBER has arrived."""
        self._done[number] = 1
        self.waiting -= 1

    def refuse(self, number: int, why: str) -> None:
        """Message NUMBER will never be taken."""
        self.done(number)
        self._refused.append(number)
        self._why = self._why or why

    def outcome(self) -> Refusal | None:
        """What became of the payload."""
        if not self._refused:
            return None
        lines = self.payload.data.splitlines()
        refused = [lines[number] for number in self._refused]
        octets = sum(len(line) + 1 for line in refused)
        return Refusal(self.payload.part(self._refused), self._why, octets)


def _prefix(address: Address) -> str:
    """What the topics' names begin with."""
    name = address.path.removeprefix("/")
    if address.query or (name and not _TOPIC.fullmatch(name)):
        raise UsageError(
            f"--sink {str(address)!r}: give kafka://host:port/topic, the topic of at most 200 "
            "letters, digits, '.', '_' and '-'."
        )
    return f"{name}." if name else ""


def _host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _properties(path: str, read: Callable[[str], bytes]) -> dict[str, str]:
    """The properties in the file at PATH; no sentence shows a value, it may be a secret."""
    properties = {}
    try:
        text = read(path).decode()
    except OSError as error:
        raise UsageError(f"--kafka-config {path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--kafka-config {path}: is not UTF-8 at byte {error.start}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (word.strip() for word in line.partition("="))
        if not equals or not name:
            raise UsageError(f"--kafka-config {path}, line {number}: give name=value.")
        if name in _OURS:
            raise UsageError(f"--kafka-config {path}, line {number}: {name} cannot be set there.")
        properties[name] = value
    return properties


def _reason(error: Exception) -> str:
    """What librdkafka says of a property, without the period that some sentences have."""
    said = error.args[0] if error.args else error
    return (said.str() if hasattr(said, "str") else str(said)).strip().removesuffix(".")
