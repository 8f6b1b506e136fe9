# SPDX-License-Identifier: Apache-2.0
"""Kafka brokers: librdkafka's own mock cluster, in a process of its own, and what is in it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

if TYPE_CHECKING:
    from confluent_kafka import Message

    from lab.namespace import Namespace

DEADLINE = 20.0  # seconds
_CLUSTER = """
import sys
from confluent_kafka import Producer
kept = Producer({"test.mock.num.brokers": int(sys.argv[1]), "log_level": 0})
brokers = kept.list_topics(timeout=10).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
"""


class Cluster:
    """Brokers on the loopback interface of a namespace; topics are made when they are written."""

    def __init__(self, namespace: Namespace, brokers: int = 1) -> None:
        self._namespace = namespace
        self.process = namespace.popen(
            *(sys.executable, "-c", _CLUSTER, str(brokers)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hosts: str = self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def messages(self) -> list[Message]:
        """Every message in every topic, in order within a partition."""
        return messages(self._namespace, self.hosts)


def messages(namespace: Namespace, hosts: str, more: dict[str, str] | None = None) -> list[Message]:
    """Every message in every topic of a cluster, in order within a partition.

    MORE are properties of librdkafka.
    """
    with namespace.entered():
        consumer = Consumer(
            {
                "bootstrap.servers": hosts,
                "group.id": "test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
                **(more or {}),
            }
        )
    topics = consumer.list_topics(timeout=DEADLINE).topics.values()
    unread = {(topic.topic, number) for topic in topics for number in topic.partitions}
    consumer.assign([TopicPartition(*part, OFFSET_BEGINNING) for part in unread])
    found = []
    deadline = time.monotonic() + DEADLINE
    while unread:
        assert time.monotonic() < deadline, unread
        message = consumer.poll(0.1)
        if message is None:
            continue
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            unread.discard((message.topic(), message.partition()))
        else:
            found.append(message)
    consumer.close()
    return found
