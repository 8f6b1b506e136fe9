# SPDX-License-Identifier: Apache-2.0
"""Captures what passes an interface into a pcap file with nanosecond times, by tcpdump."""

import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.namespace import Namespace

DEADLINE = 20.0  # seconds to start, and to write down what was seen
BUFFER = 65536  # KiB that the kernel holds for tcpdump


class Capture:
    """A running tcpdump; a context manager that is capturing from its first line to its last.

    Args:
        namespace: Where the interface is.
        ifname: Interface name.
        path: The pcap file to write (nanosecond format).
        snaplen: Bytes to keep of each packet; the original length is always kept.
        filter: In tcpdump's language, but not `inbound` or `outbound`: libpcap also runs a filter
            itself on the first packets, and does not know their direction there.
    """

    def __init__(
        self,
        namespace: Namespace,
        ifname: str,
        path: Path,
        *,
        snaplen: int = 128,
        filter: str = "",  # noqa: A002 - the word that tcpdump uses
    ) -> None:
        self._process = namespace.popen(
            *("tcpdump", "-n", "-i", ifname, "-s", str(snaplen), "-w", str(path)),
            *("-U", "--immediate-mode", "-B", str(BUFFER), "--time-stamp-precision=nano"),
            *("-Z", "root", filter),  # as another user it would not be killed with its parent
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said = ""
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait_for(r"listening on")
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error:
            self._kill()
        elif self._process.returncode is None:
            self.stop()

    def stop(self) -> int:
        """Ends the capture when everything that passed before is in the file.

        Returns:
            How many packets the file holds.

        Raises:
            RuntimeError: When the kernel dropped packets before tcpdump could take them.
        """
        try:
            # At SIGUSR1 it says how far it is; at SIGINT it leaves what it has not read yet.
            deadline = time.monotonic() + DEADLINE
            while True:
                self._said = ""
                self._process.send_signal(signal.SIGUSR1)
                match = self._wait_for(
                    r"(\d+) packets? captured, (\d+) packets? received by filter"
                )
                if match[1] == match[2]:
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"tcpdump does not keep up: {match[0]}")
                time.sleep(0.01)
            self._process.send_signal(signal.SIGINT)
            match = self._wait_for(
                r"(\d+) packets? captured(?s:.*?)(\d+) packets? dropped by kernel"
            )
            self._process.wait(DEADLINE)
        finally:
            self._kill()
        if match[2] != "0":
            raise RuntimeError(f"the capture is not complete: {match[0]}")
        return int(match[1])

    def _read(self) -> None:
        assert self._process.stderr  # noqa: S101 - a pipe
        with self._process.stderr as stream:
            for line in stream:
                with self._news:
                    self._said += line
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _wait_for(self, pattern: str) -> re.Match[str]:
        with self._news:
            found = self._news.wait_for(
                lambda: re.search(pattern, self._said) or self._ended, DEADLINE
            )
        if not isinstance(found, re.Match):
            raise RuntimeError(  # noqa: TRY004 - not a wrong type, but no match
                f"tcpdump did not say “{pattern}”, but:\n{self._said}"
            )
        return found

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
