"""A life as its parent sees it: a process, and the lines that it has told so far."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any


class Child:
    """A forked process that tells lines of JSON.

    Args:
        path: File of its lines.
        work: What it does; does not return.
    """

    def __init__(self, path: str, work: Callable[[], None]) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.status: int | None = None
        self.began = time.monotonic()
        open(path, "w").close()
        self.pid = os.fork()
        if self.pid == 0:
            work()
        self._file = open(path, "rb")  # noqa: SIM115  as long as the child lives
        self._rest = b""

    def poll(self, options: int = os.WNOHANG) -> list[dict[str, Any]]:
        """Look whether it has ended, and return the lines that are new."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, options)
            self.status = status if pid and not os.WIFSTOPPED(status) else None
        if self._file.closed:
            return []
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        new = [json.loads(line) for line in whole]
        self.lines += new
        if self.status is not None:
            self._file.close()
        return new

    def signal(self, number: int) -> None:
        """Send it a signal, if it is alive."""
        if self.status is None:
            os.kill(self.pid, number)

    def stop(self) -> list[dict[str, Any]]:
        """Let it stand still; return the lines that are new."""
        self.signal(signal.SIGSTOP)
        return self.poll(os.WUNTRACED)

    def said(self, name: str) -> int:
        """Return how many lines say something."""
        return sum(name in line for line in self.lines)

    @property
    def place(self) -> str:
        """What it was doing last."""
        return next((line["at"] for line in reversed(self.lines) if "at" in line), "starting")
