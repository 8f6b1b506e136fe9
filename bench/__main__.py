# SPDX-License-Identifier: Apache-2.0
"""`make bench`: what measuring costs, as ratios within one run, for docs/performance.md."""

from __future__ import annotations

import platform

from bench import (
    delivery,
    drops,
    hooks,
    latency,
    packets,
    records,
    rtt,
    rules,
    scrapes,
    sequence,
    startup,
    udp,
)

PARTS = (
    *(packets, rules, sequence, hooks, records, scrapes, startup, delivery, drops, udp),
    *(latency, rtt),
)


def main() -> None:
    """Run all parts."""
    print(f"Kernel {platform.release()}, Python {platform.python_version()}, {_processor()}\n")
    for part in PARTS:
        print(f"## {part.TITLE}\n")
        part.main()
        print(flush=True)


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="ascii") as info:  # noqa: PTH123 - one line of a file
        return next(
            line.partition(":")[2].strip() for line in info if line.startswith("model name")
        )


if __name__ == "__main__":
    main()
