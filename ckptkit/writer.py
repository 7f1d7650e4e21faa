"""The background thread: one save in flight, one waiting at the most.

    writer = BackgroundWriter()
    writer.submit(job)     # returns at once while a place is free, else waits for one
    writer.wait()          # until everything is written
    writer.take_errors()   # what went wrong, once

The thread waits for more: to start one keeps the caller until it runs, to wake one does not. It ends with ``close()``,
with the writer, or with the interpreter, which finishes what was submitted first; not after ``let_go()``, for a disk
may hang.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

__all__ = ["BackgroundWriter"]

_IN_FLIGHT_AND_WAITING = 2

_log = logging.getLogger("ckptkit")


class BackgroundWriter:
    """Run jobs one after the other in a thread of their own and keep their errors until somebody asks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: deque[Callable[[], object]] = deque()
        self._running = False
        self._in_flight = False
        self._errors: list[BaseException] = []
        self._is_abandoned = False
        self._is_let_go = False

    @property
    def busy(self) -> bool:
        """Whether no further job would be taken without waiting."""
        with self._changed:
            return self._unfinished() >= _IN_FLIGHT_AND_WAITING

    @property
    def is_running(self) -> bool:
        """Whether a job is under way or waits."""
        with self._changed:
            return self._running

    def submit(self, job: Callable[[], object]) -> None:
        """Queue a job; wait first while one is in flight and one is waiting."""
        with self._changed:
            self._is_let_go = False
            self._changed.wait_for(lambda: self._unfinished() < _IN_FLIGHT_AND_WAITING)
            self._jobs.append(job)
            if not self._running:
                self._running = True
                try:
                    self._thread = self._thread or ThreadPoolExecutor(1, "ckptkit-writer")
                    self._thread.submit(self._drain)
                except BaseException:
                    self._running = False
                    self._jobs.clear()
                    raise

    def wait(self, timeout_secs: float | None = None) -> bool:
        """Wait until all jobs are done; return False if the time ran out. Does not raise jobs' errors."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, 0 if self._is_let_go else timeout_secs)

    def let_go(self, exit_code: int) -> None:
        """Wait no more for the jobs there are, neither here nor when the interpreter ends.

        Args:
            exit_code: What the process ends with, at once, if the script has ended and a job has not.
        """
        self._is_let_go = True
        # As Python's own wait for such threads is: what is registered later is called first.
        threading._register_atexit(self._end_at_once, exit_code)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let the thread end when all jobs are done; a later job starts another one."""
        with self._changed:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)

    def take_errors(self) -> tuple[BaseException, ...]:
        """Return the errors of the jobs that failed since the last call, in their order."""
        if not self._errors:  # asked at every step, which must not wait for the lock
            return ()
        with self._changed:
            errors, self._errors = tuple(self._errors), []
            return errors

    def abandon(self) -> None:
        """Log the errors that nobody has asked for, and from now on each as it comes."""
        self._is_abandoned = True
        for error in self.take_errors():
            _log.error("%s", error)

    def _end_at_once(self, exit_code: int) -> None:
        if self._is_let_go and self.is_running:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # closed, perhaps, or nobody listens any more
                    stream.flush()
            os._exit(exit_code)  # nothing less ends a thread that a disk keeps

    def _unfinished(self) -> int:
        return len(self._jobs) + self._in_flight

    def _drain(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._running = False
                    self._changed.notify_all()
                    return
                job, self._in_flight = self._jobs.popleft(), True
                self._changed.notify_all()
            try:
                job()
            except BaseException as error:  # for take_errors(); a thread has nobody else to tell
                with self._changed:
                    self._errors.append(error)
                if self._is_abandoned:
                    self.abandon()
            del job  # the job holds tensors: let them go before waiting for the next one
            with self._changed:
                self._in_flight = False
                self._changed.notify_all()
