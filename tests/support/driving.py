# SPDX-License-Identifier: Apache-2.0
"""Traffic of every kind, over many sockets."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lab.traffic import Pace, icmp, tcp

if TYPE_CHECKING:
    from lab.namespace import Namespace


V4 = ("192.0.2.1", "192.0.2.2")
V6 = ("2001:db8::1", "2001:db8::2")
SOCKETS = 150  # of each family
ROUNDS = 6


def drive(sender: Namespace, receiver: Namespace) -> None:
    """Some hundred flows for a few seconds, every one with sizes of its own."""
    others = [
        threading.Thread(target=generator, args=arguments)
        for generator, arguments in (
            (tcp, (sender, receiver, *V4, Pace(60, 40, (1, 700, 1400)))),
            (tcp, (sender, receiver, *V6, Pace(60, 40, (900, 30)))),
            (icmp, (sender, *V4, Pace(50, 40, (56,)))),
            (icmp, (sender, *V6, Pace(50, 40, (8, 1000)))),
        )
    ]
    with ExitStack() as stack:
        for thread in others:
            thread.start()
            stack.callback(thread.join)
        sockets = []
        for family, (here, there) in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
            sink = stack.enter_context(receiver.socket(family, socket.SOCK_DGRAM))
            sink.bind((there, 7000))
            for _ in range(SOCKETS):
                source = stack.enter_context(sender.socket(family, socket.SOCK_DGRAM))
                source.bind((here, 0))
                source.connect((there, 7000))
                sockets.append(source)
        for _ in Pace(ROUNDS, 3).sizes():
            for number, source in enumerate(sockets):
                for _ in range(1 + number % 4):
                    source.send(bytes(number))
