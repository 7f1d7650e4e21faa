"""What tells a run to end, a signal or a call, and the exception by which it leaves when it has saved.

    watch = PreemptionWatch(["SIGTERM"])
    watch.begin(lambda frame: True)     # the handlers that were there are called as well
    ...
    if watch.request is not None:       # asked between two steps; see leaving.py
        ...
    watch.end()                         # and are put back

A handler runs between any two instructions of the main thread, so it does nothing but note the signal: it takes no lock
and writes no log.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["Preempted", "PreemptionRequest", "PreemptionWatch", "request_preemption"]

_log = logging.getLogger("ckptkit")

# Those that are watching. No lock: it may be asked for in a signal handler, by a thread that holds it.
_watches: set[weakref.ref[PreemptionWatch]] = set()


class Preempted(SystemExit):
    """A run was told to end, has saved, and leaves: with exit code 143 if nobody catches it.

    Attributes:
        code: The exit code.
        cause: The signal's name, or ``"request_preemption"``.
        step: Steps done.
        checkpoint: Prefix of the newest complete checkpoint, None if there is none. It is that of ``step`` unless the
            save failed, or the time ran out, which is logged.

    Example:
        >>> told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ckptkit.request_preemption())
        >>> try:
        ...     history = model.fit(x, y, verbose=0, callbacks=[ckptkit.TrainingCheckpoint("runs/told"), told])
        ... except ckptkit.Preempted as preempted:
        ...     print(preempted)
        preempted by request_preemption at step 1; newest checkpoint runs/told/ckpt-1
    """

    def __init__(self, code: int = 143, cause: str = "SIGTERM", step: int = 0, checkpoint: str | None = None) -> None:
        super().__init__(code)
        self.cause = cause
        self.step = step
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"preempted by {self.cause} at step {self.step}; newest checkpoint {self.checkpoint or 'none'}"


@dataclass(frozen=True)
class PreemptionRequest:
    """What told a run to end.

    Attributes:
        cause: The signal's name, or ``"request_preemption"``.
        came_at: When, by ``time.monotonic()``.
    """

    cause: str
    came_at: float


class PreemptionWatch:
    """Notes the first signal that comes while something is running.

    The handler that was there before is called as well, if it is a function other than Python's own for Ctrl-C. What it
    raises is kept, to be raised when all is saved.

    Args:
        signals: Names of signals.
        grace_secs: Seconds from the signal until the run has to have left, None for no limit.
        code: Exit code to leave with.

    Attributes:
        request: The first signal or call of :func:`request_preemption`, None as long as there is none.
        raised: What a previous handler raised first, None if none did.
    """

    def __init__(self, signals: Sequence[str], *, grace_secs: float | None = None, code: int = 143) -> None:
        self.grace_secs = grace_secs
        self.code = code
        self.request: PreemptionRequest | None = None
        self.raised: BaseException | None = None
        self._signals = tuple(signals)
        self._is_running: Callable[[FrameType | None], bool] = _nothing_is
        self._is_watching = self._is_heeded = False
        self._previous: dict[int, Any] = {}
        self._reference: weakref.ref[PreemptionWatch] | None = None

    def begin(self, is_running: Callable[[FrameType | None], bool]) -> None:
        """Watch from now on.

        Where signals cannot be watched, that is logged with what to do instead.

        Args:
            is_running: Says of the frame that a signal interrupts whether what is to be saved is still running. A
                ``fit`` that ends by an exception tells nobody, and a signal that comes later is none of its business.
        """
        self.end()
        self.request = self.raised = None
        self._is_running, self._is_watching, self._is_heeded = is_running, True, False
        self._reference = weakref.ref(self, _watches.discard)
        _watches.add(self._reference)
        if self._signals and not _in_main_thread():
            _log.warning(
                "%s: not watched, for this run is in the thread %s, and Python handles signals in the main thread "
                "alone. Let that ask for the save: signal.signal(signal.%s, lambda *_: ckptkit.request_preemption()).",
                ", ".join(self._signals),
                threading.current_thread().name,
                self._signals[0],
            )
            return
        for name in self._signals:
            self._install(name)

    def end(self) -> None:
        """Watch no longer, and put back the handlers that were there, but for those that were replaced meanwhile.

        A signal that came and was not heeded goes where it would have gone without us.
        """
        if not self._is_watching:
            return
        self._is_watching, self._is_running = False, _nothing_is
        if self._reference is not None:
            _watches.discard(self._reference)
        if not _in_main_thread():  # our handlers are there, and hand on what comes
            return
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        if self.request is not None and not self._is_heeded:
            self._hand_on(self.request.cause)

    def heed(self) -> None:
        """Watch no longer, for the run leaves as it was told to; so do those around it, a loop around a fit."""
        for watch in _watching():
            watch._is_heeded = True
        self.end()

    @property
    def secs_left(self) -> float | None:
        """What is left of the time of grace, at least 0; None if there is no limit to it."""
        if self.request is None or self.grace_secs is None:
            return None
        return max(0.0, self.request.came_at + self.grace_secs - time.monotonic())

    def note(self, cause: str) -> None:
        """Note that the run is to end, unless that is known."""
        if self.request is None:
            self.request = PreemptionRequest(cause, time.monotonic())

    def _install(self, name: str) -> None:
        number = signal.Signals[name]
        _end_those_of_the_past(number)
        previous = signal.getsignal(number)
        if previous is None:
            _log.warning(
                "%s: not watched, for its handler was not installed by Python, which could not put it back. "
                "Let that program ask for the save with ckptkit.request_preemption().",
                name,
            )
            return
        self._previous[number] = previous  # first of all: a signal may come at once
        signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        if self._is_running(frame):
            self.note(signal.Signals(number).name)
            if callable(previous) and previous is not signal.default_int_handler:
                try:
                    previous(number, frame)
                except BaseException as error:  # whatever it is, it may wait until all is saved
                    self.raised = self.raised or error
        elif signal.getsignal(number) == self._handle:
            self.end()
            signal.signal(number, previous)
            signal.raise_signal(number)
        elif callable(previous):  # we were called by a handler that came after us
            previous(number, frame)

    def _hand_on(self, name: str) -> None:
        """Let a signal that nobody has heeded do what it does, unless a previous handler has seen it."""
        if self.raised is not None:
            _log.error("the handler of %s raised %r, and the run ended before it could be told.", name, self.raised)
        elif name in self._signals and signal.getsignal(signal.Signals[name]) is signal.SIG_DFL:
            signal.raise_signal(signal.Signals[name])


def request_preemption() -> None:
    """Let every run in this process save at its next batch, and leave with ``Preempted``.

    As a signal does, but from any thread: for a notebook, for what asks a cloud's metadata service, for a run that is
    not in the main thread. Returns at once. Runs are calls of ``fit`` with a ``TrainingCheckpoint``, and loops over a
    ``TrainingLoop``; where there is none, nothing happens.

    Example:
        >>> timer = threading.Timer(3600, ckptkit.request_preemption)  # before the machine is taken away
        >>> timer.start()
        >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[ckptkit.TrainingCheckpoint("runs/digits")])
        >>> timer.cancel()
    """
    for watch in _watching():
        watch.note("request_preemption")


def _watching() -> list[PreemptionWatch]:
    return [watch for watch in (reference() for reference in tuple(_watches)) if watch is not None]


def _end_those_of_the_past(number: int) -> None:
    """Take out handlers of runs that ended by an exception."""
    while True:
        watch = getattr(signal.getsignal(number), "__self__", None)
        if not isinstance(watch, PreemptionWatch) or watch._is_running(sys._getframe(1)):
            return
        watch.end()
        if signal.getsignal(number) == watch._handle:
            signal.signal(number, watch._previous[number])


def _nothing_is(frame: FrameType | None) -> bool:
    return False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
